// The strip of one probe's predictions: a piece for each class, the confidence as a line, a tick at each flip.
import {DASHES} from './chart.js';
import {draw, make} from './dom.js';
import {chosenNumber, largest, numberInfo, valueOf} from './numbers.js';
import {history} from './words.js';

export function timeline(scene, r, probe, onpick) {
  const run = scene.runs[r];
  const count = scene.positions.length;
  const strip = make('div', {
    class: 'timeline',
    role: 'img',
    title: 'Predictions over the epochs; the line is the confidence. Click: go there',
    'aria-label': `Predictions of probe ${run.probes[probe].id}: ${history(run, probe)}`,
    onclick: (event) => {
      const box = strip.getBoundingClientRect();
      onpick(Math.min(count - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * count))));
    },
  });
  for (const {from, to, step} of pieces(scene, r, probe)) strip.append(piece(run, probe, from, to, step, count));
  strip.append(confidenceLine(scene, r, probe), make('div', {class: 'marker'}));
  return strip;
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
  const right = run.right(step, probe);
  const kind = right === null ? 'open' : right ? 'right' : 'wrong';
  const glyph = right === null ? '' : right ? '✓ ' : '✗ ';
  const name = predicted < 0 ? '' : run.className(predicted);
  const element = make('span', {
    class: `piece ${kind}${from > 0 ? ' flip' : ''}`,
    text: glyph + name,
    title: `${name}, from ${run.label(step)}`,
  });
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
  return draw(
    'svg',
    {viewBox: `0 0 ${count} 22`, preserveAspectRatio: 'none', 'aria-hidden': 'true'},
    draw('path', {d: path, class: 'confidence'}),
  );
}

// What the small curves of all cards share: the number's name and range, so that they can be compared.
export function sparkScale(scene) {
  const [run] = scene.runs;
  const name = chosenNumber(run, scene.state.number);
  const values = scene.runs.flatMap((one, r) =>
    scene.columns.flatMap(({places}) =>
      one.steps.flatMap((_, step) => one.probes.map((__, probe) => valueOf(one, name, step, places[r], probe))),
    ),
  );
  const low = Math.min(0, -largest(values.map((value) => (value === null ? null : -value))));
  const high = largest(values);
  return {name, title: numberInfo(run, name).title, low, high: high > low ? high : low + 1};
}

// The number of this probe's maps over the epochs, a line for each layer.
export function sparkline(scene, r, probe, {name, title, low, high}) {
  const count = scene.positions.length;
  const svg = draw('svg', {viewBox: `0 0 ${count} 24`, preserveAspectRatio: 'none', 'aria-hidden': 'true'});
  for (const {places, dash} of scene.columns) {
    let path = '';
    let open = false;
    for (let place = 0; place < count; place += 1) {
      const value = scene.has(place, r) ? valueOf(scene.runs[r], name, scene.stepAt(place, r), places[r], probe) : null;
      if (value !== null) path += `${open ? 'L' : 'M'}${place + 0.5} ${(1 - (value - low) / (high - low)) * 22 + 1}`;
      open = value !== null;
    }
    svg.append(draw('path', {d: path, class: `line hue-${dash % 8}`, 'stroke-dasharray': DASHES[dash % 8]}));
  }
  return make(
    'div',
    {class: 'spark', title: `${title}, a line for each layer as in the curves above`},
    make('span', {text: title}),
    svg,
    make('div', {class: 'marker'}),
  );
}

// Moves the marks of the current position on strips and small curves. Transforms, since they need no new layout.
export function moveMarkers(markers, scene) {
  const share = ((scene.at + 0.5) / scene.positions.length) * 100;
  for (const marker of markers) marker.style.transform = `translateX(${share}%)`;
}
