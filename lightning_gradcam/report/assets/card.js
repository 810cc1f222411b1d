// One probe: its name, and for each run the prediction, the pictures (or film strips) and the timeline.
import {cellsOf, cellWidth} from './cell.js';
import {make, setText} from './dom.js';
import {Film} from './film.js';
import {moveMarkers, sparkline, sparkScale, timeline} from './timeline.js';
import {verdict} from './words.js';

const THUMBS = {small: 'tiny', medium: 'small', large: 'medium'};
// Pixels between pictures and between cards, beside a card's content, and before a film strip.
const GAP = 8;
const BETWEEN = 12;
const EDGES = 26;
const FILM_NAME = 84;
const FRAME = 4;

export class Card {
  // act: {pick(place), open(probe)}.
  constructor(scene, probe, act, spark) {
    const [run] = scene.runs;
    Object.assign(this, {probe, visible: false, stale: true, films: scene.state.show === 'film'});
    const {id} = run.probes[probe];
    this.title = make('button', {
      type: 'button',
      class: 'probe-name',
      text: `#${id}`,
      title: `All about probe ${id}`,
      'aria-label': `Probe ${id}, open`,
      onclick: () => act.open(probe),
    });
    const truth = run.trueNames(probe);
    const head = make(
      'h3',
      {class: 'card-head'},
      this.title,
      truth ? make('span', {class: 'truth', text: truth, title: `true: ${truth}`}) : null,
    );
    this.element = make('article', {class: 'card', 'aria-label': `Probe ${id}${truth ? `, true ${truth}` : ''}`}, head);
    this.element.card = this;
    this.rows = [];
    this.markers = [];
    scene.runs.forEach((_, r) => {
      const place = scene.placeIn(r, probe);
      if (place >= 0) this.addRow(scene, r, place, act, head, spark);
    });
  }

  addRow(scene, r, place, act, head, spark) {
    const said = make('span', {class: 'verdict'});
    const parts = this.films
      ? scene.columns
          .filter((column) => column.places[r] >= 0)
          .map((column) => new Film(scene, r, place, column, act.pick))
      : cellsOf(scene, r, place);
    const pictures = make('div', {class: this.films ? 'films' : 'cells'}, ...parts.map((part) => part.element));
    if (!this.films) pictures.addEventListener('click', () => act.open(this.probe));
    const row = make('div', {class: 'run-row'});
    if (scene.runs.length > 1) {
      row.append(make('div', {class: 'run-line'}, make('span', {class: 'badge', text: scene.marks[r]}), said));
    } else head.append(said);
    row.append(pictures);
    if (scene.positions.length > 1) {
      const strips = make('div', {class: 'strips'});
      if (scene.hasClasses()) strips.append(timeline(scene, r, place, act.pick));
      strips.append(sparkline(scene, r, place, spark));
      row.append(strips);
      this.markers.push(...strips.querySelectorAll('.marker'));
    }
    this.element.append(row);
    this.rows.push({r, place, said, parts});
  }

  // Draws now where the card is on the screen, and later where it is not.
  update(scene) {
    this.stale = true;
    if (this.visible) this.draw(scene);
  }

  draw(scene) {
    if (!this.stale) return;
    this.stale = false;
    moveMarkers(this.markers, scene);
    for (const {r, place, said, parts} of this.rows) {
      const {text, kind} = verdict(scene.runs[r], scene.step(r), place);
      setText(said, text);
      said.className = `verdict ${kind}${scene.runs[r].flipped(scene.step(r), place) ? ' just-flipped' : ''}`;
      said.title = scene.runs[r].flipped(scene.step(r), place) ? 'predicted; it has just changed' : 'predicted';
      for (const part of parts) part.update(scene);
    }
  }
}

// All cards, in the order and with the filters chosen.
export class Board {
  constructor(act) {
    this.act = act;
    this.element = make('div', {class: 'board'});
    this.none = make('p', {class: 'nothing', hidden: true});
    this.sizer = new ResizeObserver(() => this.fit());
    this.sizer.observe(this.element);
    this.watcher = new IntersectionObserver((entries) => this.seen(entries), {rootMargin: '400px 0px'});
  }

