// TensorBoard's Grad-CAM tab: a list of runs next to the viewer.
import {make} from './viewer/dom.js';
import {mount} from './viewer/viewer.js';
import {Choice} from './choice.js';
import {Host} from './host.js';
import {Picker} from './picker.js';
import {Source} from './source.js';

// Milliseconds between two requests for the list of runs, and the longest pause after failures.
const PAUSE = 4000;
const LONGEST_PAUSE = 60000;
const MEMORY = 'lightning-gradcam';
const NARROW = '(max-width: 760px)';

export async function render() {
  // With TensorBoard's base URL, the viewer's '#…' would lead to a different page.
  document.querySelector('base')?.remove();
  document.documentElement.lang = 'en';
  document.title = 'Grad-CAM';
  await Promise.all(['viewer/viewer.css', 'tab.css'].map(styled));
  await new Tab().look();
}

class Tab {
  constructor() {
    const {choice, hash, folded} = remembered();
    this.choice = new Choice(choice);
    this.source = new Source();
    this.host = new Host({
      reloaded: () => this.look(),
      dressed: () => this.viewer?.wear(this.host.theme),
      named: () => this.picker.rebuild(),
    });
    const colours = (run, place) => this.host.colours(run, place);
    this.picker = new Picker(this.choice, {chosen: () => this.show()}, colours);
    this.picker.details.open = !(folded ?? window.matchMedia(NARROW).matches);
    this.hash = hash || '';
    this.root = make('div', {id: 'gradcam'});
    this.away = make('p.runs-away', {role: 'alert', hidden: true}, 'TensorBoard does not answer. Still trying.');
    document.body.classList.add('gradcam-page', 'gradcam-tab');
    document.body.append(this.picker.element, make('div.gradcam-side', this.away, this.root));
    window.addEventListener('pagehide', () => this.remember());
    document.addEventListener('visibilitychange', () => this.look());
    Object.assign(this, {viewer: null, pause: PAUSE, timer: 0, busy: false});
  }

  // Reads the list of runs, shows changes, and repeats this after a pause.
  async look() {
    if (this.busy) return;
    this.busy = true;
    window.clearTimeout(this.timer);
    try {
      if (!this.host.hidden || !this.viewer) await this.renew();
      this.pause = PAUSE;
      this.away.hidden = true;
    } catch {
      this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
      this.away.hidden = false;
    } finally {
      this.busy = false;
      this.timer = window.setTimeout(() => this.look(), this.pause);
    }
  }

  async renew() {
    await this.source.refresh();
    this.choice.take(this.source.entries, this.source.notes);
    this.picker.update();
    this.show();
  }

  // Shows the selected runs if they or their steps have changed.
  show() {
    const {source, choice} = this;
    const folders = choice.shown.names;
    source.show(folders, choice.chosen);
    const entries = folders.map((folder) => source.entry(folder));
    const names = entries.map(({name}) => name);
    const kin = source.relatives.map(({run}) => run);
    const [shown, state] = [JSON.stringify(names), JSON.stringify([folders, entries.map(({mark}) => mark), kin])];
    if (!this.viewer) this.mount(names);
    else if (shown !== this.shown) this.viewer.show(names);
    else if (state !== this.state || source.missed) source.tell();
    Object.assign(this, {shown, state});
    source.gather();
    this.remember();
  }

  mount([run = '', compare = '']) {
    const hash = new URLSearchParams(this.hash.replace(/^#/, ''));
    hash.set('run', run);
    hash.set('compare', compare);
    window.history.replaceState(window.history.state, '', `#${hash}`);
    const empty = 'No run is chosen. Tick one in the list of runs. A run can be ticked once its first epoch is logged.';
    const colours = own('viewer/colormaps.png');
    this.viewer = mount(this.root, this.source, {theme: this.host.theme, empty, colours, fixed: true});
  }

  // Stores the state, because reloading TensorBoard's page creates a new frame.
  remember() {
    const hash = this.viewer ? window.location.hash : this.hash;
    const state = {choice: this.choice.kept(), hash, folded: !this.picker.details.open};
    try {
      window.sessionStorage.setItem(MEMORY, JSON.stringify(state));
    } catch {
      // Without storage, the page starts with the defaults.
    }
  }
}

function remembered() {
  try {
    return JSON.parse(window.sessionStorage.getItem(MEMORY)) || {};
  } catch {
    return {};
  }
}

// Returns the URL of a file in this file's folder.
function own(name) {
  return new URL(`./${name}`, import.meta.url).href;
}

function styled(name) {
  return new Promise((done) => {
    document.head.append(make('link', {rel: 'stylesheet', href: own(name), onload: done, onerror: done}));
  });
}
