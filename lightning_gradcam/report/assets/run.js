// One run: its header and maps, and what follows from them.

export const UNTRAINED = -1;

// A byte holds the square root of a value's share of the map's largest (or smallest) one, see report/payload.py.
const BYTE_SHARES = Float64Array.from({length: 256}, (_, byte) => Math.sign(byte - 128) * ((byte - 128) / 127) ** 2);

export class Run {
  // maps: Uint8Array with the blocks of all steps.
  constructor(name, {header, maps}) {
    Object.assign(this, {name, header, maps});
    this.steps = header.steps;
    this.probes = header.probes;
    this.keys = header.keys;
    this.offsets = [];
    this.block = 0;
    for (const key of this.keys) {
      this.offsets.push(this.block);
      this.block += this.probes.length * key.height * key.width * key.slices;
    }
    this.groups = this.keys.map((key) => this.keys.findIndex((k) => k.layer === key.layer && k.method === key.method));
    this.limits = this.foundLimits();
    this.titles = new Map();
    this.places = new Map(this.probes.map((probe, place) => [probe.id, place]));
    // Pictures that were explained once: no training, no epochs.
    this.once = this.steps.length === 1 && this.steps[0].stage === 'explain';
    this.several = new Map();
    for (const step of this.steps) this.several.set(step.epoch, (this.several.get(step.epoch) || 0) + 1);
  }

  // For maps after their ReLU, and for signed ones, over all steps: each probe's largest robust limit (`run`), the
  // largest value of all (`layer`), and the largest magnitude below zero (`low`). Targets of a layer and method share
  // them.
  foundLimits() {
    return [false, true].map((signed) => {
      const limits = this.keys.map(() => ({run: new Float64Array(this.probes.length), layer: 0, low: 0}));
      this.steps.forEach(({maps}, step) => {
        maps.forEach((entry, k) => {
          const limit = limits[this.groups[k]];
          (signed ? entry.signed_limits : entry.limits).forEach((robust, n) => {
            limit.run[n] = Math.max(limit.run[n], robust);
            limit.layer = Math.max(limit.layer, this.strongest({signed}, step, k, n));
            limit.low = Math.max(limit.low, entry.minima[n]);
          });
        });
      });
      return limits;
    });
  }

  map(step, key, probe) {
    const {height, width, slices} = this.keys[key];
    const size = height * width * slices;
    const start = step * this.block + this.offsets[key] + probe * size;
    return this.maps.subarray(start, start + size);
  }

  // 0: no positive value; null: not finite.
  maximum(step, key, probe) {
    return this.steps[step].maps[key].maxima[probe];
  }

  // The magnitude of the smallest value; 0: no negative value.
  minimum(step, key, probe) {
    return this.steps[step].maps[key].minima[probe];
  }

  // The largest value shown; 0: the map is blank; null: not finite.
  strongest({signed}, step, key, probe) {
    const top = this.maximum(step, key, probe);
    return signed && top !== null ? Math.max(top, this.minimum(step, key, probe)) : top;
  }

  // The value of the brightest colour.
  limit(look, step, key, probe) {
    const limit = this.limits[Number(look.signed)][this.groups[key]];
    if (look.scale === 'run') return limit.run[probe];
    return look.scale === 'layer' ? limit.layer : this.strongest(look, step, key, probe) || 0;
  }

  // Whether no map of a key's layer and method is negative anywhere, in any step: so are all of some methods.
  isOneSided(key) {
    return this.limits[0][this.groups[key]].low === 0;
  }

  // A map in its own unit, after its ReLU unless it is shown signed.
  values({signed}, step, key, probe) {
    const [up, down] = [this.maximum(step, key, probe), signed ? this.minimum(step, key, probe) : 0];
    const bytes = this.map(step, key, probe);
    const found = new Float32Array(bytes.length);
    for (let i = 0; i < bytes.length; i += 1) found[i] = BYTE_SHARES[bytes[i]] * (bytes[i] < 128 ? down : up);
    return found;
  }

  // A map as shares of the brightest colour's value, from 0 to 1, or from −1 if it is shown signed.
  shares(look, step, key, probe) {
    const limit = this.limit(look, step, key, probe) || Infinity;
    const found = this.values(look, step, key, probe);
    for (let i = 0; i < found.length; i += 1) found[i] = Math.max(-1, Math.min(1, found[i] / limit));
    return found;
  }

