// Sentences for screen readers, and short lines for the page.
import {percent, shortNumber, sumOf, valueOf} from './numbers.js';

// '1 probe', '2 probes'.
export function numberOf(count, thing) {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}

const DOWN = ['upper', 'middle', 'lower'];
const ACROSS = ['left', 'centre', 'right'];

// Whether a prediction is right, wrong or neither: shape and word say what the colour says.
export function signOf(right) {
  if (right === null) return {kind: 'open', glyph: ''};
  return right ? {kind: 'right', glyph: '✓ '} : {kind: 'wrong', glyph: '✗ '};
}

// '✓ Coat 93 %'.
export function verdict(run, step, probe) {
  const predicted = run.predicted(step, probe);
  if (predicted < 0) return {text: '', kind: 'none', spoken: 'no prediction'};
  const {kind, glyph} = signOf(run.right(step, probe));
  const words = `${run.className(predicted)} ${percent(run.confidence(step, probe))}`.trim();
  return {text: glyph + words, kind, spoken: `predicted ${words}${glyph && `, ${kind}`}`};
}

export function noticeOf(state) {
  return {blank: 'no positive evidence', broken: 'map not finite'}[state] || '';
}

// The explained class, if it is not the predicted one.
export function explained(run, step, key, probe) {
  const name = run.keys[key].target;
  const target = run.steps[step].targets[name];
  const index = target ? target.classes[probe] : -1;
  return index >= 0 && name !== 'predicted' ? run.className(index) : '';
}

export function described(run, step, key, probe, kind, state) {
  const {layer} = run.keys[key];
  const truth = run.trueNames(probe);
  const shown = kind === 'map' ? 'map alone, ' : '';
  const which = `Probe ${run.probes[probe].id}, ${shown}layer ${layer}, ${run.label(step)}`;
  const classes = `${verdict(run, step, probe).spoken}${truth && `, true ${truth}`}`;
  if (noticeOf(state)) return `${which}: ${classes}; ${noticeOf(state)}`;
  const top = shortNumber(run.maximum(step, key, probe));
  return `${which}: ${classes}; map maximum ${top} at the ${whereabouts(run.peak(step, key, probe))}`;
}

function whereabouts({x, y}) {
  const [down, across] = [DOWN[Math.min(2, Math.floor(y * 3))], ACROSS[Math.min(2, Math.floor(x * 3))]];
  return down === 'middle' && across === 'centre' ? 'centre' : `${down} ${across}`;
}

// 'Coat until epoch 2, Shirt from epoch 3 on'.
export function history(run, probe) {
  const flips = run.flips(probe);
  const first = run.predicted(0, probe);
  if (first < 0 && flips.length === 0) return 'no predictions';
  const parts = [
    run.className(first),
    ...flips.map((step) => `${run.className(run.predicted(step, probe))} from ${run.label(step)}`),
  ];
  return parts.join(', ');
}

export const SCALE_WORDS = {
  image: 'the maximum of each map',
  run: 'the maximum of each probe in this run and layer',
  layer: 'the maximum of all probes in this run and layer',
};

// Layers that a notice names at most.
const NAMED = 3;

// Which maps are blank at this step, and why; and how many flipped, went blank or came back since the step before.
export function blankNotices(scene) {
  const blank = new Map();
  const changes = new Map();
  const note = (notices, text, name) => text && notices.set(text, [...(notices.get(text) || []), name]);
  scene.runs.forEach((run, r) => {
    for (const {places, title} of scene.columnsOf(r)) {
      note(blank, run.steps[scene.step(r)].maps[places[r]].blank, scene.prefix(r) + title);
      note(changes, changeOf(run, scene.step(r), places[r]), scene.prefix(r) + title);
    }
  });
  return [blank, changes].flatMap((notices) =>
    shortened([...notices].map(([text, names]) => `${shortened(names).join(', ')}: ${text}`)),
  );
}

function changeOf(run, step, key) {
  const count = (name) => sumOf(run.probes.map((_, probe) => valueOf(run, name, step, key, probe))) || 0;
  const counts = ['flipped', 'went_blank', 'came_back'].map((name) => [name.replace('_', ' '), count(name)]);
  const some = counts.filter(([, number]) => number > 0).map((pair) => pair.join(': '));
  return some.length ? `since the step before, ${some.join(', ')} (of ${run.probes.length} probes; no drift)` : '';
}

function shortened(list) {
  return list.length > NAMED ? [...list.slice(0, NAMED), `and ${list.length - NAMED} more`] : list;
}

// Spoken once the slider rests.
export function summed(scene) {
  const [run] = scene.runs;
  const known = run.probes.map((_, probe) => run.right(scene.step(0), probe)).filter((right) => right !== null);
  const rights = known.length ? `, ${known.filter(Boolean).length} of ${known.length} probes right` : '';
  return scene.label() + rights;
}
