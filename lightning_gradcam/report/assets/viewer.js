// The viewer of report.html, TensorBoard and notebooks: puts the parts together and keeps the state.
import {Address} from './address.js';
import {Bar} from './bar.js';
import {Board} from './card.js';
import {Detail} from './detail.js';
import {make, setText} from './dom.js';
import {Head} from './head.js';
import {helpDialog, keyHandler} from './keys.js';
import {Library} from './library.js';
import {Overview} from './overview.js';
import {Player} from './player.js';
import {Scene} from './scene.js';
import {choicesOf} from './state.js';
import {SCALE_WORDS, blankNotices, summed} from './words.js';

// What needs no new elements.
const LIGHT = ['epoch', 'step', 'opacity', 'threshold', 'colour', 'scale', 'speed', 'theme'];

// root: an empty element. source: {runs(), load(name), watch?(callback)}. options: {title, hash: whether the address
// keeps the state, theme: 'auto', 'light' or 'dark', empty: text while there are no runs, beside: the run to compare with
// where the address does not say}. Returns {ready: Promise,
// destroy(), show([run, compare]), theme(name)}.
export function mount(root, source, options = {}) {
  const viewer = new Viewer(root, source, {
    title: 'Grad-CAM',
    hash: true,
    theme: 'auto',
    empty: 'There are no maps yet.',
    beside: '',
    ...options,
  });
  return {
    ready: viewer.start(),
    destroy: () => viewer.destroy(),
    show: (runs) => viewer.show(runs),
    theme: (name) => viewer.wear(name),
  };
}

class Viewer {
  constructor(root, source, options) {
    Object.assign(this, {
      root,
      source,
      options,
      library: new Library(source),
      scene: null,
      ticket: 0,
      frame: 0,
      pause: 0,
    });
    this.address = new Address(options.hash, (state) => this.follow(state));
    this.state = this.address.state();
    if (!this.state.run && !this.state.compare) this.state.compare = options.beside;
    const act = {
      set: (changes) => this.set(changes),
      pick: (place) => this.pick(place),
      step: (by) => this.pick(this.scene.at + by),
      play: () => this.play(),
      open: (probe) => this.open(probe),
      close: () => this.close(),
      theme: () => this.cycleTheme(),
      help: () => this.help.showModal(),
    };
    this.player = new Player(
      () => this.forward(),
      (on) => this.bar.playing(on),
    );
    this.head = new Head(act, options.title);
    this.bar = new Bar(act);
    this.overview = new Overview(act);
    this.board = new Board(act);
    this.detail = new Detail(act);
    this.help = helpDialog();
    this.status = make('p', {class: 'status', role: 'status', text: 'Reading the maps…'});
    this.count = make('p', {class: 'count', role: 'status'});
    this.notices = make('ul', {class: 'notices', 'aria-label': 'Blank maps and flipped predictions'});
    this.main = make(
      'main',
      {},
      this.overview.element,
      this.count,
      this.notices,
      this.board.element,
      this.detail.element,
    );
    root.classList.add('gradcam');
    root.append(this.head.element, this.status, this.bar.element, this.head.standIn, this.main, this.help);
    this.reveal(false);
    this.listen();
    this.dress();
  }

  listen() {
    const handler = keyHandler({
      step: (by) => this.pick(this.scene.at + by),
      ends: (last) => this.pick(last ? this.scene.positions.length - 1 : 0),
      play: () => this.play(),
      flip: (by) => this.toFlip(by),
      layer: (by) => this.set({layers: this.scene.soloed(by)}),
      cycle: (name) => this.cycle(name),
      probe: (by) => this.toProbe(by),
      close: () => this.close(),
      theme: () => this.cycleTheme(),
      help: () => this.help.showModal(),
    });
    this.stops = [];
    const on = (target, name, listener) => {
      target.addEventListener(name, listener);
      this.stops.push(() => target.removeEventListener(name, listener));
    };
    on(document, 'keydown', (event) => this.scene && handler(event));
    on(window.matchMedia('(prefers-color-scheme: dark)'), 'change', () => this.dress());
    this.stops.push(() => this.address.stop());
    if (this.source.watch) {
      const stop = this.source.watch(() => this.renew());
      if (stop) this.stops.push(stop);
    }
  }