  build(scene) {
    this.scene = scene;
    this.watcher.disconnect();
    this.order = null;
    const [run] = scene.runs;
    this.measure(scene);
    this.fit();
    const spark = sparkScale(scene);
    setText(this.none, `No probe passes the filters${scene.once ? '' : ' at this epoch'}.`);
    this.cards = run.probes.map((_, probe) => new Card(scene, probe, this.act, spark));
    this.arrange(scene);
    for (const card of this.cards) this.watcher.observe(card.element);
  }

  // How wide pictures and cards are at least.
  measure(scene) {
    const {view, size, show} = scene.state;
    const {display} = scene.runs[0].header;
    const slices = Math.max(1, ...scene.columns.map((column) => column.slices));
    const count = 1 + scene.columns.length * {original: 0, overlay: 1, map: 1, both: 2}[view];
    const width = cellWidth(display, size);
    const thumb = size === 'original' ? Math.min(display.width, 64) : cellWidth(display, THUMBS[size]);
    const film = scene.positions.length * (thumb * slices + FRAME) + FILM_NAME;
    const card = show === 'film' ? film : Math.min(count, 12) * (width * slices + GAP);
    const base = show === 'film' ? thumb : width;
    this.sizes = {
      size,
      slices,
      count: Math.min(count, 12),
      base,
      pixels: display.width,
      film: show === 'film' ? scene.positions.length : 0,
      card: Math.max(300, card + EDGES),
    };
    const {style} = this.element;
    style.setProperty('--across', String(Math.min(count, size === 'large' || slices > 1 ? 2 : 4)));
    style.setProperty('--card-width', `${this.sizes.card}px`);
    this.element.classList.toggle('as-film', show === 'film');
  }

  // Enlarges pictures to fill their cards, small ones by whole numbers, so that no pixel is smeared.
  fit() {
    if (!this.sizes) return;
    const {size, slices, count, base, pixels, film, card} = this.sizes;
    const whole = this.element.clientWidth;
    const across = Math.max(1, Math.floor((whole + BETWEEN) / (card + BETWEEN)));
    const inside = (whole + BETWEEN) / across - BETWEEN - EDGES;
    const room = film
      ? ((inside - FILM_NAME - FRAME) / film - FRAME) / slices
      : (inside - GAP * (count - 1)) / count / slices;
    const unit = base > pixels ? pixels : 1;
    const wide = Math.floor(Math.min(room, base * 1.7) / unit) * unit;
    // Better a strip that fits than pixels of one size.
    const nearly = film && room < base && room > base * 0.7 ? Math.floor(room) : base;
    const best = size === 'original' || wide < base ? nearly : wide;
    this.element.style.setProperty(film ? '--thumb' : '--cell', `${best}px`);
  }

  arrange(scene) {
    const order = scene.order();
    if (this.order !== order.join()) {
      this.order = order.join();
      this.element.replaceChildren(...order.map((probe) => this.cards[probe].element), this.none);
      this.none.hidden = order.length > 0;
    }
    this.count = order.length;
  }

  update(scene) {
    this.scene = scene;
    this.arrange(scene);
    for (const card of this.cards) card.update(scene);
  }

  seen(entries) {
    for (const {target, isIntersecting} of entries) {
      target.card.visible = isIntersecting;
      if (isIntersecting) target.card.draw(this.scene);
    }
  }

  // Moves the keyboard's focus by so many cards.
  step(by) {
    const names = [...this.element.querySelectorAll('.probe-name')];
    const at = names.indexOf(document.activeElement);
    const next = names[at < 0 ? 0 : Math.min(names.length - 1, Math.max(0, at + by))];
    if (next) next.focus();
  }

  focus(probe) {
    if (this.cards[probe]) this.cards[probe].title.focus();
  }

  stop() {
    this.watcher.disconnect();
    this.sizer.disconnect();
  }
}