  // The name of the class that a map explains; empty where that is not known.
  explainedClass(step, key, probe) {
    const index = this.steps[step].targets[this.keys[key].target]?.classes[probe] ?? -1;
    return index >= 0 ? this.className(index) : '';
  }

  // Row and column of the largest value, or with sign −1 the smallest, as shares of one slice's height and width.
  peak(step, key, probe, sign = 1) {
    const {height, width, slices} = this.keys[key];
    const map = this.map(step, key, probe);
    let best = 0;
    for (let i = 1; i < map.length; i += 1) if (sign * map[i] > sign * map[best]) best = i;
    const across = best % (width * slices);
    return {y: (Math.floor(best / (width * slices)) + 0.5) / height, x: ((across % width) + 0.5) / width};
  }

  className(index) {
    const names = this.header.class_names;
    return names && names[index] !== undefined ? names[index] : `class ${index}`;
  }

  trueNames(probe) {
    return this.probes[probe].true_names.join(', ');
  }

  predicted(step, probe) {
    return this.steps[step].predicted[probe];
  }

  confidence(step, probe) {
    return this.steps[step].confidence[probe];
  }

  // Whether the prediction is (one of) the true classes; null where either is not known.
  right(step, probe) {
    const predicted = this.predicted(step, probe);
    const known = this.probes[probe].true;
    return predicted < 0 || known.length === 0 ? null : known.includes(predicted);
  }

  flipped(step, probe) {
    if (step === 0 || this.predicted(step, probe) < 0 || this.predicted(step - 1, probe) < 0) return false;
    return this.predicted(step, probe) !== this.predicted(step - 1, probe);
  }

  flips(probe) {
    return this.steps.map((_, step) => step).filter((step) => this.flipped(step, probe));
  }

  score(step, key, probe) {
    const target = this.steps[step].targets[this.keys[key].target];
    return target ? target.scores[probe] : null;
  }

  // One of the numbers of a map; null if it has no value.
  number(name, step, key, probe) {
    const values = this.steps[step].maps[key].numbers[name];
    return values === undefined || values[probe] === undefined ? null : values[probe];
  }

  label(step) {
    if (this.once) return 'explained';
    const {epoch, step: number} = this.steps[step];
    const name = epoch === UNTRAINED ? 'untrained' : `epoch ${epoch}`;
    return this.several.get(epoch) > 1 ? `${name}, step ${number}` : name;
  }
}

// The positions of the slider: the steps of one run, or of two matched by epoch. Where a run has no step of an epoch,
// its last earlier step (or its first) is used instead, and `has` is false.
export function positions(a, b) {
  if (b && a.once && b.once) return [{a: 0, b: 0, has: [true, true], run: a, step: 0}];
  if (!b) return a.steps.map((_, step) => ({a: step, b: null, has: [true, false], run: a, step}));
  const epochs = [...new Set([...a.steps, ...b.steps].map((step) => step.epoch))].sort((x, y) => x - y);
  const found = [];
  for (const epoch of epochs) {
    const count = Math.max(a.several.get(epoch) || 0, b.several.get(epoch) || 0);
    for (let place = 0; place < count; place += 1) {
      const share = (place + 1) / count;
      const [inA, inB] = [a, b].map((run) => stepAt(run, epoch, share));
      const has = [a, b].map((run) => run.several.has(epoch));
      found.push({a: inA, b: inB, has, run: has[0] ? a : b, step: has[0] ? inA : inB});
    }
  }
  return found;
}

export function stepAt(run, epoch, share) {
  const first = run.steps.findIndex((step) => step.epoch === epoch);
  if (first >= 0) return first + Math.ceil(share * run.several.get(epoch)) - 1;
  const later = run.steps.findIndex((step) => step.epoch > epoch);
  return later < 0 ? run.steps.length - 1 : Math.max(later - 1, 0);
}

// Whether two maps' layer, method and target are the same.
export function sameKey(x, y) {
  return x.layer === y.layer && x.method === y.method && x.target === y.target;
}

// Layer names without the dotted beginning that all share; where a bare number would be left, with the part before it.
export function shortNames(layers) {
  const parts = layers.map((layer) => layer.split('.'));
  let shared = 0;
  while (layers.length > 0 && parts.every((p) => p.length > shared + 1 && p[shared] === parts[0][shared])) shared += 1;
  while (shared > 0 && parts.some((p) => /^\d+$/.test(p[shared]))) shared -= 1;
  return new Map(layers.map((layer, i) => [layer, parts[i].slice(shared).join('.')]));
}
