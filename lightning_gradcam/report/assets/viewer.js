// The viewer for report.html, TensorBoard and notebooks: assembles the parts and stores the state.
import {Address} from './address.js';
import {Bar} from './bar.js';
import {Board} from './card.js';
import {CompareLine} from './compare.js';
import {readColours} from './colour.js';
import {Detail} from './detail.js';
import {make, noticeBox, setText} from './dom.js';
import {listFindings} from './findings.js';
import {Head} from './head.js';
import {keyboard} from './keys.js';
import {Library} from './library.js';
import {nextMove} from './moves.js';
import {Overview} from './overview.js';
import {Region} from './region.js';
import {Scene} from './scene.js';
import {Sequence} from './sequence.js';
import {blankNotices, explainedWords, numberOf, scaleWords, summed} from './words.js';

// Changes that require no new elements.
const OF_COLOURS = ['opacity', 'threshold', 'colour', 'scale', 'signed'];
const LIGHT = ['epoch', 'step', 'before', 'area', 'passed', ...OF_COLOURS, 'speed', 'theme', 'curves'];
// Same as in viewer.css.
const NARROW = window.matchMedia('(max-width: 700px)');
const OPTIONS = {title: 'Grad-CAM', theme: 'auto', empty: 'There are no maps yet.', beside: ''};

// root: an empty element, in which the viewer stays for as long as the page. source: {runs(), load(name),
// watch?(callback), kin?(name): [{run, header}] for the runs that differ only in their seed, including the named one}.
// options: {colours: URL of colormaps.png, title, theme: 'auto', 'light' or 'dark', empty: text shown without runs,
// beside: the run to compare with if the address names no run, fixed: whether runs are selected elsewhere}. Returns the
// viewer, whose show([run, compare]) and wear(theme) are for the surrounding page.
export function mount(root, source, options) {
  const viewer = new Viewer(root, source, {...OPTIONS, ...options});
  viewer.start();
  return viewer;
}

class Viewer {
  constructor(root, source, options) {
    Object.assign(this, {root, source, options, library: new Library(source)});
    Object.assign(this, {scene: null, ticket: 0, frame: 0, pause: 0});
    this.address = new Address((state) => this.follow(state));
    this.state = this.address.state();
    if (!this.state.run && !this.state.compare) this.state.compare = options.beside;
    this.sequence = new Sequence('Epoch', (place) => this.moveTo(place), ' (space)');
    // Each part uses only those methods that its constructor names.
    this.head = new Head(this, options.title);
    this.bar = new Bar(this, this.sequence);
    this.overview = new Overview(this);
    this.board = new Board(this);
    this.detail = new Detail(this);
    this.region = new Region(this, root);
    this.compared = new CompareLine(this, options.fixed);
    this.findings = make('section.findings', {'aria-label': 'Findings'});
    this.help = keyboard(this);
    this.status = make('p.status', {role: 'status'}, 'Reading the maps…');
    this.count = make('p.count', {role: 'status'});
    this.notices = noticeBox();
    const {head, bar, overview, board, detail, region} = this;
    const key = make('div.key-line', this.count, bar.legend);
    const above = [this.findings, overview, this.compared, key, this.notices];
    this.main = make('main', above, board, detail, region);
    region.watch(this.main);
    root.classList.add('gradcam');
    root.append(head.element, this.status, bar.element, head.standIn, this.main, this.help);
    this.reveal(false);
    this.dress();
    NARROW.addEventListener('change', () => this.scene && this.list());
    window.addEventListener('beforeprint', () => this.scene?.isBoard && this.board.drawAll());
    this.source.watch?.(() => this.renew());
  }

  async start() {
    await this.renew();
    this.root.dataset.ready = 'true';
    performance.mark('gradcam-ready');
  }

  // Shows one run, or two side by side; for a page with its own list of runs.
  show([run = '', compare = '']) {
    Object.assign(this.state, {run, compare});
    this.address.write(this.state);
    return this.renew();
  }

  // Sets the surrounding page's theme.
  wear(theme) {
    this.options.theme = theme;
    this.dress();
  }

  // Reloads the list of runs, and shows changes.
  async renew() {
    try {
      await this.library.renew();
      await this.openRuns(true);
    } catch (error) {
      this.say(`The maps can't be shown: ${error.message}`);
    }
  }

  // stays: whether the reader stays at the step that is shown.
  async openRuns(stays) {
    this.ticket += 1;
    const {ticket} = this;
    this.root.ariaBusy = 'true';
    try {
      return await this.openLatest(ticket, stays);
    } finally {
      if (ticket === this.ticket) this.root.ariaBusy = 'false';
    }
  }

  async openLatest(ticket, stays) {
    const entries = this.library.chosen(this.state);
    if (entries.length === 0) return this.say(this.options.empty);
    const work = entries.map((entry) => this.library.load(entry));
    const [found] = await Promise.all([Promise.all(work), readColours(this.options.colours)]);
    if (ticket !== this.ticket) return undefined;
    const shown = found.filter(({run}) => run.steps.length > 0 && run.keys.length > 0);
    if (shown.length === 0) return this.say(`${entries[0].run} has no logged step yet.`);
    const scene = new Scene(shown, this.library.families(shown));
    const kept = stays && this.state.epoch === '' && this.scene?.keptIn(scene);
    if (kept) this.address.write(Object.assign(this.state, kept));
    this.scene = scene;
    this.reveal(true);
    return this.layout();
  }

