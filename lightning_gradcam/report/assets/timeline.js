// The strip of one probe's predictions: a piece for each class, the confidence as a line, and a tick at each flip.
import {lineKey, linePath, placeAt} from './chart.js';
import {draw, make} from './dom.js';
import {chosenNumber, largest, numberInfo, smallest, valueOf} from './numbers.js';
import {history, signOf} from './words.js';

export function timeline(scene, r, probe, onpick) {
  const run = scene.runs[r];
  const count = scene.positions.length;
  const attributes = {
    role: 'img',
    title: 'Predictions over the epochs; the line is the confidence. Click to go to an epoch.',
    'aria-label': `Predictions of probe ${run.probes[probe].id}: ${history(run, probe)}`,
    onclick: (event) => onpick(placeAt(event, strip.getBoundingClientRect(), count)),
  };
  const parts = pieces(scene, r, probe).map(({from, to, step}) => piece(run, probe, from, to, step, count));
  const strip = make('div.timeline', attributes, parts, confidenceLine(scene, r, probe), make('div.marker'));
  return strip;
}

// Creates the label for the line in the strip, placed below it; false if no confidence is known.
export function confidenceName(run, probe) {
  const known = run.steps.some((_, step) => run.confidence(step, probe) !== null);
  return known && make('span.confidence-name', {'aria-hidden': 'true'}, 'above: confidence');
}

function pieces(scene, r, probe) {
  const run = scene.runs[r];
  const found = [];
  for (let place = 0; place < scene.positions.length; place += 1) {
    const step = scene.stepAt(place, r);
    const last = found.at(-1);
    if (last && run.predicted(last.step, probe) === run.predicted(step, probe)) last.to = place + 1;
    else found.push({from: place, to: place + 1, step});
  }
  return found;
}

function piece(run, probe, from, to, step, count) {
  const predicted = run.predicted(step, probe);
  const {kind, glyph} = signOf(run.right(step, probe));
  const name = predicted < 0 ? '' : run.className(predicted);
  const title = `${name || 'no prediction'}, from ${run.label(step)}`;
  const element = make(`span.piece.${kind}${from > 0 && run.flipped(step, probe) ? '.flip' : ''}`, {title}, glyph + name);
  element.style.left = `${(from / count) * 100}%`;
  element.style.width = `${((to - from) / count) * 100}%`;
  return element;
}

function confidenceLine(scene, r, probe) {
  const run = scene.runs[r];
  const count = scene.positions.length;
  let path = '';
  for (let place = 0; place < count; place += 1) {
    const value = run.confidence(scene.stepAt(place, r), probe);
    if (value === null) continue;
    path += `${path === '' ? 'M' : 'L'}${place} ${(1 - value) * 20 + 1}H${place + 1}`;
  }
  return stretched(count, 22, draw('path', {d: path, class: 'confidence'}));
}

// Creates a drawing that fills its strip, with a width of one unit per position.
export function stretched(count, height, ...children) {
  const viewBox = `0 0 ${count} ${height}`;
  return draw('svg', {viewBox, preserveAspectRatio: 'none', 'aria-hidden': 'true'}, children);
}

// Returns the number's name and range, shared by the small curves on all cards to make them comparable.
export function sparkScale(scene) {
  const [run] = scene.runs;
  const name = chosenNumber(run, scene.state.number);
  const values = scene.lines.flatMap(({run: one, key}) =>
    one.steps.flatMap((_, step) => one.probes.map((__, probe) => valueOf(one, name, step, key, probe))),
  );
  const low = Math.min(0, smallest(values));
  const high = largest(values);
  return {name, title: numberInfo(run, name).title, low, high: high > low ? high : low + 1};
}

// Draws a number for this probe's maps over the epochs, with a line for each layer.
export function sparkline(scene, r, probe, {name, title, low, high}) {
  const run = scene.runs[r];
  const y = (value) => (1 - (value - low) / (high - low)) * 22 + 1;
  const lines = scene.columns.map(({places, dash}) => {
    const values = run.steps.map((_, step) => valueOf(run, name, step, places[r], probe));
    return linePath(scene.along(r, values), (place) => place + 0.5, y, dash);
  });
  const svg = stretched(scene.positions.length, 24, lines);
  const attributes = {title: `${title}; each layer’s line has the colour and dash shown at its name`};
  const confidence = scene.hasClasses() && confidenceName(scene.runs[r], probe);
  // Where no map is shown, its caption can't name its line.
  const unnamed = scene.state.view === 'original' && scene.state.show === 'cards' ? scene.columns : [];
  const keys = unnamed.map((column) => make('span', lineKey(scene, column), column.title));
  const names = make('div.strip-names', confidence, make('span', `below: ${title}`), keys);
  const none = lines.every((line) => line.getAttribute('d') === '') && make('p.spark-none', 'no value for this probe');
  return [names, make('div.spark', attributes, none, svg, make('div.marker'))];
}

// Moves the markers of the current position on strips and small curves. Uses transforms, which need no new layout.
export function moveMarkers(markers, scene) {
  const share = ((scene.at + 0.5) / scene.positions.length) * 100;
  for (const marker of markers) marker.style.transform = `translateX(${share}%)`;
}
