// One run: its header and maps, and values derived from them.

export const UNTRAINED = -1;

// A byte encodes the square root of a value relative to the map's largest (or smallest) one; see report/payload.py.
const BYTE_SHARES = Float64Array.from({length: 256}, (_, byte) => Math.sign(byte - 128) * ((byte - 128) / 127) ** 2);

export class Run {
  // maps: Uint8Array with the blocks of all steps, one after another.
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
    // Whether images were explained once, without training or epochs.
    this.once = this.steps.length === 1 && this.steps[0].stage === 'explain';
    this.several = new Map();
    for (const step of this.steps) this.several.set(step.epoch, (this.several.get(step.epoch) || 0) + 1);
  }

  // Returns limits over all steps, for maps after their ReLU and for signed maps: each probe's largest robust limit
  // (`run`), the largest value (`layer`), and the largest magnitude of a negative value (`low`). All targets for a
  // layer and method share them.
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

  // The map's largest value; 0 without a positive value; null if the map is not finite.
  maximum(step, key, probe) {
    return this.steps[step].maps[key].maxima[probe];
  }

  // The magnitude of the map's smallest value; 0 without a negative value; null if the map is not finite.
  minimum(step, key, probe) {
    return this.steps[step].maps[key].minima[probe];
  }

  // The largest magnitude shown; 0 if the map is blank; null if it is not finite.
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

  // Whether no map for the key's layer and method has negative values at any step, as is always so for some methods.
  isOneSided(key) {
    return this.limits[0][this.groups[key]].low === 0;
  }

  // Returns a map's raw values, after its ReLU unless it is shown signed.
  values({signed}, step, key, probe) {
    const [up, down] = [this.maximum(step, key, probe), signed ? this.minimum(step, key, probe) : 0];
    const bytes = this.map(step, key, probe);
    const found = new Float32Array(bytes.length);
    for (let i = 0; i < bytes.length; i += 1) found[i] = BYTE_SHARES[bytes[i]] * (bytes[i] < 128 ? down : up);
    return found;
  }

  // Returns a map relative to the value of the brightest colour: 0 to 1, or −1 to 1 if it is shown signed.
  shares(look, step, key, probe) {
    const limit = this.limit(look, step, key, probe) || Infinity;
    const found = this.values(look, step, key, probe);
    for (let i = 0; i < found.length; i += 1) found[i] = Math.max(-1, Math.min(1, found[i] / limit));
    return found;
  }

  // Returns the name of the class that a map explains, or of how many true classes it explains the sum; empty if
  // unknown.
  explainedClass(step, key, probe) {
    const {target} = this.keys[key];
    const {length} = this.probes[probe].true;
    if (target === 'label' && length > 1) return `sum over ${length} classes`;
    const index = this.steps[step].targets[target]?.classes[probe] ?? -1;
    return index >= 0 ? this.className(index) : '';
  }

  // Returns the location of the largest value (with sign −1, the smallest), as fractions of a slice's width and height.
  peak(step, key, probe, sign = 1) {
    const {height, width, slices} = this.keys[key];
    const map = this.map(step, key, probe);
    let best = 0;
    for (let i = 1; i < map.length; i += 1) if (sign * map[i] > sign * map[best]) best = i;
    const across = best % (width * slices);
    return {y: (Math.floor(best / (width * slices)) + 0.5) / height, x: ((across % width) + 0.5) / width};
  }

  className(index) {
    return this.header.class_names?.[index] ?? `class ${index}`;
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

  // Whether the prediction is (one of) the true classes; null if either is unknown.
  right(step, probe) {
    const predicted = this.predicted(step, probe);
    const known = this.probes[probe].true;
    return predicted < 0 || known.length === 0 ? null : known.includes(predicted);
  }

  // Returns the predicted class at the last earlier step with a prediction, or -1 if there is none.
  earlier(step, probe) {
    let before = step - 1;
    while (before >= 0 && this.predicted(before, probe) < 0) before -= 1;
    return before < 0 ? -1 : this.predicted(before, probe);
  }

  flipped(step, probe) {
    const now = this.predicted(step, probe);
    return now >= 0 && ![-1, now].includes(this.earlier(step, probe));
  }

  flips(probe) {
    return this.steps.map((_, step) => step).filter((step) => this.flipped(step, probe));
  }

  score(step, key, probe) {
    return this.steps[step].targets[this.keys[key].target]?.scores[probe] ?? null;
  }

  // Returns one of a map's numbers; null if it has no value.
  number(name, step, key, probe) {
    return this.steps[step].maps[key].numbers[name]?.[probe] ?? null;
  }

  label(step) {
    if (this.once) return 'explained';
    const {epoch, step: number} = this.steps[step];
    const name = epoch === UNTRAINED ? 'untrained' : `epoch ${epoch}`;
    return this.several.get(epoch) > 1 ? `${name}, step ${number}` : name;
  }
}

// Returns the slider's positions: the steps of one run, or of two runs matched by epoch. If a run has no step in an
// epoch, its last earlier step (or its first) is in `steps` instead, and `has` is false. `run` and `step` name the
// position.
export function positions(runs) {
  const [a] = runs;
  if (runs.length === 1) return a.steps.map((_, step) => ({steps: [step], has: [true], run: a, step}));
  if (runs.every(({once}) => once)) return [{steps: [0, 0], has: [true, true], run: a, step: 0}];
  const epochs = [...new Set(runs.flatMap(({steps}) => steps.map(({epoch}) => epoch)))].sort((x, y) => x - y);
  const found = [];
  for (const epoch of epochs) {
    const has = runs.map((run) => run.several.has(epoch));
    const named = has.indexOf(true);
    const count = Math.max(...runs.map((run) => run.several.get(epoch) || 0));
    for (let place = 0; place < count; place += 1) {
      const share = (place + 1) / count;
      const steps = runs.map((run) => stepAt(run, epoch, share));
      found.push({steps, has, run: runs[named], step: steps[named]});
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

// Returns layer names without their common dotted prefix; if a name would then begin with a number, the part before it
// is kept.
export function shortNames(layers) {
  const parts = layers.map((layer) => layer.split('.'));
  let shared = 0;
  while (layers.length > 0 && parts.every((p) => p.length > shared + 1 && p[shared] === parts[0][shared])) shared += 1;
  while (shared > 0 && parts.some((p) => /^\d+$/.test(p[shared]))) shared -= 1;
  return new Map(layers.map((layer, i) => [layer, parts[i].slice(shared).join('.')]));
}
