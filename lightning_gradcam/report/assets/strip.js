// The strip behind the slider: drift by epoch (across) and layer (down), with ticks for changed predictions.
import {placeAt} from './chart.js';
import {colourTable, paintColourBar} from './colour.js';
import {draw, make, setText} from './dom.js';
import {driftTable, LARGE, largePlaces} from './moves.js';
import {largest, shortNumber} from './numbers.js';
import {stretched} from './timeline.js';
import {numberOf} from './words.js';

// From dark blue to yellow; looks similar to people with and without colour blindness.
const STRIP_COLOURS = 'cividis';
const TICK = 10;

export class Strip {
  // act: {pick(place)}; slider: the slider for the positions.
  constructor(act, slider) {
    this.canvas = make('canvas.drifts', {role: 'img', width: 1, height: 1});
    this.ticks = make('div.flip-ticks');
    const onclick = (event) => event.target !== slider && act.pick(this.placeAt(event));
    this.track = make('div.strip', {onclick, onpointermove: (event) => this.tell(event)}, this.canvas, slider);
    this.bar = make('canvas.colour-bar', {'aria-hidden': 'true', width: 256, height: 1});
    this.end = make('span');
    this.rest = make('span');
    this.words = make('div.strip-words', make('span', 'Drift 0'), this.bar, this.end, this.rest);
    this.element = make('div.strip-box', this.track, this.ticks, this.words);
  }

  placeAt(event) {
    return placeAt(event, this.track.getBoundingClientRect(), this.count);
  }

  build(scene) {
    const probes = scene.studied();
    Object.assign(this, {scene, count: scene.positions.length, table: driftTable(scene, probes)});
    this.flips = scene.positions.map((_, place) => scene.flipsAt(place, probes).length);
    const values = this.table.flatMap((row) => row.values).filter((value) => value !== null);
    // If nothing moves much, noise must not be as bright as a large change.
    this.top = Math.max(LARGE, largest(values));
    this.paint();
    this.element.style.setProperty('--count', String(this.count));
    const tick = (count, place) => count > 0 && `M${place + 0.5} 0v${5 + (5 * count) / probes.length}`;
    const d = this.flips.map(tick).filter(Boolean).join('');
    this.ticks.replaceChildren(stretched(this.count, TICK, draw('path', {d})));
    this.words.hidden = values.length === 0;
    if (!this.words.hidden) this.explain(scene);
  }

  explain(scene) {
    paintColourBar(this.bar, STRIP_COLOURS);
    setText(this.end, shortNumber(this.top));
    const names = this.table.map(({label}) => label);
    const rows = names.length > 1 ? `rows: ${names[0]} (top) to ${names.at(-1)}` : `layer ${names[0]}`;
    const flips = this.flips.some((count) => count > 0) ? ' · ticks: changed predictions' : '';
    // With two runs, one may also lack an epoch.
    const grey = scene.runs.length > 1 ? 'no step, or too few maps to compare' : 'too few maps to compare';
    const few = this.table.some((row) => row.values.some((value, place) => place > 0 && value === null));
    setText(this.rest, `${rows}${flips}${few ? ` · grey: ${grey}` : ''}`);
    this.rest.title = this.rest.textContent;
    const large = largePlaces(scene, this.table).map((place) => scene.label(place));
    const found = large.length > 0 ? `large changes in ${large.join(', ')}` : 'no large change';
    this.canvas.setAttribute('aria-label', `Drift by epoch and layer: ${found}`);
  }

  paint() {
    const {canvas, table, count} = this;
    const image = new ImageData(count, Math.max(1, table.length));
    const colours = colourTable(STRIP_COLOURS);
    table.forEach(({values}, row) => {
      values.forEach((value, place) => {
        if (value === null) return;
        const entry = Math.round((255 * value) / this.top) * 4;
        image.data.set(colours.subarray(entry, entry + 4), (row * count + place) * 4);
      });
    });
    Object.assign(canvas, {width: image.width, height: image.height});
    canvas.getContext('2d').putImageData(image, 0, 0);
  }

  // Shows the numbers at the pointer.
  tell(event) {
    const place = this.placeAt(event);
    const drifts = this.table.map(({label, values}) => `${label} ${shortNumber(values[place])}`);
    const flips = this.flips[place] > 0 ? `; ${numberOf(this.flips[place], 'changed prediction')}` : '';
    const title = `${this.scene.label(place)}: drift ${drifts.join(', ')}${flips}`;
    if (this.track.title !== title) this.track.title = title;
  }
}
