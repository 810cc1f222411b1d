// Sentences for screen readers, and short texts for the page.
import {minus, percent, shortNumber, sumOf, valueOf} from './numbers.js';

// '1 probe', '2 probes'.
export function numberOf(count, thing) {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}

// Returns a fact about the runs shown: as text if it is the same for all, else for each run.
export function ofEach(scene, fact) {
  const facts = scene.runs.map(fact);
  return facts.every((one) => one === facts[0]) ? facts[0] : facts.map((one, r) => scene.prefix(r) + one).join(', ');
}

// Returns a step's label for use within a sentence.
export function inWords(label) {
  return label.replace(/^untrained/, 'the untrained model');
}

const DOWN = ['upper', 'middle', 'lower'];
const ACROSS = ['left', 'centre', 'right'];

// Returns the kind and symbol for a right or wrong prediction; the symbol repeats what the colour shows.
export function signOf(right) {
  if (right === null) return {kind: 'open', glyph: ''};
  return right ? {kind: 'right', glyph: '✓ '} : {kind: 'wrong', glyph: '✗ '};
}

// Returns '✓ Coat' and ' 93%'; for several labels the set, for a regression the value, for embeddings the similarity.
export function verdict(run, step, probe) {
  const predicted = run.predicted(step, probe);
  if (predicted < 0) return valueWords(run, step, probe);
  const set = run.steps[step].sets?.[probe];
  if (set) {
    const names = set.map(([index, share]) => `${run.className(index)} ${percent(share)}`);
    // Records store at most ten classes.
    const text = [...names, ...(names.length < 10 ? [] : ['…'])].join(', ') || 'no class above 50%';
    return {text, share: '', kind: 'open', spoken: `predicted ${text}`};
  }
  const {kind, glyph} = signOf(run.right(step, probe));
  const [name, sure] = [run.className(predicted), percent(run.confidence(step, probe))];
  const share = sure && ` ${sure}`;
  return {text: glyph + name, share, kind, spoken: `predicted ${name}${share}${glyph && `, ${kind}`}`};
}

// Names of targets whose score is that of a box, or a sum over pixels, as in lightning_gradcam/render/tiles.py.
const OF_PLACES = /^(detect|segment|segment_mask)(\d+|_predicted)(_boxes)?$/;

// Whether a target explains the scores that the model gives to classes.
function isClassed(run, target) {
  return !OF_PLACES.test(target) && run.steps.some(({targets}) => targets[target]?.classes.some((index) => index >= 0));
}

// Returns the kind of score of a target that explains no class, as in lightning_gradcam/render/tiles.py.
function unclassedWord(target) {
  return /^output\d+$/.test(target) ? 'value' : /^similar_to\d+$/.test(target) ? 'similarity' : 'score';
}

// Returns the kinds of scores that a run's maps explain, such as 'logit'.
export function quantities(run) {
  const kinds = run.keys.map(({target}) => (isClassed(run, target) ? run.header.score : unclassedWord(target)));
  return [...new Set(kinds)].join(' and ');
}

// Returns what the maps shown explain, for a sentence.
export function explainedThing({runs}) {
  const classed = runs.some((run) => run.keys.some(({target}) => isClassed(run, target)));
  return classed ? 'the score of the explained class' : `the explained ${quantities(runs[0])}`;
}

// Describes the explained score if there are no classes.
function valueWords(run, step, probe) {
  const targets = Object.entries(run.steps[step].targets).filter(([, {scores}]) => scores[probe] !== null);
  const named = targets.map(([name, {scores}]) => {
    return `${targets.length > 1 ? name : unclassedWord(name)} ${shortNumber(scores[probe])}`;
  });
  const text = named.join(', ');
  return {text, share: '', kind: text ? 'open' : 'none', spoken: text ? `no predicted class, ${text}` : 'no prediction'};
}

export function noticeOf(state, {signed}) {
  return {blank: signed ? 'zero everywhere' : 'no positive evidence', broken: 'map not finite'}[state] || '';
}

// Returns the explained class, unless the target is the predicted class.
export function explained(run, step, key, probe) {
  return run.keys[key].target === 'predicted' ? '' : run.explainedClass(step, key, probe);
}

export function described(run, step, key, probe, kind, state, look) {
  const {layer} = run.keys[key];
  const truth = run.trueNames(probe);
  const shown = kind === 'map' ? 'map alone, ' : '';
  const which = `Probe ${run.probes[probe].id}, ${shown}layer ${layer}, ${run.label(step)}`;
  const classes = `${verdict(run, step, probe).spoken}${truth && `, true ${truth}`}`;
  if (noticeOf(state, look)) return `${which}: ${classes}; ${noticeOf(state, look)}`;
  const [top, low] = [run.maximum(step, key, probe), look.signed ? run.minimum(step, key, probe) : 0];
  const at = (sign) => `at the ${whereabouts(run.peak(step, key, probe, sign))}`;
  const ends = [top > 0 && `maximum ${shortNumber(top)} ${at(1)}`, low > 0 && `minimum ${minus(low)} ${at(-1)}`];
  return `${which}: ${classes}; map ${ends.filter(Boolean).join(', ')}`;
}

export function whereabouts({x, y}) {
  const [down, across] = [DOWN[Math.min(2, Math.floor(y * 3))], ACROSS[Math.min(2, Math.floor(x * 3))]];
  return down === 'middle' && across === 'centre' ? 'centre' : `${down} ${across}`;
}

// Returns a text such as 'Coat, Shirt from epoch 3'.
export function history(run, probe) {
  const flips = run.flips(probe);
  const first = run.steps.findIndex((_, step) => run.predicted(step, probe) >= 0);
  if (first < 0) return 'no predictions';
  const from = (step) => `${run.className(run.predicted(step, probe))} from ${run.label(step)}`;
  return [first === 0 ? run.className(run.predicted(0, probe)) : from(first), ...flips.map(from)].join(', ');
}

