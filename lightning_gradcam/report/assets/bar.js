// The bar that stays at the top, with the slider and all options.
import {paintColourBar} from './colour.js';
import {button, fill, freshId, labelled, make, segments, select, setText, slider} from './dom.js';
import {percent, shortNumber} from './numbers.js';
import {choicesOf} from './state.js';
import {Strip} from './strip.js';
import {rightWords, scaleWords, targetWords} from './words.js';

const FIELDS = {
  method: 'Method',
  target: 'Target',
  scale: 'Scale',
  filter: 'Probes',
  class: 'Class',
  sort: 'Sort',
  size: 'Size',
};
const SHOW_TITLES = {cards: 'The maps of one epoch', film: 'All epochs at once'};
const CHANGE = 'Next large change in the maps';
const OF_TRAINING = ['drift', 'flips', 'flipped'];
const OF_TRUTH = ['wrong', 'right'];

export class Bar {
  // act: {set(changes), pick(place), step(by), move(by), region, scene}; sequence: the Sequence for the positions.
  constructor(act, sequence) {
    Object.assign(this, {act, sequence});
    this.buildOptions();
    this.buildTransport();
    this.element = make('div.bar', this.transport, this.options);
  }

  buildTransport() {
    const {act, sequence} = this;
    this.strip = new Strip(act, sequence.slider);
    const stepper = (text, name, by, key) =>
      button(text, () => act.step(by), {class: 'step', 'aria-label': name, title: `${name} (${key})`});
    this.label = make('output.epoch-label', {for: sequence.slider.id});
    this.detail = make('span.epoch-detail');
    this.right = make('span.epoch-right', {title: 'Probes whose most probable class is a true class, out of those with a known true class'});
    this.spoken = make('div.unseen', {'aria-live': 'polite'});
    this.more = button('Options', () => this.toggle(), {
      class: 'more',
      'aria-expanded': 'false',
      'aria-controls': this.options.id,
    });
    const name = 'Epochs per second';
    this.speed = this.choice('speed', {'aria-label': name, class: 'speed', title: name});
    this.motion = [
      sequence.button,
      stepper('‹', 'Previous epoch', -1, '←'),
      this.strip.element,
      stepper('›', 'Next epoch', 1, '→'),
      button('⇥', () => act.move(1), {class: 'jump', 'aria-label': CHANGE, title: `${CHANGE} (n; N: the previous one)`}),
      make('div.now-label', this.label, this.right, this.detail),
      this.speed,
    ];
    this.transport = make('div.transport', this.motion, this.more, this.spoken);
  }

  choice(name, attributes = {}) {
    return select(choicesOf(name), (value) => this.act.set({[name]: value}), attributes);
  }

  share(name, title, hint) {
    const input = slider(title, (value) => this.act.set({[name]: String(value)}), {class: 'share', title: hint});
    const value = make('output.share-value');
    return {input, value, field: labelled(title, make('span.with-value', input, value), hint)};
  }

  check(name, text, title) {
    const onchange = () => this.act.set({[name]: this[name].checked ? 'on' : 'off'});
    this[name] = make('input', {type: 'checkbox', onchange});
    this.fields[name] = make('label.check', {title}, this[name], make('span', text));
  }

  buildOptions() {
    const {act} = this;
    this.show = segments('One epoch or film strips', (show) => act.set({show}));
    this.view = segments('Overlay or map', (view) => act.set({view}));
    this.layers = segments('Layers', (layer) => act.set({layers: toggled(act.scene, layer)}));
    this.fields = {layers: make('div.field', make('span.field-name', 'Layers'), this.layers)};
    for (const [name, title] of Object.entries(FIELDS)) {
      this[name] = this.choice(name);
      this.fields[name] = labelled(title, this[name]);
    }
    this.fields.scale.title = 'What the brightest colour means';
    this.colour = this.choice('colour', {'aria-label': 'Colour map', title: 'Colour map (c)'});
    this.colours = make('canvas.colour-bar', {'aria-hidden': 'true', width: 256, height: 1});
    this.ends = [make('span'), make('span')];
    this.legend = make('div.legend', this.ends[0], this.colours, this.ends[1]);
    this.opacity = this.share('opacity', 'Opacity', 'Share of the map in the overlay');
    this.threshold = this.share('threshold', 'Threshold', 'Hide values below this share of the brightest colour');
    this.check('region', 'Masks', 'Outline the mask or box of each probe (m)');
    this.check('signed', 'For and against', 'Also show what lowers the score, in blue (a)');
    this.before = select([], (before) => act.set({before}));
    this.fields.before = labelled('Before', this.before, 'Earlier epoch for the difference (b: the current epoch)');
    const drawing = 'Draw a rectangle on an image and follow the evidence inside it (e)';
    this.draw = button('Draw a region', () => act.region.toggle(), {title: drawing});
    const group = (name, ...fields) => make('div.group', {role: 'group', 'aria-label': name}, fields);
    const {show, view, opacity, threshold} = this;
    const {layers, method, target, region, signed, scale, before, ...which} = this.fields;
    this.options = make(
      'div.options',
      {id: freshId('options'), hidden: true},
      group('What is shown', show, view, before, layers, method, target, region, this.draw),
      group('Colours', signed, this.colour, scale, opacity.field, threshold.field),
      group('Which probes', Object.values(which)),
    );
    for (const element of [show.element, ...Object.values(which)]) element.classList.add('board-only');
  }

