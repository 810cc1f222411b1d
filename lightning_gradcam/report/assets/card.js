// A card for one probe: its name, and for each run the prediction, the images (or film strips) and the timeline.
import {cellsOf, cellWidth, kindsOf} from './cell.js';
import {apartCells, apartPane, isSided, panesOf} from './compare.js';
import {button, make, setText} from './dom.js';
import {Film} from './film.js';
import {moveMarkers, sparkline, sparkScale, timeline} from './timeline.js';
import {verdict} from './words.js';

const THUMBS = {small: 'tiny', medium: 'small', large: 'medium'};
// Pixels between images, between cards, on the sides of a card's content, and before a film strip.
const GAP = 8;
const BETWEEN = 12;
const EDGES = 26;
const FILM_NAME = 84;
const FRAME = 4;
// Milliseconds without a change after which the slider counts as stopped.
const REST = 250;

// A probe in one run: its prediction, and the images and strips that follow the slider.
export class Row {
  // place: the probe's index in that run; parts: cells and film strips; none: the text shown without a prediction.
  constructor(r, place, parts, none = '') {
    Object.assign(this, {r, place, parts, none, name: make('span.verdict-name'), share: make('span.verdict-share')});
    this.verdict = make('span.verdict', this.name, this.share);
  }

  update(scene) {
    const run = scene.runs[this.r];
    const step = scene.step(this.r);
    const {text, share, kind, spoken} = verdict(run, step, this.place);
    const flipped = run.flipped(step, this.place);
    // If there is little space, the class name is truncated, and not the probability.
    setText(this.name, text || this.none);
    setText(this.share, share);
    this.verdict.hidden = this.verdict.textContent === '';
    this.verdict.className = `verdict ${kind}${flipped ? ' just-flipped' : ''}`;
    this.verdict.title = flipped ? `${spoken}; it has just changed` : spoken;
    for (const part of this.parts) part.update(scene);
  }
}

class Card {
  // act: {pick(place), open(probe)}.
  constructor(scene, probe, act, spark) {
    const [run] = scene.runs;
    Object.assign(this, {probe, visible: false, near: false, stale: true, films: scene.state.show === 'film'});
    const {id} = run.probes[probe];
    this.title = button(`#${id}`, () => act.open(probe), {
      class: 'probe-name',
      title: `All about probe ${id}`,
      'aria-label': `Probe ${id}, open`,
    });
    const truth = run.trueNames(probe);
    const head = make('h3.card-head', this.title, truth && make('span.truth', {title: `true: ${truth}`}, truth));
    this.element = make('article.card', {'aria-label': `Probe ${id}${truth && `, true ${truth}`}`}, head);
    this.element.card = this;
    Object.assign(this, {act, spark, rows: [], markers: [], strips: []});
    const sided = isSided(scene);
    const whole = sided ? make('div.versus') : this.element;
    if (sided) this.element.append(whole);
    for (const {r, place} of scene.rowsOf(probe)) this.addRow(scene, r, place, head, whole);
    const cells = sided ? apartCells(scene, probe) : [];
    if (cells.length > 0) whole.append(apartPane(cells));
    this.rows.push(...cells);
  }

  addRow(scene, r, place, head, whole) {
    const {act} = this;
    let parts = this.films
      ? scene.columnsOf(r).map((column) => new Film(scene, r, place, column, act.pick))
      : cellsOf(scene, r, place);
    const row = new Row(r, place, parts);
    if (whole !== this.element) {
      // Both runs have the same image, so show it once.
      if (r === 0) whole.append(make('div.versus-picture', parts[0]));
      else row.parts = parts.slice(1);
      parts = parts.slice(1);
    }
    const pictures = make(this.films ? 'div.films' : 'div.cells', parts);
    if (!this.films) pictures.addEventListener('click', () => act.open(this.probe));
    const several = scene.runs.length > 1;
    if (!several) head.append(row.verdict);
    const mark = make('span.badge', {title: scene.runs[r].name}, scene.marks[r]);
    const line = several && make('div.run-line', mark, row.verdict);
    const strips = scene.positions.length > 1 && make(scene.hasClasses() ? 'div.strips.with-classes' : 'div.strips');
    if (strips) this.strips.push({strips, r, place});
    whole.append(make('div.run-row', line, pictures, strips));
    this.rows.push(row);
  }

  // Called only when the card is first drawn, because the curves of a long run take time.
  fillStrips(scene) {
    for (const {strips, r, place} of this.strips.splice(0)) {
      if (scene.hasClasses()) strips.append(timeline(scene, r, place, this.act.pick));
      strips.append(...sparkline(scene, r, place, this.spark));
      this.markers.push(...strips.querySelectorAll('.marker'));
    }
  }

  // Draws the card now if it is on the screen, else later.
  update(scene) {
    this.stale = true;
    if (this.visible) this.draw(scene);
  }

  draw(scene) {
    if (!this.stale) return;
    this.stale = false;
    this.fillStrips(scene);
    moveMarkers(this.markers, scene);
    for (const row of this.rows) row.update(scene);
  }
}

