// The current content of the page: one or two runs, the slider's position, and the maps shown.
import {DIVERGING} from './colour.js';
import {LARGE, largestMove} from './moves.js';
import {largest, mean, valueOf} from './numbers.js';
import {positions, sameKey, shortNames, UNTRAINED} from './run.js';

export class Scene {
  // shown: [{run, pictures: its probes' images}]; families: for each, the runs that differ only in their seed, if any.
  constructor(shown, families) {
    const runs = shown.map(({run}) => run);
    Object.assign(this, {runs, families, pictures: shown.map(({pictures}) => pictures)});
    this.positions = positions(runs);
    this.marks = ['A', 'B'];
    this.once = runs.every((run) => run.once);
    this.opening = this.openingPlace();
  }

  // Returns the position at which the page opens: the first run's largest change if that is large, else the last one.
  openingPlace() {
    const {step, value} = largestMove(this.runs[0]) ?? {};
    const isThere = ({steps, has}) => steps[0] === step && has[0];
    return value >= LARGE ? this.positions.findIndex(isThere) : this.positions.length - 1;
  }

  // Applies the user's selections; those that this run does not have are ignored.
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
    // One colour and dash pattern per line: that of the layer, if each layer has one column.
    if (new Set(this.columns.map(({dash}) => dash)).size < this.columns.length)
      this.columns.forEach((column, i) => Object.assign(column, {dash: i}));
    const {scale, opacity, threshold} = state;
    const signed = state.signed === 'on';
    const colour = signed ? DIVERGING : state.colour;
    this.look = {colour, scale, signed, opacity: Number(opacity) / 100, threshold: Number(threshold) / 100};
  }

  // Whether all probes are shown, and not a single one.
  get isBoard() {
    return this.open === undefined;
  }

  titleOf({layer, method_title: method, target}) {
    const parts = [this.short.get(layer)];
    if (this.method === 'all' && this.methods.length > 1) parts.push(method);
    if (this.target === 'all' && this.targets.length > 1) parts.push(target.replace('_vs_', ' vs '));
    return parts.join(' · ');
  }

  // Returns the columns that a run has.
  columnsOf(r) {
    return this.columns.filter((column) => column.places[r] >= 0);
  }

  // Returns a line of a curve or table for each run and column that it has.
  get lines() {
    return this.runs.flatMap((run, r) =>
      this.columnsOf(r).map((column) => {
        const {title, dash} = column;
        return {r, run, column, key: column.places[r], title, label: this.prefix(r) + title, dash, second: r > 0};
      }),
    );
  }

  // Returns a run's mark for labels; empty if there is only one run.
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

  // Returns a position for a link; the last has no number, so the link follows a growing run.
  stateAt(place) {
    const last = this.positions.length - 1;
    if (place === last) return {epoch: this.opening === last ? '' : 'last', step: ''};
    const {epoch, step} = entryOf(this.positions[place]);
    const alone = this.positions.filter((p) => entryOf(p).epoch === epoch).length === 1;
    return {epoch: String(epoch), step: alone ? '' : String(step)};
  }

  // Returns the state that keeps the reader at the same step in a later scene of the run, which has more steps. At the last
  // step, the reader follows the run. false if the later scene opens there anyway.
  keptIn(later) {
    const here = this.at < this.positions.length - 1 ? this.stateAt(this.at) : {epoch: 'last', step: ''};
    const same = this.runs[0].header.id === later.runs[0].header.id;
    return same && later.placeOf(here) !== later.opening && here;
  }

  // Returns the state that shows differences from this position; if it is already shown, from each previous position.
  held() {
    const before = this.nameAt(this.at);
    const already = this.state.view === 'difference' && this.state.before === before;
    return {view: 'difference', before: already ? '' : before};
  }

  // Returns the name of a position in links and options, as the earlier of two.
  nameAt(place) {
    const {epoch, step} = entryOf(this.positions[place]);
    return `${epoch}:${step}`;
  }

  stepAt(place, r) {
    return this.positions[place].steps[r];
  }

  // Returns a position's epoch, and the fraction of the epoch's steps completed at it.
  momentAt(place) {
    const {epoch} = entryOf(this.positions[place]);
    const same = this.positions.flatMap((p, at) => (entryOf(p).epoch === epoch ? [at] : []));
    return {epoch, share: (same.indexOf(place) + 1) / same.length};
  }

  // Converts a run's values by step to values by position; null if it has no step there.
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

  // Returns a short label for an axis or a thumbnail; for a run that has no step there, the epoch shown instead, in
  // parentheses.
  tick(place, r) {
    const {has, run, step} = this.positions[place];
    const stands = r !== undefined && !has[r];
    const {epoch} = stands ? this.runs[r].steps[this.stepAt(place, r)] : run.steps[step];
    const text = epoch === UNTRAINED ? 'untr.' : String(epoch);
    return stands ? `(${text})` : text;
  }

  // Returns a note if a run has no step in this epoch.
  standIn() {
    const r = this.positions[this.at].has.indexOf(false);
    if (r < 0) return '';
    return `${this.marks[r]} has no ${this.label()}; its ${this.runs[r].label(this.step(r))} is shown.`;
  }

  // Returns the probes whose prediction flips at a position, in any run.
  flipsAt(place, probes) {
    if (place === 0) return [];
    const flips = (run, r, probe) => {
      const [now, before] = [this.stepAt(place, r), this.stepAt(place - 1, r)];
      return now !== before && run.flipped(now, this.placeIn(r, probe));
    };
    return probes.filter((probe) => this.runs.some((run, r) => flips(run, r, probe)));
  }

  // Returns the next position, forwards or backwards, at which the prediction for the open or any shown probe flips.
  nextFlip(by) {
    const probes = this.isBoard ? this.order() : [this.open];
    for (let place = this.at + by; place > 0 && place < this.positions.length; place += by) {
      if (this.flipsAt(place, probes).length > 0) return place;
    }
    return undefined;
  }

  // Returns the selected layers after a step through each layer alone and all layers.
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

  // Returns the indices of these probes in a run, without those that it lacks.
  placesIn(r, probes) {
    return probes.map((probe) => this.placeIn(r, probe)).filter((place) => place >= 0);
  }

  // Returns the runs that have a probe, with its index in each.
  rowsOf(probe) {
    return this.runs.map((_, r) => ({r, place: this.placeIn(r, probe)})).filter(({place}) => place >= 0);
  }

  // Returns the value of the brightest colour if it is the same for all maps on the page, else null.
  commonLimit() {
    const shown = ({id}) => !this.state.probe || id === this.state.probe;
    const limits = this.lines.flatMap(({r, run, key}) =>
      run.probes.flatMap((probe, n) => (shown(probe) ? run.limit(this.look, this.step(r), key, n) : [])),
    );
    return new Set(limits).size === 1 ? limits[0] : null;
  }

  hasClasses() {
    return this.runs[0].steps.some((step) => step.predicted.some((index) => index >= 0));
  }

  classNames() {
    return distinct(this.runs[0].probes.flatMap((probe) => probe.true_names)).sort();
  }

  // Returns the probes (indices in the first run) that pass the filters, in order.
  order() {
    const {sort} = this.state;
    const kept = this.runs[0].probes.map((_, probe) => probe).filter((probe) => this.passes(probe, true));
    const value = new Map(kept.map((probe) => [probe, this.rank(sort, probe)]));
    return kept.sort((x, y) => compared(value.get(x), value.get(y)));
  }

  // Returns the probes for the curves. Filters that depend on the slider do not apply: the past would change with it.
  steady() {
    return this.runs[0].probes.map((_, probe) => probe).filter((probe) => this.passes(probe, false));
  }

  // Returns the open probe, or else the probes for the curves.
  studied() {
    return this.isBoard ? this.steady() : [this.open];
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

  // Returns the sort value of a probe; smaller values are first.
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
