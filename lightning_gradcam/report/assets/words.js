// Sentences for those who hear the page, and short lines for those who see it.
import {percent, shortNumber, sumOf, valueOf} from './numbers.js';

const DOWN = ['upper', 'middle', 'lower'];
const ACROSS = ['left', 'centre', 'right'];

// '✓ Coat 93 %'; shape and words say what the colour says.
export function verdict(run, step, probe) {
  const predicted = run.predicted(step, probe);
  if (predicted < 0) return {text: '', kind: 'none', spoken: 'no prediction'};
  const right = run.right(step, probe);
  const glyph = right === null ? '' : right ? '✓ ' : '✗ ';
  const said = `${run.className(predicted)} ${percent(run.confidence(step, probe))}`.trim();
  const kind = right === null ? 'open' : right ? 'right' : 'wrong';
  return {text: glyph + said, kind, spoken: `predicted ${said}${right === null ? '' : right ? ', right' : ', wrong'}`};
}

export function noticeOf(state) {
  return {blank: 'no positive evidence', broken: 'map not finite'}[state] || '';
}

// What is explained, where it is not the prediction.
export function explained(run, step, key, probe) {
  const name = run.keys[key].target;
  const target = run.steps[step].targets[name];
  const index = target ? target.classes[probe] : -1;
  return index >= 0 && name !== 'predicted' ? run.className(index) : '';
}

export function described(run, step, key, probe, kind, state) {
  const {layer} = run.keys[key];
  const parts = [
    `Probe ${run.probes[probe].id}, ${kind === 'map' ? 'map alone, ' : ''}layer ${layer}, ${run.label(step)}`,
  ];
  const about = [verdict(run, step, probe).spoken];
  if (run.trueNames(probe)) about.push(`true ${run.trueNames(probe)}`);
  parts.push(about.join(', '));
  parts.push(
    noticeOf(state) ||
      `map maximum ${shortNumber(run.maximum(step, key, probe))} at the ${whereabouts(run.peak(step, key, probe))}`,
  );
  return `${parts[0]}: ${parts[1]}; ${parts[2]}`;
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
    const mark = scene.runs.length > 1 ? `${scene.marks[r]} ` : '';
    for (const {places, title} of scene.columns) {
      if (places[r] < 0) continue;
      note(blank, run.steps[scene.step(r)].maps[places[r]].blank, mark + title);
      note(changes, changeOf(run, scene.step(r), places[r]), mark + title);
    }
  });
  return [blank, changes].flatMap((notices) =>
    shortened([...notices].map(([text, names]) => `${shortened(names).join(', ')}: ${text}`)),
  );
}

function changeOf(run, step, key) {
  const count = (name) => sumOf(run.probes.map((_, probe) => valueOf(run, name, step, key, probe))) || 0;
  const counts = [
    ['flipped', count('flipped')],
    ['went blank', count('went_blank')],
    ['came back', count('came_back')],
  ];
  const some = counts.filter(([, number]) => number > 0).map((pair) => pair.join(': '));
  return some.length ? `since the step before, ${some.join(', ')} (of ${run.probes.length} probes; no drift)` : '';
}

function shortened(list) {
  return list.length > NAMED ? [...list.slice(0, NAMED), `and ${list.length - NAMED} more`] : list;
}

// What is said once the slider rests.
export function summed(scene) {
  const [run] = scene.runs;
  const known = run.probes.map((_, probe) => run.right(scene.step(0), probe)).filter((right) => right !== null);
  const rights = known.length ? `, ${known.filter(Boolean).length} of ${known.length} probes right` : '';
  return scene.label() + rights;
}