  toggle() {
    const open = this.options.hidden;
    this.options.hidden = !open;
    this.more.setAttribute('aria-expanded', String(open));
  }

  // Updates everything that depends on the runs; dress() and move() follow.
  build(scene) {
    const {state} = scene;
    // With a single step, there is nothing to play.
    for (const element of this.motion) element.hidden = scene.once;
    const all = ['all', 'all'];
    const titles = new Map(scene.runs.flatMap((run) => run.keys.map((key) => [key.method, key.method_title])));
    fill(this.method, [...scene.methods.map((name) => [name, titles.get(name)]), all], scene.method);
    fill(this.target, [...scene.targets.map((name) => [name, targetWords(scene.runs[0], name)]), all], scene.target);
    const names = scene.classNames();
    fill(this.class, [['', 'all'], ...names.map((name) => [name, name])], scene.class);
    const shows = choicesOf('show').map(([value, text]) => [value, text, SHOW_TITLES[value]]);
    this.show.show(shows, [state.show]);
    this.show.element.hidden = scene.once;
    const isFit = ([value]) => value !== 'difference' || !scene.once;
    this.view.show(choicesOf('view').filter(isFit), [state.view]);
    this.layers.show(scene.layers.map((layer) => [layer, scene.short.get(layer), layer]), scene.chosen);
    const earlier = scene.positions.map((_, place) => [scene.nameAt(place), scene.label(place)]);
    fill(this.before, [['', 'the previous epoch'], ...earlier], state.before);
    this.fields.before.hidden = state.view !== 'difference';
    this.fields.method.hidden = scene.methods.length < 2;
    this.fields.target.hidden = scene.targets.length < 2;
    this.fields.layers.hidden = scene.layers.length < 2;
    this.fields.class.hidden = names.length < 2;
    this.fields.region.hidden = !scene.pictures.flat().some((picture) => picture.region);
    this.fields.filter.hidden = !scene.hasClasses();
    // Without true classes, no prediction is right or wrong.
    const judged = scene.runs[0].probes.some((probe) => probe.true.length > 0);
    const unfit = [...(scene.once ? OF_TRAINING : []), ...(judged ? [] : OF_TRUTH)];
    for (const option of [...this.sort.options, ...this.filter.options]) option.hidden = unfit.includes(option.value);
    if (!scene.once) this.strip.build(scene);
  }

  // Updates everything that depends on the user's selections.
  dress(scene) {
    const {state, look} = scene;
    if (this.painted !== look.colour) paintColourBar(this.colours, look.colour);
    this.painted = look.colour;
    for (const name of ['scale', 'size', 'sort', 'filter', 'speed', 'colour']) this[name].value = state[name];
    for (const name of ['region', 'signed']) this[name].checked = state[name] === 'on';
    this.before.value = state.before === '' ? '' : scene.nameAt(scene.before);
    this.colour.hidden = look.signed;
    const limit = scene.commonLimit();
    const number = limit === null ? '' : shortNumber(limit);
    const ends = look.signed ? [`against ${number && '−'}${number}`, `${number} for`] : ['0', number || 'max'];
    this.ends.forEach((end, side) => setText(end, ends[side].trim()));
    for (const name of ['opacity', 'threshold']) {
      this[name].input.value = state[name];
      setText(this[name].value, percent(Number(state[name]) / 100));
    }
    for (const element of [this.legend, this.scale]) element.title = scaleWords(scene);
  }

  move(scene) {
    const {run, step} = scene.positions[scene.at];
    const number = `step ${run.steps[step].step}`;
    this.sequence.move(scene.at, scene.positions.length, `${scene.label()}, ${number}`);
    setText(this.label, scene.label().replace(/,.*/, ''));
    setText(this.right, rightWords(scene));
    setText(this.detail, `${number} · ${scene.at + 1} of ${scene.positions.length}`);
  }

  // Announces a text to screen readers, once the slider has stopped.
  announce(text) {
    setText(this.spoken, text);
  }
}

// Returns the selected layers after a click on one. If all are shown, the click selects only that layer.
function toggled({layers, chosen}, layer) {
  if (chosen.length === layers.length) return [layer];
  const next = chosen.includes(layer)
    ? chosen.filter((one) => one !== layer)
    : layers.filter((one) => chosen.includes(one) || one === layer);
  return next.length === layers.length ? [] : next;
}
