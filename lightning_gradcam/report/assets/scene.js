// What is on the page now: one run or two, the slider's position, and which maps are shown.
import {DIVERGING} from './colour.js';
import {LARGE, largestMove} from './moves.js';
import {largest, mean, valueOf} from './numbers.js';
import {positions, sameKey, shortNames, UNTRAINED} from './run.js';

export class Scene {
  // shown: [{run, pictures of its probes}]; families: for each, the runs that differ by their seed alone (or none).
  constructor(shown, families) {
    const runs = shown.map(({run}) => run);
    Object.assign(this, {runs, families, pictures: shown.map(({pictures}) => pictures)});
    this.positions = positions(runs[0], runs[1]);
    this.marks = ['A', 'B'];
    this.once = runs.every((run) => run.once);
    this.opening = this.openingPlace();
  }

  // Where the page opens: at the first run's largest change if that is large, or else at the last position.
  openingPlace() {
    const {step, value} = largestMove(this.runs[0]) ?? {};
    return value >= LARGE ? this.positions.findIndex(({a, has}) => a === step && has[0]) : this.positions.length - 1;
  }

  // Takes over what is chosen; a choice that this run does not have is ignored.
  take(wanted) {
    const view = this.once && wanted.view === 'difference' ? 'overlay' : wanted.view;
    const state = this.once ? {...wanted, show: 'cards', view} : wanted;
    const all = this.runs.flatMap((run) => run.keys);
    this.state = state;
    this.open = state.probe === '' ? undefined : this.runs[0].places.get(state.probe);
    this.at = this.placeOf(state);
    const [epoch, step = ''] = state.before.split(':');
    this.before = epoch === '' ? Math.max(0, this.at - 1) : this.placeOf({epoch, step});
    this.methods = distinct(all.map((key) => key.method));
    this.targets = distinct(all.map((key) => key.target));
    this.method = this.methods.includes(state.method) || state.method === 'all' ? state.method : this.methods[0];
    const several = this.targets.length > 2 ? this.targets[0] : 'all';
    this.target = this.targets.includes(state.target) || state.target === 'all' ? state.target : several;
    const fits = (chosen, value) => chosen === 'all' || chosen === value;
    const keys = all.filter((key) => fits(this.method, key.method) && fits(this.target, key.target));
    this.layers = distinct(keys.map((key) => key.layer));
    this.short = shortNames(this.layers);
    const chosen = state.layers.filter((layer) => this.layers.includes(layer));
    this.chosen = chosen.length ? this.layers.filter((layer) => chosen.includes(layer)) : this.layers;
    this.class = this.classNames().includes(state.class) ? state.class : '';
    this.columns = [];
    for (const key of keys) {
      if (!this.chosen.includes(key.layer) || this.columns.some((column) => sameKey(column, key))) continue;
      const places = this.runs.map((run) => run.keys.findIndex((other) => sameKey(key, other)));
      this.columns.push({...key, places, title: this.titleOf(key), dash: this.layers.indexOf(key.layer)});
    }
    this.columns.sort((x, y) => x.dash - y.dash);
    this.slices = Math.max(1, ...this.columns.map((column) => column.slices));
    // One colour and dash for each line: the layer's where each has one column.
    if (new Set(this.columns.map(({dash}) => dash)).size < this.columns.length)
      this.columns.forEach((column, i) => Object.assign(column, {dash: i}));
    const {scale, opacity, threshold} = state;
    const signed = state.signed === 'on';
    const colour = signed ? DIVERGING : state.colour;
    this.look = {colour, scale, signed, opacity: Number(opacity) / 100, threshold: Number(threshold) / 100};
  }

  titleOf({layer, method_title: method, target}) {
    const parts = [this.short.get(layer)];
    if (this.method === 'all' && this.methods.length > 1) parts.push(method);
    if (this.target === 'all' && this.targets.length > 1) parts.push(target.replace('_vs_', ' vs '));
    return parts.join(' · ');
  }

  // The columns that a run has.
  columnsOf(r) {
    return this.columns.filter((column) => column.places[r] >= 0);
  }

