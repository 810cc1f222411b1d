// A line chart over the slider's positions, with labels at the lines, dashes in addition to colours, and a marker.
import {draw, make} from './dom.js';
import {isKnown, largest, shortNumber, smallest} from './numbers.js';

const DASHES = ['', '7 3', '2 3', '9 3 2 3', '4 2', '12 4', '1 2', '6 2 1 2 1 2'];
const TOP = 8;
const BOTTOM = 20;
const LEFT = 46;
// Approximate width of a character in a label, in pixels.
const SIGN = 7.3;
const LABEL_PITCH = 14;

// Draws a line through the known values, with gaps at missing ones; `dash` selects its colour and dash pattern.
export function linePath(values, x, y, dash, kind = '') {
  const points = values.map((value, place) => {
    if (value === null) return '';
    const [before, after] = [values[place - 1], values[place + 1]].map(isKnown);
    // A lone value is a short dash.
    return `${before ? 'L' : 'M'}${x(place).toFixed(1)} ${y(value).toFixed(1)}${before || after ? '' : 'h.4'}`;
  });
  // From the ninth on, the colours have other dashes.
  const look = {class: `line hue-${dash % 8}${kind}`, 'stroke-dasharray': DASHES[(dash + (dash >> 3)) % 8]};
  return draw('path', {d: points.join(''), ...look});
}

// Returns a piece of a column's line to show beside its name; false if there is only one line or no curve.
export function lineKey({columns, positions}, {dash}) {
  if (columns.length < 2 || positions.length < 2) return false;
  const piece = linePath([2, 2], (place) => 16 * place, Number, dash);
  return draw('svg', {class: 'line-key', viewBox: '0 0 16 4', preserveAspectRatio: 'none', 'aria-hidden': 'true'}, piece);
}

// Returns which of `count` places of equal width is at the pointer; left, width: the extent of all, in window pixels.
export function placeAt(event, {left, width}, count) {
  return Math.min(count - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * count)));
}

// series: [{label, values: [number or null], counts: [number of probes in each mean], of: total number of probes, dash:
// index, second: whether it belongs to run B, band: {lows, highs, counts} over runs}]; info: {title, low, high,
// reading}; ticks: the text below each position; room: length of the longest label in characters. Returns {element,
// move(at)}.
export function lineChart({series, info, ticks, width, height, name, onpick, room = labelRoom({series, ticks})}) {
  const count = ticks.length;
  const [low, high] = range(series, info);
  const needed = (room + 9) * SIGN;
  const edge = {left: LEFT, right: Math.min(width * 0.5, needed), top: TOP, bottom: BOTTOM};
  // If labels do not fit next to the curves, sample sizes are on a second line.
  const broken = needed > width * 0.5 && series.some((one) => ticks.some((_, at) => sampleOf(one, at) !== ''));
  const x = (place) => edge.left + ((place + 0.5) / count) * (width - edge.left - edge.right);
  const y = (value) => edge.top + (1 - (value - low) / (high - low)) * (height - edge.top - edge.bottom);
  const marker = draw('line', {class: 'now', y1: edge.top, y2: height - edge.bottom});
  const lines = series.map((one) => line(one, x, y, count));
  const onclick = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = box.width / width;
    const inside = (width - edge.left - edge.right) * scale;
    onpick(placeAt(event, {left: box.left + edge.left * scale, width: inside}, count));
  };
  const svg = draw(
    'svg',
    {viewBox: `0 0 ${width} ${height}`, width, height, class: 'chart', role: 'img', onclick},
    axis({low, high, x, y, ticks, width, height, right: edge.right}),
    marker,
    lines.map((found) => found.group),
  );
  const move = (at) => {
    setAll(marker, {x1: x(at), x2: x(at)});
    const wanted = series.map(({values}) => y(values[at] ?? values.findLast(isKnown) ?? low));
    const spread = spreadLabels(wanted, height, broken ? 2 : 1);
    series.forEach((one, i) => {
      const value = one.values[at];
      const {dot, text} = lines[i];
      dot.setAttribute('visibility', value === null ? 'hidden' : 'visible');
      if (value !== null) setAll(dot, {cx: x(at), cy: y(value)});
      const left = width - edge.right + 8;
      setAll(text, {x: left, y: spread[i] + 4});
      const [first, sample] = [`${clipped(one.label)} ${shortNumber(value)}`, sampleOf(one, at)];
      if (broken) text.replaceChildren(first, draw('tspan', {x: left, dy: LABEL_PITCH}, sample.trim()));
      else text.textContent = first + sample;
    });
    const values = series.map((one) => `${one.label} ${shortNumber(one.values[at])}${sampleOf(one, at)}`);
    svg.setAttribute('aria-label', `${name}: ${values.join(', ')}`);
  };
  return {element: svg, move};
}

// Returns the length in characters of the longest label at the lines, without its value.
export function labelRoom({series, ticks}) {
  const sample = (one) => Math.max(0, ...ticks.map((_, at) => sampleOf(one, at).length));
  return Math.max(0, ...series.map((one) => clipped(one.label).length + sample(one)));
}

