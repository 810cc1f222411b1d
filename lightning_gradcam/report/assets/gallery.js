// Galleries of a page: sheets of feature maps or filter patterns, to leaf through step by step.
import {ChartPanel} from './chart.js';
import {labelled, make, select, setText} from './dom.js';
import {Player} from './player.js';

const PLAY_RATE = 2;

class Gallery {
  constructor(header) {
    this.header = header;
    this.layer = header.layers[0];
    this.at = this.layer.shots.length - 1;
    this.image = make('img', {class: 'gallery-sheet'});
    this.where = make('output', {class: 'gallery-where'});
    this.slider = make('input', {
      type: 'range', min: 0, max: Math.max(this.at, 0), value: this.at, class: 'epoch', 'aria-label': 'logged step',
      oninput: () => this.pause().show(Number(this.slider.value)),
    });
    this.button = make('button', {type: 'button', class: 'play', text: '▶', 'aria-label': 'play', onclick: () => this.toggle()});
    this.player = new Player(() => this.forward(), (on) => this.playing(on));
    this.chart = new ChartPanel();
    const layers = select(header.layers.map(({name}) => [name, name]), this.layer.name, (name) => this.pick(name));
    this.element = make('section', {class: 'gallery-card', 'aria-label': header.title},
      make('div', {class: 'head-line'},
        make('h1', {text: `${header.kind}: ${header.title}`}),
        labelled('layer', layers),
      ),
      header.remark ? make('p', {class: 'facts', text: header.remark}) : null,
      make('div', {class: 'transport'}, this.button, this.slider, this.where),
      make('div', {class: 'gallery-frame'}, this.image),
      this.charted() ? make('h2', {class: 'gallery-number', text: header.number}) : null,
      this.charted() ? this.chart.element : null,
    );
    this.button.disabled = this.slider.disabled = this.layer.shots.length < 2;
    this.show(this.at);
    if (this.charted()) this.chart.show(this.curves(), this.at);
  }

  charted() {
    return this.header.layers.some(({numbers}) => numbers);
  }

  curves() {
    const {layers, number, title} = this.header;
    const known = layers.filter(({numbers}) => numbers);
    return {
      series: known.map(({name, numbers}, dash) => ({label: name, values: numbers, dash, second: false})),
      info: {title: number, low: 0, high: null},
      ticks: this.layer.shots.map(({epoch}) => (epoch === null ? '–' : String(epoch))),
      name: `${title}, ${number}`,
      onpick: (place) => this.pause().show(place),
    };
  }

  pick(name) {
    this.layer = this.header.layers.find((layer) => layer.name === name);
    this.show(this.at);
  }

  show(at) {
    const shot = this.layer.shots[at];
    if (!shot) return;
    this.at = at;
    const words = `${shot.epoch === null ? 'untrained' : `epoch ${shot.epoch}`}, step ${shot.step}`;
    this.image.src = shot.picture;
    this.image.width = shot.width;
    this.image.height = shot.height;
    this.image.alt = `${this.header.kind} of ${this.layer.name}, ${words}`;
    this.slider.value = at;
    this.slider.setAttribute('aria-valuetext', words);
    setText(this.where, words);
    this.chart.move(at);
  }

  forward() {
    if (this.at + 1 < this.layer.shots.length) this.show(this.at + 1);
    return this.at + 1 < this.layer.shots.length;
  }

  toggle() {
    if (this.player.on) this.player.stop();
    else {
      if (this.at + 1 >= this.layer.shots.length) this.show(0);
      this.player.start(PLAY_RATE);
    }
  }

  pause() {
    this.player.stop();
    return this;
  }

  playing(on) {
    setText(this.button, on ? '❚❚' : '▶');
    this.button.setAttribute('aria-label', on ? 'pause' : 'play');
  }
}

// The theme is the viewer's beside it, or else the reader's.
function followTheme(root) {
  const viewer = document.getElementById('gradcam');
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  const follow = () => {
    const own = document.querySelector('.gradcam[data-theme]:not(#gradcam-galleries)');
    root.dataset.theme = own ? own.dataset.theme : dark.matches ? 'dark' : 'light';
  };
  dark.addEventListener('change', follow);
  if (viewer)
    new MutationObserver(follow).observe(viewer, {attributes: true, subtree: true, attributeFilter: ['data-theme']});
  follow();
}

function mountGalleries(root) {
  if (!root) return;
  for (let place = 0; ; place += 1) {
    const element = document.getElementById(`gradcam-gallery-${place}`);
    if (!element) break;
    root.append(new Gallery(JSON.parse(element.textContent)).element);
  }
  followTheme(root);
  root.dataset.ready = 'true';
}

mountGalleries(document.getElementById('gradcam-galleries'));