  // A run's mark in labels; empty if there is only one run.
  prefix(r) {
    return this.runs.length > 1 ? `${this.marks[r]} ` : '';
  }

  placeOf({epoch, step}) {
    const last = this.positions.length - 1;
    if (epoch === '') return this.opening;
    if (!Number.isFinite(Number(epoch))) return last;
    const found = this.positions.findIndex(
      (p) => entryOf(p).epoch === Number(epoch) && (step === '' || entryOf(p).step === Number(step)),
    );
    if (found >= 0) return found;
    const later = this.positions.findIndex((p) => entryOf(p).epoch > Number(epoch));
    return later < 0 ? last : Math.max(later - 1, 0);
  }

  // A position in a link; the last has no number, so that a growing run is followed.
  stateAt(place) {
    const last = this.positions.length - 1;
    if (place === last) return {epoch: this.opening === last ? '' : 'last', step: ''};
    const {epoch, step} = entryOf(this.positions[place]);
    const alone = this.positions.filter((p) => entryOf(p).epoch === epoch).length === 1;
    return {epoch: String(epoch), step: alone ? '' : String(step)};
  }

  // What keeps a reader who has chosen no step at the same one in a later scene of the run, which has more steps; from the
  // last one, the run is followed. false: it opens there anyway.
  keptIn(later) {
    const here = this.at < this.positions.length - 1 ? this.stateAt(this.at) : {epoch: 'last', step: ''};
    const same = this.runs[0].header.id === later.runs[0].header.id;
    return same && later.placeOf(here) !== later.opening && here;
  }

  // What shows the difference from this position on; if it does already, from the position before each.
  held() {
    const before = this.nameAt(this.at);
    const already = this.state.view === 'difference' && this.state.before === before;
    return {view: 'difference', before: already ? '' : before};
  }

  // The name of a position as the earlier one of two.
  nameAt(place) {
    const {epoch, step} = entryOf(this.positions[place]);
    return `${epoch}:${step}`;
  }

  stepAt(place, r) {
    return r === 0 ? this.positions[place].a : this.positions[place].b;
  }

  // A position's epoch, and which share of the epoch's steps are over with it.
  momentAt(place) {
    const {epoch} = entryOf(this.positions[place]);
    const same = this.positions.flatMap((p, at) => (entryOf(p).epoch === epoch ? [at] : []));
    return {epoch, share: (same.indexOf(place) + 1) / same.length};
  }

  // A run's values by step, at each position; null where it has no step of its own.
  along(r, values) {
    return this.positions.map(({has}, place) => (has[r] ? values[this.stepAt(place, r)] : null));
  }

  get ticks() {
    return this.positions.map((_, place) => this.tick(place));
  }

  step(r) {
    return this.stepAt(this.at, r);
  }

  label(place = this.at) {
    const {run, step} = this.positions[place];
    return run.label(step);
  }

  // One or two words for an axis or below a thumbnail.
  tick(place) {
    const {epoch} = entryOf(this.positions[place]);
    return epoch === UNTRAINED ? 'untr.' : String(epoch);
  }

  // The note for a run that has no step of this epoch.
  standIn() {
    const r = this.positions[this.at].has.slice(0, this.runs.length).indexOf(false);
    if (r < 0) return '';
    return `${this.marks[r]} has no ${this.label()}; its ${this.runs[r].label(this.step(r))} is shown.`;
  }

  // Those of these probes whose prediction flips at a position, in any run.
  flipsAt(place, probes) {
    if (place === 0) return [];
    const flips = (run, r, probe) => {
      const [now, before] = [this.stepAt(place, r), this.stepAt(place - 1, r)];
      return now !== before && run.flipped(now, this.placeIn(r, probe));
    };
    return probes.filter((probe) => this.runs.some((run, r) => flips(run, r, probe)));
  }

  // The next position, forwards or backwards, at which the prediction of the open probe, or one of those shown, flips.
  nextFlip(by) {
    const probes = this.open === undefined ? this.order() : [this.open];
    for (let place = this.at + by; place > 0 && place < this.positions.length; place += by) {
      if (this.flipsAt(place, probes).length > 0) return place;
    }
    return undefined;
  }