// All cards that pass the selected filter, in the selected order.
export class Board {
  constructor(act) {
    this.act = act;
    this.element = make('div.board');
    this.none = make('p.nothing', {hidden: true});
    new ResizeObserver(() => this.fit()).observe(this.element);
    this.watcher = new IntersectionObserver((entries) => this.seen(entries, 'visible'));
    // Cards near the window are drawn once the slider has stopped, before they are scrolled into view.
    this.outlook = new IntersectionObserver((entries) => this.seen(entries, 'near'), {rootMargin: '400px 0px'});
  }

  build(scene) {
    this.scene = scene;
    for (const watcher of [this.watcher, this.outlook]) watcher.disconnect();
    this.order = null;
    const [run] = scene.runs;
    this.fit();
    const spark = sparkScale(scene);
    setText(this.none, `No probe passes the filters${scene.once ? '' : ' at this epoch'}.`);
    this.cards = run.probes.map((_, probe) => new Card(scene, probe, this.act, spark));
    this.arrange(scene);
    for (const {element} of this.cards) {
      this.watcher.observe(element);
      this.outlook.observe(element);
    }
  }

  // Sets the widths of images and cards. Images are enlarged to fill their cards; small ones by whole numbers, to keep
  // pixels sharp.
  fit() {
    const {scene} = this;
    if (!scene) return;
    const {slices, positions} = scene;
    const {size, show} = scene.state;
    const {display} = scene.runs[0].header;
    const film = show === 'film';
    const kinds = kindsOf(scene).length;
    const panes = panesOf(scene);
    const images = Number(kinds < 3 || scene.runs.length > 1) + scene.columns.length * kinds;
    // Runs side by side share the image.
    let line = panes > 0 ? 1 + panes * (images - 1) : Math.min(images, 12);
    const thumb = size === 'original' ? Math.min(display.width, 64) : cellWidth(display, THUMBS[size]);
    const base = film ? thumb : cellWidth(display, size);
    const inner = film ? positions.length * (base * slices + FRAME) + FILM_NAME : line * (base * slices + GAP);
    const card = Math.max(300, inner + EDGES);
    const {style, classList, clientWidth} = this.element;
    style.setProperty('--across', String(Math.min(images, kinds === 3 ? 3 : size === 'large' || slices > 1 ? 2 : 4)));
    style.setProperty('--card-width', `${card}px`);
    style.setProperty('--panes', String(panes));
    classList.toggle('as-film', film);
    const across = Math.max(1, Math.floor((clientWidth + BETWEEN) / (card + BETWEEN)));
    const inside = (clientWidth + BETWEEN) / across - BETWEEN - EDGES;
    const roomOf = (cells) => (inside - GAP * (cells - 1)) / cells / slices;
    const least = panes > 0 ? base * 0.7 : base;
    while (panes > 0 && line > 1 + panes && roomOf(line) < least) line -= panes;
    const room = film ? ((inside - FILM_NAME - FRAME) / positions.length - FRAME) / slices : roomOf(line);
    const unit = base > display.width ? display.width : 1;
    const wide = Math.floor(Math.min(room, base * 1.7) / unit) * unit;
    // For a film strip, fitting into the card matters more than pixels of equal size.
    const nearly = film && room < base && room > base * 0.7 ? Math.floor(room) : base;
    const best = size === 'original' || wide < least ? nearly : wide;
    style.setProperty(film ? '--thumb' : '--cell', `${best}px`);
  }

  arrange(scene) {
    const order = scene.order();
    if (this.order !== order.join()) {
      this.order = order.join();
      // Restore scroll positions, which browsers reset for elements that move.
      const scrolled = [...this.element.querySelectorAll('.film-track')].map((track) => [track, track.scrollLeft]);
      this.element.replaceChildren(...order.map((probe) => this.cards[probe].element), this.none);
      for (const [track, left] of scrolled) track.scrollLeft = left;
      this.none.hidden = order.length > 0;
    }
    this.count = order.length;
  }

  update(scene) {
    this.scene = scene;
    this.arrange(scene);
    for (const card of this.cards) card.update(scene);
    this.drawNear();
  }

  drawNear() {
    window.clearTimeout(this.timer);
    const draw = () => this.cards.filter(({near}) => near).forEach((card) => card.draw(this.scene));
    this.timer = window.setTimeout(draw, REST);
  }

  seen(entries, how) {
    for (const {target, isIntersecting} of entries) {
      target.card[how] = isIntersecting;
      if (how === 'near') target.classList.toggle('far', !isIntersecting);
      if (isIntersecting && how === 'visible') target.card.draw(this.scene);
    }
    if (how === 'near') this.drawNear();
  }

  // Draws all cards, including those off the screen.
  drawAll() {
    for (const card of this.cards) card.draw(this.scene);
  }

  // Moves the keyboard focus to the next or previous card.
  step(by) {
    const names = [...this.element.querySelectorAll('.probe-name')];
    const at = names.indexOf(document.activeElement);
    const next = names[at < 0 ? 0 : Math.min(names.length - 1, Math.max(0, at + by))];
    if (next) next.focus();
  }

  focus(probe) {
    if (this.cards[probe]) this.cards[probe].title.focus();
  }
}