  async start() {
    await this.renew();
    this.root.dataset.ready = 'true';
    performance.mark('gradcam-ready');
  }

  // For a page with a list of runs of its own: shows one of them, or two side by side.
  show([run = '', compare = '']) {
    Object.assign(this.state, {run, compare});
    this.address.write(this.state);
    return this.renew();
  }

  // The theme of the page around.
  wear(theme) {
    this.options.theme = theme;
    this.dress();
  }

  destroy() {
    this.player.stop();
    for (const stop of this.stops) stop();
    window.clearTimeout(this.pause);
    window.cancelAnimationFrame(this.frame);
    this.board.stop();
    this.overview.stop();
    this.detail.stop();
    this.root.replaceChildren();
  }

  // Reads the list of runs (again) and shows what has changed.
  async renew() {
    try {
      await this.library.renew();
      await this.openRuns();
    } catch (error) {
      this.say(`The maps can't be shown: ${error.message}`);
    }
  }

  async openRuns() {
    this.ticket += 1;
    const {ticket} = this;
    const entries = this.library.chosen(this.state);
    if (entries.length === 0) return this.say(this.options.empty);
    const found = await Promise.all(entries.map((entry) => this.library.load(entry)));
    if (ticket !== this.ticket) return undefined;
    const shown = found.filter(({run}) => run.steps.length > 0 && run.keys.length > 0);
    if (shown.length === 0) return this.say(`${entries[0].run} has no logged step yet.`);
    this.scene = new Scene(
      shown.map(({run}) => run),
      shown.map(({pictures}) => pictures),
    );
    this.reveal(true);
    this.layout();
    return undefined;
  }

  say(text) {
    this.scene = null;
    this.reveal(false);
    this.status.textContent = text;
  }

  reveal(on) {
    this.status.hidden = on;
    for (const element of [this.bar.element, this.main]) element.hidden = !on;
    this.head.standIn.hidden = true;
  }

  // Changes what is chosen. Where elements stay the same, only pixels and texts are renewed.
  set(changes) {
    Object.assign(this.state, changes);
    this.address.write(this.state);
    if ('run' in changes || 'compare' in changes) this.reopen();
    else if (!this.scene || Object.keys(changes).every((name) => LIGHT.includes(name))) this.refresh();
    else this.layout();
    if ('speed' in changes && this.player.on) this.player.start(Number(changes.speed));
    if ('theme' in changes) this.dress();
  }

  // A link or the address has changed the state.
  follow(state) {
    this.player.stop();
    this.state = state;
    this.dress();
    this.reopen();
  }

  reopen() {
    this.openRuns().catch((error) => this.say(`The run can't be shown: ${error.message}`));
  }

  layout() {
    const {scene} = this;
    scene.take(this.state);
    const probe = this.openProbe();
    this.root.dataset.page = probe < 0 ? 'board' : 'detail';
    this.head.build(scene, this.library.entries);
    this.bar.build(scene);
    for (const element of [this.board.element, this.overview.element, this.count]) element.hidden = probe >= 0;
    this.overview.element.hidden ||= scene.once;
    this.detail.element.hidden = probe < 0;
    if (probe < 0) {
      this.overview.build(scene);
      this.board.build(scene);
    } else this.detail.build(scene, probe);
    this.paint();
  }

  // One drawing for all changes between two frames.
  refresh() {
    if (!this.frame) this.frame = window.requestAnimationFrame(() => this.paint());
  }

