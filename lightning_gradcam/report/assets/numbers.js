// The numbers shown in curves and tables, for maps and for predictions.

// Those that a header does not describe.
const KNOWN = {
  accuracy: {title: 'probes right', low: 0, high: 1, reading: 'Share of the probes whose prediction is right.'},
  confidence: {title: 'confidence', low: 0, high: 1, reading: 'Mean probability of the predicted class.'},
  maximum: {title: 'map maximum', low: 0, high: null, reading: 'Largest value of the raw map, in its own unit.'},
};

// Returns {title, low, high, reading} for a number; if the header does not describe it, its name is the title.
export function numberInfo(run, name) {
  return run.header.stats[name] || KNOWN[name] || {title: name, low: null, high: null, reading: ''};
}

export function isOfPredictions(name) {
  return name === 'accuracy' || name === 'confidence';
}

// Returns the names of the map numbers that any step contains, in the header's order; the maximum is always included.
export function mapNumbers(run) {
  const found = new Set();
  for (const {numbers} of run.steps.flatMap(({maps}) => maps)) {
    for (const [name, values] of Object.entries(numbers)) if (values.some(isKnown)) found.add(name);
  }
  const described = Object.keys(run.header.stats).filter((name) => found.has(name));
  return [...new Set([...described, ...found, 'maximum'])];
}

// Returns the number for the curves: the selected one if this run has it, else the share inside masks and boxes, or
// else drift.
export function chosenNumber(run, wanted) {
  const names = mapNumbers(run);
  if (names.includes(wanted)) return wanted;
  return ['energy_inside', 'drift'].find((name) => names.includes(name)) || names[0];
}

// Returns a probe's number at a step; null if it has no value.
export function valueOf(run, name, step, key, probe) {
  if (name === 'confidence') return run.confidence(step, probe);
  if (name === 'accuracy') {
    const right = run.right(step, probe);
    return right === null ? null : Number(right);
  }
  if (key < 0) return null;
  return name === 'maximum' ? run.maximum(step, key, probe) : run.number(name, step, key, probe);
}

// Whether a number's curve counts probes instead of showing their mean.
export function isCounted(run, name) {
  return Boolean(numberInfo(run, name).counted);
}

// Returns the mean at each step over the probes with a value, or the sum for a number that counts probes.
export function means(run, name, key, probes) {
  const whole = isCounted(run, name) ? sumOf : mean;
  return run.steps.map((_, step) => whole(probes.map((probe) => valueOf(run, name, step, key, probe))));
}

// Returns the number of probes in each step's mean.
export function sampleSizes(run, name, key, probes) {
  return run.steps.map((_, step) => probes.filter((probe) => isKnown(valueOf(run, name, step, key, probe))).length);
}

export function isKnown(value) {
  return value !== null && value !== undefined;
}

export function sumOf(values) {
  const found = values.filter(isKnown);
  return found.length ? found.reduce((sum, value) => sum + value, 0) : null;
}

export function mean(values) {
  const found = values.filter(isKnown);
  return found.length ? sumOf(found) / found.length : null;
}

export function largest(values) {
  return values.reduce((best, value) => (value !== null && value > best ? value : best), -Infinity);
}

export function smallest(values) {
  return values.reduce((best, value) => (value !== null && value < best ? value : best), Infinity);
}

// Returns a number with three significant digits, as short as possible.
export function shortNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 100000)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

// Returns a negative value as text, given its magnitude.
export function minus(magnitude) {
  return magnitude > 0 ? `−${shortNumber(magnitude)}` : '0';
}

export function percent(value) {
  return value === null || value === undefined ? '' : `${Math.round(value * 100)}%`;
}