  // The layers after a step through each alone and all together.
  soloed(by) {
    const {layers, chosen} = this;
    const count = layers.length + 1;
    const now = chosen.length === layers.length ? 0 : layers.indexOf(chosen[0]) + 1;
    const next = (now + by + count) % count;
    return next === 0 ? [] : [layers[next - 1]];
  }

  placeIn(r, probe) {
    return this.runs[r].places.get(this.runs[0].probes[probe].id) ?? -1;
  }

  // The places in a run of those of these probes that it has.
  placesIn(r, probes) {
    return probes.map((probe) => this.placeIn(r, probe)).filter((place) => place >= 0);
  }

  // The runs that have a probe, and its place in each.
  rowsOf(probe) {
    return this.runs.map((_, r) => ({r, place: this.placeIn(r, probe)})).filter(({place}) => place >= 0);
  }

  // The value of the brightest colour, if all maps on the page have the same; or else null.
  commonLimit() {
    const shown = ({id}) => !this.state.probe || id === this.state.probe;
    const of = (run, r, n) => this.columnsOf(r).map(({places}) => run.limit(this.look, this.step(r), places[r], n));
    const limits = this.runs.flatMap((run, r) => run.probes.flatMap((probe, n) => (shown(probe) ? of(run, r, n) : [])));
    return new Set(limits).size === 1 ? limits[0] : null;
  }

  hasClasses() {
    return this.runs[0].steps.some((step) => step.predicted.some((index) => index >= 0));
  }

  classNames() {
    return distinct(this.runs[0].probes.flatMap((probe) => probe.true_names)).sort();
  }

  // The probes (places in the first run) that pass the filters, in order.
  order() {
    const {sort} = this.state;
    const kept = this.runs[0].probes.map((_, probe) => probe).filter((probe) => this.passes(probe, true));
    const value = new Map(kept.map((probe) => [probe, this.rank(sort, probe)]));
    const places = new Map(kept.map((probe, place) => [probe, place]));
    return kept.sort((x, y) => compared(value.get(x), value.get(y)) || places.get(x) - places.get(y));
  }

  // The probes of the curves: with filters that follow the slider, the past would change with it.
  steady() {
    return this.runs[0].probes.map((_, probe) => probe).filter((probe) => this.passes(probe, false));
  }

  // The probe that is open, or else those of the curves.
  studied() {
    return this.open === undefined ? this.steady() : [this.open];
  }

  passes(probe, now) {
    const {look} = this;
    const {filter} = this.state;
    if (this.class && !this.runs[0].probes[probe].true_names.includes(this.class)) return false;
    const some = (test) => this.rowsOf(probe).some(({r, place}) => test(this.runs[r], this.step(r), place, r));
    if (filter === 'flipped') return some((run, step, n) => run.flips(n).length > 0);
    if (!now || filter === 'all') return true;
    if (filter === 'blank')
      return some((run, step, n, r) => this.columnsOf(r).some(({places}) => !run.strongest(look, step, places[r], n)));
    return some((run, step, n) => run.right(step, n) === (filter === 'right'));
  }

  // Smaller comes first.
  rank(sort, probe) {
    const [run] = this.runs;
    const step = this.step(0);
    const keys = this.columnsOf(0).map(({places}) => places[0]);
    if (sort === 'class') return run.trueNames(probe);
    if (sort === 'flips') return -run.flips(probe).length;
    if (sort === 'confidence') return run.confidence(step, probe) ?? Infinity;
    if (sort === 'score') return -largest(keys.map((key) => run.score(step, key, probe)));
    if (sort === 'drift') {
      return -largest(run.steps.map((_, s) => mean(keys.map((key) => valueOf(run, 'drift', s, key, probe)))));
    }
    return 0;
  }
}

function entryOf({run, step}) {
  return run.steps[step];
}

function distinct(values) {
  return [...new Set(values)];
}

function compared(x, y) {
  if (typeof x === 'string') return x.localeCompare(y);
  return x < y ? -1 : Number(x > y);
}