  say(text) {
    this.scene = null;
    this.sequence.stop();
    this.reveal(false);
    this.status.textContent = text;
  }

  reveal(on) {
    this.status.hidden = on;
    for (const element of [this.bar.element, this.main]) element.hidden = !on;
    setText(this.head.standIn, '');
  }

  // Changes selections. If elements can stay the same, only pixels and texts are updated.
  set(changes) {
    // A link without run names may show two runs, so name the first when comparing ends.
    if (changes.compare === '') this.state.run ||= this.scene.runs[0].name;
    Object.assign(this.state, changes);
    this.address.write(this.state);
    if ('run' in changes || 'compare' in changes) this.reopen(true);
    else if (!this.scene || Object.keys(changes).every((name) => LIGHT.includes(name))) this.refresh();
    else this.layout();
    if ('speed' in changes) this.sequence.setRate(Number(changes.speed));
    if ('theme' in changes) this.dress();
  }

  // Applies a state from a link or an edited address.
  follow(state) {
    this.sequence.stop();
    this.state = state;
    this.dress();
    this.reopen(false);
  }

  reopen(stays) {
    this.openRuns(stays).catch((error) => this.say(`The run can't be shown: ${error.message}`));
  }

  layout() {
    const {scene} = this;
    scene.take(this.state);
    this.sequence.setRate(Number(this.state.speed));
    this.root.dataset.page = scene.isBoard ? 'board' : 'detail';
    this.head.build(scene, this.library.entries);
    this.bar.build(scene);
    this.compared.build(scene, this.library.entries);
    this.list();
    this.overview.element.hidden = scene.once;
    if (scene.isBoard) {
      this.overview.build(scene);
      this.board.build(scene);
    } else this.detail.build(scene, scene.open);
    this.paint(true);
  }

  list() {
    const {scene} = this;
    const jump = (run, step, epoch, method) => {
      if (scene.methods.length > 1) this.set({method});
      const r = scene.runs.indexOf(run);
      const place = scene.positions.findIndex(({steps, has}) => has[r] && steps[r] === step);
      this.sequence.pick(place >= 0 ? place : scene.placeOf({epoch, step: ''}));
    };
    listFindings(this.findings, scene.runs, jump, NARROW.matches);
  }

  // Draws once for all changes between two frames.
  refresh() {
    if (!this.frame) this.frame = window.requestAnimationFrame(() => this.paint());
  }

  // fresh: whether maps or probes may have changed.
  paint(fresh = false) {
    window.cancelAnimationFrame(this.frame);
    this.frame = 0;
    const {scene, state} = this;
    if (!scene) return;
    scene.take(state);
    this.bar.dress(scene);
    this.bar.move(scene);
    this.head.move(scene);
    this.notices.show(blankNotices(scene));
    let shown = '';
    if (!scene.isBoard) this.detail.update(scene);
    else {
      this.overview.move(scene);
      this.board.update(scene);
      const total = scene.runs[0].probes.length;
      const all = numberOf(total, scene.once ? 'image' : 'probe');
      shown = this.board.count === total ? all : `${this.board.count} of ${all}`;
    }
    setText(this.count, [shown, explainedWords(scene), scaleWords(scene)].filter(Boolean).join(' · '));
    this.region.update(scene, fresh);
    this.announceLater();
  }

  moveTo(place) {
    Object.assign(this.state, this.scene.stateAt(place));
    this.address.write(this.state);
    this.scene.at = place;
    this.refresh();
  }

  // Goes to a position, if there is one. A function of its own, to be passed to charts.
  pick = (place) => {
    if (place !== undefined) this.sequence.pick(place);
  };

  step(by) {
    this.pick(this.sequence.at + by);
  }

  // Goes to the next large change, forwards or backwards.
  move(by) {
    this.pick(nextMove(this.scene, by));
  }

  toProbe(by) {
    if (this.scene.isBoard) return this.board.step(by);
    const order = this.scene.order();
    const next = order[order.indexOf(this.scene.open) + by];
    return next !== undefined && this.open(next);
  }

  open(probe) {
    if (this.scene.isBoard) this.scrolled = window.scrollY;
    this.set({probe: this.scene.runs[0].probes[probe].id});
    this.detail.heading?.focus({preventScroll: true});
    const top = this.root.getBoundingClientRect().top + window.scrollY;
    if (window.scrollY > top) window.scrollTo(0, top);
  }

  close() {
    const probe = this.scene.open;
    if (this.scene.isBoard) return this.set({area: ''});
    this.set({probe: ''});
    if (this.scrolled !== undefined) window.scrollTo(0, this.scrolled);
    return this.board.focus(probe);
  }

  // The user's choice, else the surrounding page's theme; 'auto' for the system's.
  get theme() {
    return this.state.theme === 'auto' ? this.options.theme : this.state.theme;
  }

  cycleTheme() {
    const system = window.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
    const shown = this.theme === 'auto' ? system : this.theme;
    this.set({theme: shown === 'dark' ? 'light' : 'dark'});
  }

  dress() {
    document.documentElement.dataset.theme = this.theme;
    this.head.named(this.state.theme);
  }

  announceLater() {
    window.clearTimeout(this.pause);
    if (this.sequence.on) return;
    this.pause = window.setTimeout(() => {
      if (this.scene) this.bar.announce(summed(this.scene));
    }, 600);
  }
}