function setAll(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

// Returns the sample size of a mean, if some probes have no value; for a band, its range and number of runs.
function sampleOf({counts = [], of = 0, band}, at) {
  if (band?.counts[at]) {
    const [low, high] = [band.lows, band.highs].map((values) => shortNumber(values[at]));
    return ` (${low}–${high}, n = ${band.counts[at]})`;
  }
  const count = counts[at] ?? null;
  return count === null || count === of || of < 2 ? '' : ` (${count} of ${of})`;
}

function clipped(label) {
  return label.length > 15 ? `…${label.slice(-14)}` : label;
}

function range(series, {low, high}) {
  const all = series.flatMap(({values, band}) => [...values, ...(band ? [...band.lows, ...band.highs] : [])]);
  const [bottom, top] = all.some(isKnown) ? [smallest(all), largest(all)] : [0, 1];
  const from = Math.min(low ?? 0, bottom);
  // Adapt the scale if the values use only a small part of the full range.
  const to = isKnown(high) && top > (from + high) / 3 ? Math.max(high, top) : top + (top - from) * 0.08;
  return [from, to > from ? to : from + 1];
}

function axis({low, high, x, y, ticks, width, height, right}) {
  const tick = (text, anchor, place) => draw('text', {class: 'tick', 'text-anchor': anchor, ...place}, text);
  const found = [0, 0.5, 1].flatMap((share) => {
    const value = low + (high - low) * share;
    const text = shortNumber(Number(value.toPrecision(2)));
    const grid = draw('line', {class: 'grid', x1: LEFT, x2: width - right, y1: y(value), y2: y(value)});
    return [grid, tick(text, 'end', {x: LEFT - 6, y: y(value) + 4})];
  });
  const every = Math.max(1, Math.ceil(ticks.length / Math.max(2, Math.floor((width - LEFT - right) / 34))));
  ticks.forEach((text, place) => {
    if (place % every === 0) found.push(tick(text, 'middle', {x: x(place), y: height - 5}));
  });
  return found;
}

// Returns the path of a band, with gaps at missing values.
function bandArea({lows, highs}, x, y) {
  const parts = [];
  lows.forEach((low, place) => {
    if (low === null) return;
    if (place === 0 || lows[place - 1] === null) parts.push([]);
    parts.at(-1).push(place);
  });
  const side = (places, values) => places.map((place) => `${x(place).toFixed(1)} ${y(values[place]).toFixed(1)}`);
  const around = (places) => `M${[...side(places, highs), ...side([...places].reverse(), lows)].join('L')}Z`;
  return parts.map(around).join('');
}

function line({values, dash, second, band}, x, y, count) {
  const kind = second ? ' second' : '';
  const hue = `hue-${dash % 8}${kind}`;
  const dot = draw('circle', {class: `dot ${hue}`, r: second ? 4 : 3.5});
  const text = draw('text', {class: `direct ${hue}`});
  const area = band && draw('path', {d: bandArea(band, x, y), class: `band ${hue}`});
  const group = draw('g', area, linePath(values, x, y, dash, kind));
  // Draw a point for a value without neighbours, which has no visible line.
  values.forEach((value, place) => {
    const alone = !isKnown(values[place - 1]) && !isKnown(values[place + 1]);
    if (value !== null && (alone || (second && count <= 40)))
      group.append(draw('circle', {class: `point ${hue}`, cx: x(place), cy: y(value), r: 2.5}));
  });
  group.append(dot, text);
  return {group, dot, text};
}

// Moves labels apart vertically, keeping their order; lines: number of text lines per label.
function spreadLabels(wanted, height, lines) {
  const order = wanted.map((_, i) => i).sort((i, j) => wanted[i] - wanted[j]);
  const found = [...wanted];
  const pitch = lines * LABEL_PITCH;
  order.forEach((i, rank) => {
    if (rank > 0) found[i] = Math.max(found[i], found[order[rank - 1]] + pitch);
  });
  const lowest = height - BOTTOM + 2 - (lines - 1) * LABEL_PITCH;
  if (order.length && found[order.at(-1)] > lowest) {
    let limit = lowest;
    for (const i of [...order].reverse()) {
      found[i] = Math.min(found[i], limit);
      limit = found[i] - pitch;
    }
  }
  return found;
}

// A chart that is redrawn when its width changes.
export class ChartPanel {
  constructor(height = 150) {
    this.height = height;
    this.element = make('div.chart-panel');
    new ResizeObserver(() => this.redraw()).observe(this.element);
  }

  show(content, at) {
    Object.assign(this, {content, at});
    this.width = 0;
    this.redraw();
  }

  redraw() {
    const width = Math.floor(this.element.clientWidth);
    if (!this.content || width < 80 || width === this.width) return;
    this.width = width;
    this.chart = lineChart({...this.content, width, height: this.height});
    this.element.replaceChildren(this.chart.element);
    this.chart.move(this.at);
  }

  move(at) {
    this.at = at;
    if (this.chart) this.chart.move(at);
  }
}
