// The page for one probe: large images and maps, every epoch, and its numbers as curves and as a table.
import {Row} from './card.js';
import {Cell, cellWidth, kindsOf} from './cell.js';
import {ChartPanel} from './chart.js';
import {apartCells, apartPane} from './compare.js';
import {button, make} from './dom.js';
import {Film} from './film.js';
import {chosenNumber, mapNumbers, numberInfo, shortNumber, valueOf} from './numbers.js';
import {chartContent} from './overview.js';
import {confidenceName, moveMarkers, timeline} from './timeline.js';
import {ofEach, quantities} from './words.js';

export class Detail {
  // act: {pick(place), close(), open(probe)}.
  constructor(act) {
    this.act = act;
    this.panel = new ChartPanel(170);
    this.element = make('section.detail');
  }

  build(scene, probe) {
    const [run] = scene.runs;
    const name = chosenNumber(run, scene.state.number);
    this.table = make('div.table-box');
    this.rows = [];
    const runs = scene.rowsOf(probe).map(({r, place}) => this.ofRun(scene, r, place));
    const curve = [make('h3', `${numberInfo(run, name).title} of this probe`), this.panel.element];
    const numbers = [make('h3', scene.once ? 'Numbers' : 'Numbers at this epoch'), this.table];
    const curves = make('div.detail-numbers', !scene.once && make('section', curve), make('section', numbers));
    this.element.setAttribute('aria-label', `Probe ${run.probes[probe].id}`);
    this.apart = apartCells(scene, probe);
    const pane = this.apart.length > 0 && make('div.detail-run', apartPane(this.apart));
    const sides = make('div.detail-runs', runs, pane);
    this.element.replaceChildren(this.head(scene, probe), sides, curves);
    this.measure(scene);
    this.panel.show(chartContent(scene, [name], [probe], this.act.pick), scene.at);
  }

  head(scene, probe) {
    const [run] = scene.runs;
    const order = scene.order();
    const go = (by, text, name) => {
      const next = order[order.indexOf(probe) + by];
      return button(text, () => this.act.open(next), {'aria-label': name, disabled: next === undefined});
    };
    const truth = run.trueNames(probe);
    this.heading = make('h2', {tabindex: '-1'}, `#${run.probes[probe].id}`, truth && make('span.truth', truth));
    const back = button('← All probes', () => this.act.close(), {class: 'back', title: 'Back (Esc)'});
    const [before, next] = [go(-1, '‹ previous', 'Previous probe'), go(1, 'next ›', 'Next probe')];
    return make('div.detail-head', back, this.heading, before, next);
  }

  // Sets the widths of images. Film strips are larger if there is space, or slightly smaller if all epochs then fit.
  measure(scene) {
    const {display} = scene.runs[0].header;
    const room = (this.element.clientWidth - 120) / scene.positions.length / scene.slices - 4;
    const [thumb, larger] = ['small', 'medium'].map((size) => cellWidth(display, size));
    const {style} = this.element;
    style.setProperty('--cell', `${Math.max(cellWidth(display, 'detail'), 1)}px`);
    const usual = room < larger ? thumb : larger;
    style.setProperty('--thumb', `${room < thumb && room > thumb * 0.7 ? Math.floor(room) : usual}px`);
  }

  ofRun(scene, r, place) {
    const run = scene.runs[r];
    const columns = scene.columnsOf(r);
    const original = new Cell(scene, r, place, null, 'original');
    const kinds = kindsOf(scene, ['overlay', 'map']);
    const pairs = columns.map((column) => kinds.map((kind) => new Cell(scene, r, place, column, kind)));
    const boxes = pairs.map((pair, i) => {
      const box = make(kinds.length > 2 ? 'div.pair.three' : 'div.pair', pair);
      box.style.setProperty('--slices', String(run.keys[columns[i].places[r]].slices));
      return box;
    });
    const films = scene.once ? [] : columns.map((column) => new Film(scene, r, place, column, this.act.pick));
    const row = new Row(r, place, [original, ...pairs.flat(), ...films], 'no prediction');
    this.rows.push(row);
    const whose = scene.runs.length > 1 && [make('span.badge', scene.marks[r]), make('span.run-name', run.name)];
    const flips = run.flips(place).map((step) => this.flipButton(scene, r, place, step));
    return make(
      'div.detail-run',
      make('div.run-line', whose, row.verdict),
      make('div.cells', original, boxes),
      !scene.once && [make('h3', 'All epochs'), make('div.films', films)],
      !scene.once && scene.hasClasses() && [timeline(scene, r, place, this.act.pick), confidenceName(run, place)],
      flips.length > 0 && make('div.flips', make('span', 'Flips'), flips),
    );
  }

  flipButton(scene, r, place, step) {
    const run = scene.runs[r];
    const [before, now] = [run.earlier(step, place), run.predicted(step, place)].map((index) => run.className(index));
    const go = () => this.act.pick(scene.positions.findIndex((_, at) => scene.stepAt(at, r) === step));
    return button(`${run.label(step)}: ${before} → ${now}`, go, {class: 'flip-button'});
  }

  update(scene) {
    for (const row of [...this.rows, ...this.apart]) row.update(scene);
    moveMarkers(this.element.querySelectorAll('.marker'), scene);
    this.panel.move(scene.at);
    this.fillTable(scene);
  }

  fillTable(scene) {
    const [first] = scene.runs;
    const lines = scene.lines.filter(({r}) => scene.placeIn(r, scene.open) >= 0);
    const head = lines.map(({column, label}) => make('th', {scope: 'col', title: column.layer}, label));
    const row = (title, reading, text) => {
      const cells = lines.map((line) => make('td', text(line, scene.step(line.r), scene.placeIn(line.r, scene.open))));
      return make('tr', {title: reading}, make('th', {scope: 'row'}, title), cells);
    };
    const rows = mapNumbers(first).map((name) => {
      const {title, reading} = numberInfo(first, name);
      return row(title, reading, ({run, key}, step, place) => shortNumber(valueOf(run, name, step, key, place)));
    });
    const scores = row(ofEach(scene, (run) => `explained ${quantities(run)}`), null, ({run, key, column}, step, place) => {
      const value = shortNumber(run.score(step, key, place));
      // A sum of probabilities can exceed 1.
      const summed = column.target === 'label' ? run.probes[place].true.length : 1;
      return summed > 1 ? `sum over ${summed} classes: ${value}` : value;
    });
    const titles = make('thead', make('tr', make('th', {scope: 'col'}, 'number'), head));
    this.table.replaceChildren(make('table', titles, make('tbody', rows, scores)));
  }
}
