// Finds when and where maps moved: drift from the previous step by layer and position, and large changes.
import {isKnown, mean, means, percent, sampleSizes} from './numbers.js';
import {inWords, numberOf, targetName, whereabouts} from './words.js';

// Same as MOVED and PROBES in lightning_gradcam/findings/kinds.py: the minimum drift of a large change, and the minimum
// number of probes for a mean.
export const LARGE = 0.15;
const FEWEST = 3;

// Returns each step's mean drift; null if too few of these probes were compared, and at the first step.
function meanDrifts(run, key, probes) {
  const counts = sampleSizes(run, 'drift', key, probes);
  const least = Math.min(FEWEST, probes.length);
  return means(run, 'drift', key, probes).map((value, step) => (step > 0 && counts[step] >= least ? value : null));
}

// Returns a row for each run and layer shown: {label, values: mean drift over these probes at each position, or null}.
export function driftTable(scene, probes) {
  return scene.lines.map(({r, run, key, label}) => {
    const drifts = meanDrifts(run, key, scene.placesIn(r, probes));
    return {label, values: scene.along(r, drifts)};
  });
}

export function largePlaces(scene, table) {
  return scene.positions.map((_, place) => place).filter((place) => table.some(({values}) => values[place] >= LARGE));
}

// Returns the next position with a large change, forwards or backwards; the first follows the last.
export function nextMove(scene, by) {
  const found = largePlaces(scene, driftTable(scene, scene.studied()));
  if (by > 0) return found.find((place) => place > scene.at) ?? found[0];
  return found.findLast((place) => place < scene.at) ?? found.at(-1);
}

// Returns the largest mean drift over all probes, with each layer judged by its first method and target as in findings:
// {step, key, value, count: number of probes}, or null. Computed once per run.
export function largestMove(run) {
  run.moved ??= foundMove(run);
  return run.moved;
}

function foundMove(run) {
  const all = run.probes.map((_, probe) => probe);
  let best;
  run.keys.forEach(({layer}, key) => {
    if (run.keys.findIndex((other) => other.layer === layer) !== key) return;
    meanDrifts(run, key, all).forEach((value, step) => {
      if (value !== null && !(value <= best?.value)) best = {step, key, value};
    });
  });
  return best ? {...best, count: sampleSizes(run, 'drift', best.key, all)[best.step]} : null;
}

// Returns ['The maps moved most from epoch 2 to epoch 3, …', 'where to; the probe that moved furthest']. The first text
// is empty if no change is large. null if no step was compared with the previous one. pictures: the probes' images;
// scaled: whether to state the scale of drift.
export function headlineOf(run, prefix, pictures, scaled) {
  const found = largestMove(run);
  if (!found) return null;
  const {step, key, value, count} = found;
  const [before, now] = [step - 1, step].map((at) => inWords(run.label(at)));
  const span = run.header.thinned ? `in ${now}` : `from ${before} to ${now}`;
  const amount = `mean drift ${value < 0.005 ? 'below 0.01' : value.toFixed(2)}`;
  // Other methods and targets may have moved more.
  const {layer, method, method_title, target} = run.keys[key];
  const which = [
    run.keys.some((other) => other.method !== method) && method_title,
    run.keys.some((other) => other.target !== target) && targetName(run, target),
  ].filter(Boolean);
  const named = `at layer ${layer}${which.length > 0 ? ` (${which.join(', ')})` : ''}`;
  const whole = count < run.probes.length ? `${count} of ${run.probes.length} probes` : numberOf(count, 'probe');
  const sample = whole + (scaled ? '; 0: same map, 1: no overlap' : '');
  const small = `${prefix}No large change in the maps: the largest is ${span}, at layer ${layer} (${[...which, amount, sample].join(', ')}).`;
  const drifts = run.probes.map((_, probe) => run.number('drift', step, key, probe) ?? -1);
  // A blank map has no place, and one of another class is another question.
  const compared = drifts.flatMap((drift, probe) => (drift === -1 ? [] : [probe]));
  const inside = run.header.thinned ? '' : insideWords(run, step, key, compared, pictures);
  if (value < LARGE) return ['', small + inside];
  const probe = drifts.indexOf(Math.max(...drifts));
  const furthest = `Probe ${run.probes[probe].id} moved furthest (${drifts[probe].toFixed(2)})`;
  const [from, to] = [step - 1, step].map((at) => whereabouts(run.peak(at, key, probe)));
  const went = from === to ? `stayed at the ${to}` : `went from the ${from} to the ${to}`;
  const where = run.header.thinned ? '' : `: its largest value ${went}`;
  const headline = `${prefix}The maps moved most ${span}, ${named}: ${amount} (${sample}).`;
  const after = run.header.thinned ? '' : (inside || destination(run, step, key, compared)) + rightAround(run, step);
  return [headline, `${after} ${furthest}${where}.`];
}

// Returns how many predictions are right before and after a step; '' if no true class is known.
function rightAround(run, step) {
  const [before, now] = [step - 1, step].map((at) => run.probes.map((_, probe) => run.right(at, probe)));
  const count = (rights) => rights.filter(Boolean).length;
  const what = run.steps.some(({sets}) => sets) ? 'Top classes' : 'Predictions';
  return now.some(isKnown) ? ` ${what} right: ${count(before)} of ${now.filter(isKnown).length} before, ${count(now)} after.` : '';
}

// Returns the share of these probes' evidence inside the masks before and after a step, and the share expected by chance;
// '' without masks.
function insideWords(run, step, key, probes, pictures) {
  const known = (at, probe) => isKnown(run.number('energy_inside', at, key, probe));
  const marked = probes.filter((probe) => known(step - 1, probe) && known(step, probe));
  if (marked.length === 0) return '';
  const [before, now] = means(run, 'energy_inside', key, marked).slice(step - 1, step + 1).map(percent);
  const sample = marked.length < run.probes.length ? ` (mean of ${marked.length} of ${run.probes.length} probes)` : '';
  const covered = marked.map((probe) => pictures[probe].covered);
  const chance = covered.every(isKnown) ? `; by chance it would be ${percent(mean(covered))}` : '';
  return ` Inside the masks: ${before} of the evidence before, ${now} after${sample}${chance}.`;
}

// Describes where the largest values of these probes' maps are after a step.
function destination(run, step, key, all) {
  const parts = all.map((probe) => [step - 1, step].map((at) => whereabouts(run.peak(at, key, probe))));
  const moved = parts.filter(([before, now]) => before !== now).map(([, now]) => now);
  if (moved.length === 0) return ` In all ${all.length}, the largest value stayed in the same part of the image.`;
  const times = (part) => moved.filter((other) => other === part).length;
  const most = moved.reduce((best, part) => (times(part) > times(best) ? part : best));
  const tied = moved.some((part) => part !== most && times(part) === times(most));
  const where = tied ? '' : `, most often to the ${most} (${times(most)})`;
  return ` The largest value moved to another part of the image in ${moved.length} of ${all.length}${where}.`;
}
