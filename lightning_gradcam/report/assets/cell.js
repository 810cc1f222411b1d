// One picture: a canvas with its caption, and the border of the marked region above it.
import {draw, make, setText} from './dom.js';
import {shortNumber} from './numbers.js';
import {paint} from './paint.js';
import {described, explained, noticeOf} from './words.js';

const SHORT_SIDE = {tiny: 56, small: 84, medium: 112, large: 224, detail: 280};

// CSS pixels of one slice's width: whole multiples of small pictures, so that no pixel is smeared.
export function cellWidth({width, height}, size) {
  if (size === 'original') return width;
  const shorter = Math.min(width, height);
  const factor = SHORT_SIDE[size] / shorter;
  return Math.round(width * (factor >= 1 ? Math.floor(factor) : factor));
}

// kind: 'original', 'overlay' or 'map'; column: null for originals.
export class Cell {
  constructor(scene, r, probe, column, kind) {
    Object.assign(this, {r, probe, column, kind});
    this.key = column ? column.places[r] : 0;
    this.picture = scene.pictures[r][probe];
    const shown = column ? scene.runs[r].keys[this.key].slices : this.picture.slices;
    const size = {width: 1, height: 1};
    this.canvas = make('canvas', {role: 'img', class: this.picture.width < 128 ? 'crisp' : 'smooth', ...size});
    const outlined = scene.state.region === 'on' && this.picture.region;
    const frame = make('div.frame', this.canvas, outlined && regionOutline(this.picture, shown));
    const name = make('span.caption-name', {title: column?.layer}, column ? column.title : 'picture');
    this.value = make('span.caption-value');
    this.element = make(`figure.cell.${kind}`, frame, make('figcaption', name, this.value));
    this.element.style.setProperty('--slices', String(shown));
  }

  update(scene) {
    const run = scene.runs[this.r];
    const step = scene.step(this.r);
    const state = paint(this.canvas, this.picture, run, step, this.key, this.probe, scene.look, this.kind);
    if (this.kind === 'original') {
      const truth = run.trueNames(this.probe);
      const words = `Probe ${run.probes[this.probe].id}: the picture alone${truth && `, true ${truth}`}`;
      this.canvas.setAttribute('aria-label', words);
      return;
    }
    this.canvas.setAttribute('aria-label', described(run, step, this.key, this.probe, this.kind, state));
    this.element.classList.toggle('blank', state === 'blank');
    this.element.classList.toggle('broken', state === 'broken');
    const about = explained(run, step, this.key, this.probe);
    const value = noticeOf(state) || `max ${shortNumber(run.maximum(step, this.key, this.probe))}`;
    setText(this.value, about ? `${about}, ${value}` : value);
  }
}

export function regionOutline({width, height, region}, slices) {
  const path = (kind) => draw('path', {d: region, class: kind});
  const copies = Array.from({length: slices}, (_, slice) =>
    draw('g', {transform: `translate(${slice * (width + 1)} 0)`}, path('border-dark'), path('border-light')),
  );
  const viewBox = `0 0 ${slices * (width + 1) - 1} ${height}`;
  return draw('svg', {class: 'region', viewBox, 'aria-hidden': 'true'}, copies);
}

// The cells of one run of one probe in the chosen view.
export function cellsOf(scene, r, probe) {
  const {view} = scene.state;
  const cells = [new Cell(scene, r, probe, null, 'original')];
  if (view === 'original') return cells;
  for (const column of scene.columnsOf(r)) {
    if (view !== 'map') cells.push(new Cell(scene, r, probe, column, 'overlay'));
    if (view !== 'overlay') cells.push(new Cell(scene, r, probe, column, 'map'));
  }
  return cells;
}