  paint() {
    window.cancelAnimationFrame(this.frame);
    this.frame = 0;
    const {scene, state} = this;
    if (!scene) return;
    scene.take(state);
    this.bar.dress(scene);
    this.bar.move(scene);
    this.head.move(scene);
    this.notice(blankNotices(scene));
    if (this.openProbe() >= 0) this.detail.update(scene);
    else {
      this.overview.move(scene);
      this.board.update(scene);
      const total = scene.runs[0].probes.length;
      const all = scene.once ? `${total} picture${total === 1 ? '' : 's'}` : `${total} probes`;
      const shown = this.board.count === total ? all : `${this.board.count} of ${all}`;
      setText(this.count, `${shown} · brightest colour: ${SCALE_WORDS[state.scale]}`);
    }
    this.announceLater();
  }

  notice(lines) {
    const text = lines.join('\n');
    if (this.noticed === text) return;
    this.noticed = text;
    this.notices.replaceChildren(...lines.map((line) => make('li', {text: line})));
    this.notices.hidden = lines.length === 0;
  }

  openProbe() {
    const place = this.state.probe === '' ? undefined : this.scene.runs[0].places.get(this.state.probe);
    return place === undefined ? -1 : place;
  }

  pick(place) {
    this.player.stop();
    this.moveTo(place);
  }

  moveTo(place) {
    const {scene} = this;
    const next = Math.min(scene.positions.length - 1, Math.max(0, place));
    Object.assign(this.state, scene.stateAt(next));
    this.address.write(this.state);
    // At once, so that several steps within one frame add up.
    scene.at = next;
    this.refresh();
  }

  play() {
    if (this.player.on) {
      this.player.stop();
      return;
    }
    const {scene} = this;
    if (scene.positions.length < 2) return;
    if (scene.at === scene.positions.length - 1) this.moveTo(0);
    this.player.start(Number(this.state.speed));
  }

  forward() {
    const last = this.scene ? this.scene.positions.length - 1 : 0;
    if (!this.scene || this.scene.at >= last) return false;
    this.moveTo(this.scene.at + 1);
    return this.scene.at < last;
  }

  toFlip(by) {
    const open = this.openProbe();
    const place = this.scene.nextFlip(by, open >= 0 ? [open] : this.scene.order());
    if (place !== undefined) this.pick(place);
  }

  cycle(name) {
    const choices = choicesOf(name);
    this.set({[name]: choices[(choices.indexOf(this.state[name]) + 1) % choices.length]});
  }

  toProbe(by) {
    const open = this.openProbe();
    if (open < 0) {
      this.board.step(by);
      return;
    }
    const order = this.scene.order();
    const next = order[order.indexOf(open) + by];
    if (next !== undefined) this.open(next);
  }

  open(probe) {
    if (this.openProbe() < 0) this.scrolled = window.scrollY;
    this.set({probe: this.scene.runs[0].probes[probe].id});
    this.detail.heading?.focus({preventScroll: true});
    const top = this.root.getBoundingClientRect().top + window.scrollY;
    if (window.scrollY > top) window.scrollTo(0, top);
  }

  close() {
    const probe = this.openProbe();
    if (probe < 0) return;
    this.set({probe: ''});
    if (this.scrolled !== undefined) window.scrollTo(0, this.scrolled);
    this.board.focus(probe);
  }

  cycleTheme() {
    this.set({theme: this.root.dataset.theme === 'dark' ? 'light' : 'dark'});
  }

  dress() {
    const chosen = this.state.theme === 'auto' ? this.options.theme : this.state.theme;
    const dark = chosen === 'dark' || (chosen === 'auto' && window.matchMedia('(prefers-color-scheme: dark)').matches);
    this.root.dataset.theme = dark ? 'dark' : 'light';
    this.head.named(this.state.theme);
  }

  announceLater() {
    window.clearTimeout(this.pause);
    if (this.player.on) return;
    this.pause = window.setTimeout(() => {
      if (this.scene) this.bar.announce(summed(this.scene));
    }, 600);
  }
}
