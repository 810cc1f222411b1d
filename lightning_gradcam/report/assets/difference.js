// Draws the change between two logged steps at each location: red gained, blue lost, grey the same.
import {DIVERGING} from './colour.js';
import {largest, percent, shortNumber, smallest} from './numbers.js';
import {lay} from './paint.js';
import {noticeOf} from './words.js';

// Returns the later step's map minus the earlier step's, relative to the value of the brightest colour. On the scale
// `image`, each map is first divided by its own largest value, so only its pattern counts.
function differenceOf(run, look, [before, after], key, probe) {
  const [from, to] = [before, after].map((step) => run.values(look, step, key, probe));
  const [start, end] = [before, after].map((step) => run.limit(look, step, key, probe) || Infinity);
  return to.map((value, place) => value / end - from[place] / start);
}

// Draws differences, relative to the value of the brightest colour. Larger differences, which signed maps can have, get
// the last colour.
export function layDifference(canvas, picture, key, shares, look, state) {
  const clipped = shares.map((share) => Math.max(-1, Math.min(1, share)));
  lay(canvas, picture, key, clipped, {...look, colour: DIVERGING, signed: true}, 'map', state);
}

// Draws the difference between two steps, [before, after]. Returns {state: 'broken', 'same' or '', text: for the
// caption, which is also spoken}.
export function paintDifference(canvas, picture, run, steps, key, probe, look) {
  const shares = differenceOf(run, look, steps, key, probe);
  const broken = steps.some((step) => run.maximum(step, key, probe) === null);
  layDifference(canvas, picture, run.keys[key], shares, look, broken ? 'broken' : '');
  if (broken) return {state: 'broken', text: noticeOf('broken', look)};
  const [low, high] = [Math.min(0, smallest(shares)), Math.max(0, largest(shares))];
  const classes = steps.map((step) => run.explainedClass(step, key, probe));
  const change = classes[0] === classes[1] ? '' : `class changed: ${classes.join(' → ')}; `;
  if (low === 0 && high === 0) return {state: 'same', text: `${change}no difference`};
  const limit = run.limit(look, steps[1], key, probe);
  const number = (share) => (look.scale === 'image' ? percent(share) : shortNumber(share * limit));
  const end = look.scale === 'image' ? '100% of each map’s largest value' : shortNumber(limit);
  const parts = [low < 0 && `lost ${number(-low)}`, high > 0 && `gained ${number(high)}`];
  return {state: '', text: `${change}${parts.filter(Boolean).join(', ')}; full colour ±${end}`};
}
