// The bar that stays at the top: the slider, and everything that can be chosen.
import {paintColourBar} from './colour.js';
import {fill, freshId, labelled, make, segments, select, setText} from './dom.js';
import {percent} from './numbers.js';
import {choicesOf} from './state.js';
import {SCALE_WORDS} from './words.js';

const VIEWS = [
  ['overlay', 'Overlay'],
  ['map', 'Map'],
  ['both', 'Both'],
  ['original', 'Picture'],
];
const SCALES = [
  ['run', 'run'],
  ['image', 'image'],
  ['layer', 'layer'],
];
const SIZES = [
  ['original', 'original'],
  ['small', 'small'],
  ['medium', 'medium'],
  ['large', 'large'],
];
const SORTS = [
  ['id', 'as drawn'],
  ['class', 'true class'],
  ['drift', 'largest drift'],
  ['flips', 'most flips'],
  ['confidence', 'least confident'],
  ['score', 'highest score'],
];
const FILTERS = [
  ['all', 'all'],
  ['wrong', 'wrong now'],
  ['right', 'right now'],
  ['flipped', 'ever flipped'],
  ['blank', 'blank map now'],
];
const OF_TRAINING = ['drift', 'flips', 'flipped'];
const SPEEDS = [
  ['1', '1 / s'],
  ['2', '2 / s'],
  ['4', '4 / s'],
  ['8', '8 / s'],
];

export class Bar {
  // act: {set(changes), pick(place), step(by), play()}.
  constructor(act) {
    this.act = act;
    this.buildTransport();
    this.buildOptions();
    this.element = make('div', {class: 'bar'}, this.transport, this.options);
  }

  buildTransport() {
    const {act} = this;
    const button = (text, name, onclick, key) =>
      make('button', {type: 'button', class: 'step', text, 'aria-label': name, title: `${name} (${key})`, onclick});
    this.playButton = make('button', {
      type: 'button',
      class: 'play',
      text: '▶',
      'aria-label': 'Play',
      title: 'Play (space)',
      onclick: act.play,
    });
    const slider = freshId('epoch');
    this.slider = make('input', {
      type: 'range',
      min: 0,
      max: 0,
      step: 1,
      id: slider,
      class: 'epoch',
      'aria-label': 'Epoch',
      oninput: () => act.pick(Number(this.slider.value)),
    });
    this.label = make('output', {class: 'epoch-label', for: slider});
    this.detail = make('span', {class: 'epoch-detail'});
    this.spoken = make('div', {class: 'unseen', 'aria-live': 'polite'});
    this.more = make('button', {
      type: 'button',
      class: 'more',
      text: 'Options',
      'aria-expanded': 'true',
      onclick: () => this.toggle(),
    });
    this.speed = select(SPEEDS, '2', (speed) => act.set({speed}), {
      'aria-label': 'Steps a second',
      class: 'speed',
      title: 'Steps a second',
    });
    this.motion = [
      this.playButton,
      button('‹', 'Epoch before', () => act.step(-1), '←'),
      this.slider,
      button('›', 'Next epoch', () => act.step(1), '→'),
      make('div', {class: 'now-label'}, this.label, this.detail),
      this.speed,
    ];
    this.transport = make('div', {class: 'transport'}, ...this.motion, this.more, this.spoken);
  }

  buildOptions() {
    const {act} = this;
    const share = (name, title) => {
      const input = make('input', {
        type: 'range',
        min: 0,
        max: 100,
        step: 1,
        class: 'share',
        title,
        oninput: () => act.set({[name]: input.value}),
      });
      const value = make('output', {class: 'share-value'});
      return {
        input,
        value,
        field: labelled(
          name === 'opacity' ? 'Opacity' : 'Threshold',
          make('span', {class: 'with-value'}, input, value),
          title,
        ),
      };
    };
    this.show = segments(
      'Pictures or film strips',
      [
        ['cards', 'Pictures', 'The maps of one epoch'],
        ['film', 'Film strips', 'All epochs at once'],
      ],
      (show) => act.set({show}),
    );
    this.view = segments('Overlay or map', VIEWS, (view) => act.set({view}));
    this.layerBox = make('div', {class: 'segments', role: 'group', 'aria-label': 'Layers'});
    this.layerField = make('div', {class: 'field'}, make('span', {class: 'field-name', text: 'Layers'}), this.layerBox);
    this.method = select([], '', (method) => act.set({method}));
    this.target = select([], '', (target) => act.set({target}));
    this.methodField = labelled('Method', this.method);
    this.targetField = labelled('Target', this.target);
    this.colour = select(
      choicesOf('colour').map((name) => [name, name]),
      'turbo',
      (colour) => act.set({colour}),
      {'aria-label': 'Colour map', title: 'Colour map (c)'},
    );
    this.bar = make('canvas', {class: 'colour-bar', 'aria-hidden': 'true', width: 256, height: 1});
    this.scale = select(SCALES, 'run', (scale) => act.set({scale}));
    this.opacity = share('opacity', 'Share of the map in the overlay');
    this.threshold = share('threshold', 'Hides values below this share of the brightest colour');
    this.size = select(SIZES, 'medium', (size) => act.set({size}));
    this.sort = select(SORTS, 'id', (sort) => act.set({sort}));
    this.filter = select(FILTERS, 'all', (filter) => act.set({filter}));
    this.class = select([], '', (name) => act.set({class: name}));
    this.classField = labelled('Class', this.class);
    this.region = make('input', {
      type: 'checkbox',
      onchange: () => act.set({region: this.region.checked ? 'on' : 'off'}),
    });
    this.regionField = make(
      'label',
      {class: 'check', title: 'The border of the region or box that the probes mark'},
      this.region,
      make('span', {text: 'Marked region'}),
    );
    this.legend = make('div', {class: 'legend'}, make('span', {text: '0'}), this.bar, make('span', {text: 'max'}));
    const group = (name, ...fields) => make('div', {class: 'group', role: 'group', 'aria-label': name}, ...fields);
    this.options = make(
      'div',
      {class: 'options', id: freshId('options')},
      group(
        'What is shown',
        this.show.element,
        this.view.element,
        this.layerField,
        this.methodField,
        this.targetField,
        this.regionField,
      ),
      group(
        'Colours',
        this.colour,
        this.legend,
        labelled('Scale', this.scale, 'What the brightest colour stands for'),
        this.opacity.field,
        this.threshold.field,
      ),
      group(
        'Which probes',
        labelled('Probes', this.filter),
        this.classField,
        labelled('Sort', this.sort),
        labelled('Size', this.size),
      ),
    );
    for (const element of [
      this.show.element,
      this.filter.parentElement,
      this.classField,
      this.sort.parentElement,
      this.size.parentElement,
    ]) {
      element.classList.add('board-only');
    }
    this.more.setAttribute('aria-controls', this.options.id);
    if (window.innerWidth < 900) this.toggle();
  }

