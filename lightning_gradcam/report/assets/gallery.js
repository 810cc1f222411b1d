// Shows sheets of feature maps or filter patterns, step by step.
import {ChartPanel} from './chart.js';
import {labelled, make, select, setText} from './dom.js';
import {Sequence} from './sequence.js';

class Gallery {
  constructor(header) {
    this.header = header;
    this.layer = header.layers[0];
    this.image = make('img.gallery-sheet');
    this.where = make('output.gallery-where');
    this.sequence = new Sequence('Logged step', (place) => this.show(place));
    this.chart = new ChartPanel();
    const names = header.layers.map(({name}) => [name, name]);
    const layers = select(names, (name) => this.pick(name));
    const charted = header.layers.some(({numbers}) => numbers);
    this.element = make(
      'section.gallery-card',
      {'aria-label': header.title},
      make('div.head-line', make('h1', `${header.kind}: ${header.title}`), labelled('Layer', layers)),
      header.remark && make('p.facts', header.remark),
      make('div.transport', this.sequence.button, this.sequence.slider, this.where),
      make('div.gallery-frame', this.image),
      charted && [make('h2.gallery-number', header.number), this.chart.element],
    );
    const last = this.layer.shots.length - 1;
    this.sequence.button.disabled = last < 1;
    this.show(last);
    if (charted) this.chart.show(this.curves(), last);
  }

  curves() {
    const {layers, number, title} = this.header;
    const known = layers.filter(({numbers}) => numbers);
    return {
      series: known.map(({name, numbers}, dash) => ({label: name, values: numbers, dash, second: false})),
      info: {title: number, low: 0, high: null},
      ticks: this.layer.shots.map(({epoch}) => (epoch === null ? '–' : String(epoch))),
      name: `${title}, ${number}`,
      onpick: (place) => this.sequence.pick(place),
    };
  }

  pick(name) {
    this.layer = this.header.layers.find((layer) => layer.name === name);
    this.show(this.sequence.at);
  }

  show(at) {
    const shot = this.layer.shots[at];
    if (!shot) return;
    const words = `${shot.epoch === null ? 'untrained' : `epoch ${shot.epoch}`}, step ${shot.step}`;
    const alt = `${this.header.kind} of ${this.layer.name}, ${words}`;
    Object.assign(this.image, {src: shot.picture, width: shot.width, height: shot.height, alt});
    this.sequence.move(at, this.layer.shots.length, words);
    setText(this.where, words);
    this.chart.move(at);
  }
}

const galleries = document.getElementById('gradcam-galleries');
for (const {textContent} of document.querySelectorAll('[id^="gradcam-gallery-"]')) {
  galleries.append(new Gallery(JSON.parse(textContent)).element);
}
galleries.dataset.ready = 'true';
