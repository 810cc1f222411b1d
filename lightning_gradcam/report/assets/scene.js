// What is on the page now: one run or two, the slider's position, and which maps are shown.
import {largest, mean, valueOf} from './numbers.js';
import {positions, shortNames, UNTRAINED} from './run.js';

export class Scene {
  // pictures: for each run, those of its probes.
  constructor(runs, pictures) {
    Object.assign(this, {runs, pictures});
    this.positions = positions(runs[0], runs[1]);
    this.marks = ['A', 'B'];
    this.once = runs.every((run) => run.once);
  }

  // Takes over what is chosen; what this run does not have counts as not chosen.
  take(wanted) {
    const state = this.once ? {...wanted, show: 'cards'} : wanted;
    this.state = state;
    this.at = this.placeOf(state);
    this.methods = distinct(this.runs.flatMap((run) => run.keys.map((key) => key.method)));
    this.targets = distinct(this.runs.flatMap((run) => run.keys.map((key) => key.target)));
    this.method = this.methods.includes(state.method) || state.method === 'all' ? state.method : this.methods[0];
    const several = this.targets.length > 2 ? this.targets[0] : 'all';
    this.target = this.targets.includes(state.target) || state.target === 'all' ? state.target : several;
    const fits = (key) =>
      (this.method === 'all' || key.method === this.method) && (this.target === 'all' || key.target === this.target);
    const keys = this.runs.flatMap((run) => run.keys).filter(fits);
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
    // One colour and dash for each line: the layer's where each has one column.
    if (new Set(this.columns.map(({dash}) => dash)).size < this.columns.length)
      this.columns.forEach((column, i) => Object.assign(column, {dash: i}));
    this.look = {
      colour: state.colour,
      scale: state.scale,
      opacity: Number(state.opacity) / 100,
      threshold: Number(state.threshold) / 100,
    };
  }

  titleOf({layer, method_title: method, target}) {
    const parts = [this.short.get(layer)];
    if (this.method === 'all' && this.methods.length > 1) parts.push(method);
    if (this.target === 'all' && this.targets.length > 1) parts.push(target.replace('_vs_', ' vs '));
    return parts.join(' · ');
  }

  placeOf({epoch, step}) {
    const last = this.positions.length - 1;
    if (epoch === '' || !Number.isFinite(Number(epoch))) return last;
    const found = this.positions.findIndex(
      (p) => entryOf(p).epoch === Number(epoch) && (step === '' || entryOf(p).step === Number(step)),
    );
    if (found >= 0) return found;
    const later = this.positions.findIndex((p) => entryOf(p).epoch > Number(epoch));
    return later < 0 ? last : Math.max(later - 1, 0);
  }

  // What a link says of a position; nothing for the last, so that a run that goes on is followed.
  stateAt(place) {
    if (place === this.positions.length - 1) return {epoch: '', step: ''};
    const {epoch, step} = entryOf(this.positions[place]);
    const alone = this.positions.filter((p) => entryOf(p).epoch === epoch).length === 1;
    return {epoch: String(epoch), step: alone ? '' : String(step)};
  }

  stepAt(place, r) {
    return r === 0 ? this.positions[place].a : this.positions[place].b;
  }

  // Whether a run has a step of its own there, and none that stands in.
  has(place, r) {
    return this.positions[place].has[r];
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

  // What stands in for a run that has no step of this epoch.
  standIn() {
    const r = this.positions[this.at].has.slice(0, this.runs.length).indexOf(false);
    if (r < 0) return '';
    return `${this.marks[r]} has no ${this.label()}; its ${this.runs[r].label(this.step(r))} is shown.`;
  }

  // The next position, forwards or backwards, at which the prediction of one of these probes flips.
  nextFlip(by, probes) {
    const flips = (place) =>
      this.runs.some((run, r) => {
        const [now, before] = [this.stepAt(place, r), this.stepAt(place - 1, r)];
        const places = probes.map((probe) => this.placeIn(r, probe)).filter((n) => n >= 0);
        return now !== before && places.some((n) => run.flipped(now, n));
      });
    for (let place = this.at + by; place > 0 && place < this.positions.length; place += by) {
      if (flips(place)) return place;
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
    const place = this.runs[r].places.get(this.runs[0].probes[probe].id);
    return place === undefined ? -1 : place;
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

  // Those of curves: filters that follow the slider would make the past change with it.
  steady() {
    return this.runs[0].probes.map((_, probe) => probe).filter((probe) => this.passes(probe, false));
  }

  passes(probe, now) {
    const {filter} = this.state;
    if (this.class && !this.runs[0].probes[probe].true_names.includes(this.class)) return false;
    const some = (test) =>
      this.runs.some((run, r) => this.placeIn(r, probe) >= 0 && test(run, this.step(r), this.placeIn(r, probe), r));
    if (filter === 'flipped') return some((run, step, n) => run.flips(n).length > 0);
    if (!now || filter === 'all') return true;
    if (filter === 'blank')
      return some((run, step, n, r) =>
        this.columns.some((c) => c.places[r] >= 0 && !run.maximum(step, c.places[r], n)),
      );
    return some((run, step, n) => run.right(step, n) === (filter === 'right'));
  }

  // Smaller comes first.
  rank(sort, probe) {
    const [run] = this.runs;
    const step = this.step(0);
    const keys = this.columns.map((column) => column.places[0]).filter((key) => key >= 0);
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

function sameKey(x, y) {
  return x.layer === y.layer && x.method === y.method && x.target === y.target;
}

function distinct(values) {
  return [...new Set(values)];
}

function compared(x, y) {
  if (typeof x === 'string') return x.localeCompare(y);
  return x < y ? -1 : Number(x > y);
}