  toggle() {
    const open = this.options.hidden;
    this.options.hidden = !open;
    this.more.setAttribute('aria-expanded', String(open));
  }

  // What depends on the runs.
  build(scene) {
    const {act} = this;
    const last = scene.positions.length - 1;
    this.slider.max = String(last);
    this.slider.disabled = last < 1;
    // Where there is a single step, nothing moves.
    for (const element of [...this.motion, this.show.element]) element.hidden = scene.once;
    for (const field of [this.sort, this.filter]) {
      for (const option of field.options) option.hidden = scene.once && OF_TRAINING.includes(option.value);
    }
    this.methodField.hidden = scene.methods.length < 2;
    this.targetField.hidden = scene.targets.length < 2;
    const titles = new Map(scene.runs.flatMap((run) => run.keys.map((key) => [key.method, key.method_title])));
    fill(this.method, [...scene.methods.map((name) => [name, titles.get(name)]), ['all', 'all']], scene.method);
    fill(
      this.target,
      [...scene.targets.map((name) => [name, name.replace('_vs_', ' vs ')]), ['all', 'all']],
      scene.target,
    );
    this.layerField.hidden = scene.layers.length < 2;
    this.layerBox.replaceChildren(
      ...scene.layers.map((layer) =>
        make('button', {
          type: 'button',
          class: 'segment',
          text: scene.short.get(layer),
          title: layer,
          'aria-pressed': String(scene.chosen.includes(layer)),
          onclick: () => act.set({layers: toggled(scene, layer)}),
        }),
      ),
    );
    const names = scene.classNames();
    this.classField.hidden = names.length < 2;
    fill(this.class, [['', 'all'], ...names.map((name) => [name, name])], scene.class);
    this.regionField.hidden = !scene.pictures.some((pictures) => pictures.some((picture) => picture.region));
    const classes = scene.hasClasses();
    this.filter.parentElement.hidden = !classes;
    const {state} = scene;
    this.show.press(state.show);
    this.view.press(state.view);
    for (const name of ['scale', 'size', 'sort', 'filter', 'speed']) this[name].value = state[name];
    this.region.checked = state.region === 'on';
    this.dress(scene);
    this.move(scene);
  }

  // What depends on how maps are coloured.
  dress({state}) {
    if (this.colour.value !== state.colour || !this.painted) paintColourBar(this.bar, state.colour);
    this.painted = true;
    this.colour.value = state.colour;
    this.scale.value = state.scale;
    for (const name of ['opacity', 'threshold']) {
      this[name].input.value = state[name];
      setText(this[name].value, percent(Number(state[name]) / 100));
    }
    this.legend.title = `Brightest colour: ${SCALE_WORDS[state.scale]}`;
    this.scale.title = this.legend.title;
  }

  move(scene) {
    const {run, step} = scene.positions[scene.at];
    this.slider.value = String(scene.at);
    const number = `step ${run.steps[step].step}`;
    this.slider.setAttribute('aria-valuetext', `${scene.label()}, ${number}`);
    setText(this.label, scene.label().replace(/,.*/, ''));
    setText(this.detail, `${number} · ${scene.at + 1} of ${scene.positions.length}`);
  }

  // Said once the slider rests.
  announce(text) {
    setText(this.spoken, text);
  }

  playing(on) {
    setText(this.playButton, on ? '❚❚' : '▶');
    this.playButton.setAttribute('aria-label', on ? 'Pause' : 'Play');
    this.playButton.title = on ? 'Pause (space)' : 'Play (space)';
  }
}

// The layers after a click on one: at first all are shown, and the first click picks one.
function toggled({layers, chosen}, layer) {
  if (chosen.length === layers.length) return [layer];
  const next = chosen.includes(layer)
    ? chosen.filter((one) => one !== layer)
    : layers.filter((one) => chosen.includes(one) || one === layer);
  return next.length === layers.length ? [] : next;
}
