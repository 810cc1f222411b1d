// One image, map or overlay: a canvas with its caption, and the outline of the marked region on top.
import {lineKey} from './chart.js';
import {draw, make, setText} from './dom.js';
import {paintDifference} from './difference.js';
import {minus, shortNumber} from './numbers.js';
import {paint} from './paint.js';
import {described, explained, noticeOf} from './words.js';

const SHORT_SIDE = {tiny: 56, small: 84, medium: 112, large: 224, detail: 280};

// Returns the width of one slice in CSS pixels: for small images, a whole multiple, to keep pixels sharp.
export function cellWidth({width, height}, size) {
  if (size === 'original') return width;
  const shorter = Math.min(width, height);
  const factor = SHORT_SIDE[size] / shorter;
  return Math.round(width * (factor >= 1 ? Math.floor(factor) : factor));
}

const OF_VIEW = {original: [], overlay: ['overlay'], map: ['map'], both: ['overlay', 'map']};
const OF_TWO = ['before', 'after', 'difference'];

// kind: 'original', 'overlay' or 'map'; for two steps 'before', 'after' (overlays) or 'difference'; for two runs
// 'apart'. column: null for originals.
export class Cell {
  constructor(scene, r, probe, column, kind) {
    Object.assign(this, {r, probe, column, kind});
    this.key = column ? column.places[r] : 0;
    this.picture = scene.pictures[r][probe];
    const shown = column ? scene.runs[r].keys[this.key].slices : this.picture.slices;
    const sharp = this.picture.width < 128 ? 'crisp' : 'smooth';
    this.canvas = make('canvas', {role: 'img', class: sharp, width: 1, height: 1});
    const outlined = scene.state.region === 'on' && this.picture.region;
    const frame = make('div.frame', this.canvas, areaBoxes(kind === 'apart' ? 0 : shown), outlined && regionOutline(this.picture, shown));
    this.name = make('span.caption-name', {title: column?.layer}, column ? column.title : 'image');
    this.value = make('span.caption-value');
    const key = column && kind !== 'apart' && lineKey(scene, column);
    if (key) this.name.classList.add(`hue-${column.dash % 8}`);
    this.element = make(`figure.cell.${kind}`, frame, make('figcaption', key, this.name, this.value));
    this.element.style.setProperty('--slices', String(shown));
  }

  update(scene) {
    const run = scene.runs[this.r];
    if (this.kind === 'difference') return this.compare(scene, run);
    const place = this.kind === 'before' ? scene.before : scene.at;
    const step = scene.stepAt(place, this.r);
    // Run B's own step, which can be of another epoch.
    if (OF_TWO.includes(this.kind)) setText(this.name, `${this.column.title} · ${run.label(step)}`);
    // The original image never changes.
    if (this.kind === 'original' && this.canvas.hasAttribute('aria-label')) return undefined;
    const kind = OF_TWO.includes(this.kind) ? 'overlay' : this.kind;
    const state = paint(this.canvas, this.picture, run, step, this.key, this.probe, scene.look, kind);
    if (this.kind === 'original') {
      const truth = run.trueNames(this.probe);
      const words = `Probe ${run.probes[this.probe].id}: the image alone${truth && `, true ${truth}`}`;
      return this.canvas.setAttribute('aria-label', words);
    }
    const about = explained(run, step, this.key, this.probe);
    this.canvas.title = `Brightest colour: ${shortNumber(run.limit(scene.look, step, this.key, this.probe))}`;
    const top = shortNumber(run.maximum(step, this.key, this.probe));
    const ends = scene.look.signed ? `${minus(run.minimum(step, this.key, this.probe))} to ${top}` : `max ${top}`;
    const value = noticeOf(state, scene.look) || ends;
    const words = described(run, step, this.key, this.probe, kind, state, scene.look);
    return this.tell(state, about ? `${about}, ${value}` : value, words);
  }

  // Sets the caption and the text for screen readers. state: 'blank', 'broken' or another one.
  tell(state, caption, spoken) {
    for (const name of ['blank', 'broken']) this.element.classList.toggle(name, state === name);
    setText(this.value, caption);
    this.canvas.setAttribute('aria-label', spoken);
  }

  compare(scene, run) {
    const steps = [scene.before, scene.at].map((place) => scene.stepAt(place, this.r));
    const {state, text} = paintDifference(this.canvas, this.picture, run, steps, this.key, this.probe, scene.look);
    const which = `${run.label(steps[1])} less ${run.label(steps[0])}`;
    setText(this.name, `${this.column.title} · ${which}`);
    this.tell(state, text, `Probe ${run.probes[this.probe].id}, layer ${this.column.layer}, ${which}: ${text}`);
  }
}

// Creates the elements that show the region tool's rectangle on each slice of an image.
function areaBoxes(slices) {
  return Array.from({length: slices}, (_, slice) => {
    const box = make('div.area-box', {'aria-hidden': 'true'});
    box.style.setProperty('--slice', String(slice));
    return box;
  });
}

export function regionOutline({width, height, region}, slices) {
  const path = (kind) => draw('path', {d: region, class: kind});
  const copies = Array.from({length: slices}, (_, slice) =>
    draw('g', {transform: `translate(${slice * (width + 1)} 0)`}, path('border-dark'), path('border-light')),
  );
  const viewBox = `0 0 ${slices * (width + 1) - 1} ${height}`;
  return draw('svg', {class: 'region', viewBox, 'aria-hidden': 'true'}, copies);
}

// Returns the kinds of cells for each column in a view; `otherwise` replaces those of all views except the difference.
export function kindsOf({state}, otherwise) {
  return state.view === 'difference' ? OF_TWO : otherwise || OF_VIEW[state.view];
}

// Creates the cells for a probe in one run, in the selected view.
export function cellsOf(scene, r, probe) {
  const kinds = kindsOf(scene);
  const maps = scene.columnsOf(r).flatMap((column) => kinds.map((kind) => new Cell(scene, r, probe, column, kind)));
  // Before, after and difference form a row of three, without the image. Two runs side by side share the image.
  return kinds === OF_TWO && scene.runs.length === 1 ? maps : [new Cell(scene, r, probe, null, 'original'), ...maps];
}