const SCALE_WORDS = {
  image: 'the largest value of each map',
  run: 'one value for each probe, layer and method in the whole run',
  layer: 'the largest value of all probes at each layer in the whole run',
};

// Returns the method and the target of all maps shown; if there are several, each map states its own.
export function explainedWords({runs, method, methods, target, targets}) {
  const one = (chosen, all) => (chosen !== 'all' ? chosen : all.length === 1 ? all[0] : undefined);
  const key = runs.flatMap((run) => run.keys).find((other) => other.method === one(method, methods));
  const explained = one(target, targets);
  const words = explained === undefined ? '' : `target: ${targetWords(runs[0], explained)}`;
  return [key?.method_title, words].filter(Boolean).join(' · ');
}

// Describes the meaning of the brightest colour. Two runs do not share a scale: each has its own.
export function scaleWords({runs, state}) {
  const own = runs.length > 1 && state.scale !== 'image' ? ' (A and B each have their own)' : '';
  const change = state.view === 'difference' ? ' · difference: red gained, blue lost, grey the same' : '';
  return `brightest colour: ${SCALE_WORDS[state.scale]}${own}${change}`;
}

const TARGETS = {predicted: 'predicted class', label: 'true class'};

// Returns a target's name for the list, and whether it is the same class at all steps of a run for every probe.
export function targetWords(run, name) {
  if (!run.titles.has(name)) run.titles.set(name, targetTitle(run, name));
  return run.titles.get(name);
}

export function targetName(run, name) {
  return TARGETS[name] || (/^\d+$/.test(name) ? run.className(Number(name)) : name.replace('_vs_', ' vs '));
}

function targetTitle(run, name) {
  const all = run.steps.map((step) => step.targets[name]?.classes ?? []);
  const known = all.flat().some((index) => index >= 0);
  const fixed = all.every((classes) => classes.every((index, probe) => index === all[0][probe]));
  const title = targetName(run, name);
  return known ? `${title} (${fixed ? 'never changes' : 'can change'})` : title;
}

// Maximum number of layers named in a notice.
const NAMED = 3;

// Returns notices about maps that are blank at this step (with the reason) or not finite, and the numbers of probes
// whose explained class changed, or whose map became blank or is no longer blank since the previous step.
export function blankNotices(scene) {
  const blank = new Map();
  const changes = new Map();
  const note = (notices, text, name) => text && notices.set(text, [...(notices.get(text) || []), name]);
  for (const {r, run, key, label} of scene.lines) {
    for (const text of lacking(run, scene.step(r), key, scene.look)) note(blank, text, label);
    note(changes, changeOf(run, scene.step(r), key), label);
  }
  return [blank, changes].flatMap((notices) =>
    shortened([...notices].map(([text, names]) => `${shortened(names).join(', ')}: ${text}`)),
  );
}

// Returns notices about kinds of evidence that maps at a step lack.
function lacking(run, step, key, {signed}) {
  const {blank, maxima, minima} = run.steps[step].maps[key];
  const count = (test) => maxima.filter((top, n) => top === 0 && test(minima[n])).length;
  const [against, zero] = [count((low) => low > 0), count((low) => low === 0)];
  const lost = maxima.filter((top) => top === null).length;
  const broken = lost && `not finite: ${lost} of ${numberOf(maxima.length, 'map')}`;
  if (!signed) return [blank && blank + (against ? ' “For and against” shows the evidence against the class.' : ''), broken];
  return [
    broken,
    run.isOneSided(key) && `${run.keys[key].method_title} found nothing against a class in this run, so nothing is blue`,
    against && `evidence against the class only in ${against} of ${numberOf(maxima.length, 'map')}`,
    zero && `zero everywhere: ${zero} of ${numberOf(maxima.length, 'map')}`,
  ];
}

const CHANGES = {flipped: 'explained class changed', went_blank: 'map became blank', came_back: 'map no longer blank'};

function changeOf(run, step, key) {
  const count = (name) => sumOf(run.probes.map((_, probe) => valueOf(run, name, step, key, probe))) || 0;
  const counts = Object.entries(CHANGES).map(([name, words]) => [words, count(name)]);
  const some = counts.filter(([, number]) => number > 0).map(([words, number]) => `${words} for ${number}`);
  const all = `of ${numberOf(run.probes.length, 'probe')}`;
  return some.length ? `since the previous step, ${some.join(', ')} ${all}; drift leaves these out` : '';
}

function shortened(list) {
  return list.length > NAMED ? [...list.slice(0, NAMED), `and ${list.length - NAMED} more`] : list;
}

// Returns the number of right predictions at this step for each run, padded to a constant length; empty without true
// classes.
export function rightWords(scene) {
  let missing = 0;
  const counts = scene.runs.map((run, r) => {
    const known = run.probes.map((_, probe) => run.right(scene.step(r), probe)).filter((right) => right !== null);
    const [count, total] = [known.filter(Boolean).length, known.length].map(String);
    missing += total.length - count.length;
    return known.length > 0 && `${scene.prefix(r)}${count} of ${total}`;
  });
  // With several labels, only the most probable class is judged.
  const what = scene.runs.some(({steps}) => steps.some(({sets}) => sets)) ? 'top classes' : scene.once ? 'images' : 'probes';
  return counts.some(Boolean) ? `${counts.filter(Boolean).join(', ')} ${what} right${'\u2007'.repeat(missing)}` : '';
}

// Returns the text to announce once the slider has stopped.
export function summed(scene) {
  return [scene.label(), rightWords(scene).trim()].filter(Boolean).join(', ');
}
