// The region tool: a rectangle drawn on an image, and the share of each layer's evidence inside it over all epochs.
import {OWN, rectangleOf, shareOfPicture, sharesInside, usualThreshold} from './area.js';
import {ChartPanel} from './chart.js';
import {button, labelled, make, setText} from './dom.js';
import {percent} from './numbers.js';
import {inWords, numberOf} from './words.js';

const SIDES = {left: 'Left', top: 'Top', right: 'Right', bottom: 'Bottom'};
// Distance in window pixels that the pointer must move before it draws.
const SLACK = 4;

export class Region {
  // act: {set(changes), pick(place)}; root: the viewer's root element.
  constructor(act, root) {
    // typing: the field whose text has been edited but not yet applied; drawing does not overwrite it.
    Object.assign(this, {act, root, start: null, drawn: '', scene: null, typing: null});
    this.panel = new ChartPanel(130);
    const entry = (name, take) => {
      const mark = (typing) => Object.assign(this, {typing});
      const taken = () => mark(null) && take();
      const on = {oninput: ({target}) => mark(target), onblur: () => mark(null), onchange: taken};
      return make('input', {type: 'number', min: 0, step: 1, 'aria-label': name, ...on});
    };
    const sides = Object.entries(SIDES).map(([edge, name]) => [edge, entry(name, () => this.typed(edge))]);
    this.edges = Object.fromEntries(sides);
    const fields = Object.entries(SIDES).map(([edge, name]) => labelled(name, this.edges[edge]));
    const pass = () => act.set({passed: this.threshold.value});
    this.threshold = entry('Threshold, %', pass);
    const limit = labelled('Threshold, %', this.threshold, 'Empty: twice the region’s share of the image');
    this.own = button('Mask', () => act.set({area: OWN, region: 'on'}), {title: 'Each probe’s own mask or box'});
    const close = button('✕', () => act.set({area: ''}), {class: 'tool', 'aria-label': 'Close the region'});
    this.about = make('p.region-about');
    this.list = make('ul.looked', {role: 'status'});
    const line = make('div.region-line', make('h2', 'Evidence inside the region'), fields, this.own, limit, close);
    const found = make('div.region-found', this.panel.element, make('div', this.list, this.about));
    this.element = make('section.region-panel', {'aria-label': 'Evidence inside the region', hidden: true}, line, found);
  }

  // Dragging on an image draws; touch draws only while the panel is open, because it otherwise scrolls.
  watch(stage) {
    const on = (name, listener, capture = false) => stage.addEventListener(name, listener, capture);
    on('pointerdown', (event) => this.begin(event));
    on('pointermove', (event) => this.start && this.drag(event, stage));
    for (const name of ['pointerup', 'pointercancel']) on(name, () => this.finish());
    on('click', (event) => this.dragged && event.stopPropagation(), true);
  }

  begin(event) {
    this.dragged = false;
    const frame = event.target.closest('.cell .frame');
    if (!frame || event.button !== 0 || (event.pointerType === 'touch' && this.element.hidden)) return;
    const slices = Number(frame.parentElement.style.getPropertyValue('--slices')) || 1;
    const {left, top, width, height} = frame.getBoundingClientRect();
    const slice = Math.floor(((event.clientX - left) / width) * slices);
    this.start = {left: left + (slice * width) / slices, top, width: width / slices, height, from: event};
  }

  drag(event, stage) {
    const {left, top, width, height, from} = this.start;
    const far = Math.max(Math.abs(event.clientX - from.clientX), Math.abs(event.clientY - from.clientY));
    if (!this.dragged && far < SLACK) return;
    if (!this.dragged) stage.setPointerCapture(event.pointerId);
    this.dragged = true;
    this.root.classList.add('drawing');
    const size = this.scene.runs[0].header.display;
    const side = (one, other, begin, long, count) => {
      const [low, high] = [one, other].sort((x, y) => x - y).map((at) => ((at - begin) / long) * count);
      const first = Math.min(count - 1, Math.max(0, Math.floor(low)));
      return [first, Math.min(count, Math.max(first + 1, Math.ceil(high)))];
    };
    const [x, right] = side(from.clientX, event.clientX, left, width, size.width);
    const [y, bottom] = side(from.clientY, event.clientY, top, height, size.height);
    this.act.set({area: [x, y, right, bottom].join()});
  }

  finish() {
    this.start = null;
    this.root.classList.remove('drawing');
  }

  // Applies an edited edge; the opposite edge moves if necessary.
  typed(edge) {
    const {width, height} = this.scene.runs[0].header.display;
    const found = this.area === OWN ? {left: 0, top: 0, right: width, bottom: height} : {...this.area};
    const across = edge === 'left' || edge === 'right';
    const [begin, end, side] = across ? ['left', 'right', width] : ['top', 'bottom', height];
    const value = Math.round(this.edges[edge].valueAsNumber);
    if (edge === begin) found[begin] = Math.min(side - 1, Math.max(0, value));
    else found[end] = Math.min(side, Math.max(1, value));
    if (edge === begin) found[end] = Math.max(found[end], found[begin] + 1);
    else found[begin] = Math.min(found[begin], found[end] - 1);
    if (Number.isFinite(value)) {
      // Applied immediately: the next edge may be edited before this one is drawn.
      this.area = found;
      this.act.set({area: Object.keys(SIDES).map((name) => found[name]).join()});
    }
    this.fill();
  }

  // Opens with a rectangle in the middle of the image, or closes; used to draw by keyboard.
  toggle() {
    if (!this.element.hidden) return this.act.set({area: ''});
    const {width, height} = this.scene.runs[0].header.display;
    const third = (side) => [Math.floor(side / 3), Math.max(Math.floor(side / 3) + 1, Math.round((side * 2) / 3))];
    const [[left, right], [top, bottom]] = [third(width), third(height)];
    this.act.set({area: [left, top, right, bottom].join()});
    this.element.hidden = false;
    return this.edges.left.focus();
  }

  // fresh: whether maps or probes may have changed.
  update(scene, fresh) {
    this.scene = scene;
    const {area, passed} = scene.state;
    const marked = scene.pictures[0].some(({covered}) => covered !== null);
    const size = scene.runs[0].header.display;
    this.area = area === OWN && marked ? OWN : rectangleOf(area, size);
    this.element.hidden = this.area === null;
    this.root.classList.toggle('with-area', this.area !== null && this.area !== OWN);
    if (this.area === null) return;
    const wanted = `${area} ${passed}`;
    if (fresh || this.drawn !== wanted) this.show(size, marked);
    this.drawn = wanted;
    this.panel.move(scene.at);
  }

  show({width, height}, marked) {
    const {scene, area} = this;
    if (area !== OWN) {
      const place = {left: area.left / width, top: area.top / height};
      const size = {width: area.right / width - place.left, height: area.bottom / height - place.top};
      // Set on the boxes only: as a property of the root, it would recompute the style of the whole page.
      for (const {style} of this.root.querySelectorAll('.area-box')) {
        for (const [name, share] of Object.entries({...place, ...size})) style.setProperty(`--area-${name}`, String(share));
      }
    }
    this.own.hidden = !marked;
    this.own.setAttribute('aria-pressed', String(area === OWN));
    this.fill();
    const share = shareOfPicture(scene, area);
    const given = Number(scene.state.passed) / 100;
    const usual = !(given > 0 && given <= 1);
    const threshold = usual ? usualThreshold(share) : given;
    this.threshold.placeholder = String(Math.round(usualThreshold(share) * 100));
    this.put(this.threshold, usual ? '' : scene.state.passed);
    // Without masks, there is neither a share nor a threshold.
    const lines = share === null ? [] : sharesInside(scene, area);
    this.list.replaceChildren(...lines.map((line) => make('li', lookedThere(scene, line, threshold))));
    const level = {label: 'threshold', values: scene.positions.map(() => threshold), counts: [], of: 0, dash: 7};
    const info = {title: 'share of the evidence inside', low: 0, high: 1};
    const content = {series: [...lines, level], info, ticks: scene.ticks, name: info.title, onpick: this.act.pick};
    this.panel.element.hidden = scene.once || share === null;
    this.panel.show(content, scene.at);
    setText(this.about, this.described(share, threshold, usual));
  }

  described(share, threshold, usual) {
    const {scene, area} = this;
    const probes = scene.studied();
    const one = `Probe ${scene.runs[0].probes[probes[0]]?.id}`;
    if (share === null) return probes.length === 1 ? `${one} has no mask or box.` : 'None of these probes has a mask or box.';
    const where = area === OWN ? ', in the mask or box of each' : probes.length > 1 ? ', at the same location in all' : '';
    // Some probes may have neither.
    const marked = area === OWN ? probes.filter((probe) => scene.pictures[0][probe].covered !== null).length : probes.length;
    const sample = marked < probes.length ? `${marked} of ` : '';
    const whose = probes.length === 1 ? one : `Mean of ${sample}${numberOf(probes.length, 'probe')}${where}`;
    const part = area !== OWN && scene.columns.some(({depth}) => depth) ? ' Only the slices shown count.' : '';
    const rule = usual ? (threshold < 2 * share ? 'halfway between that and 100%' : 'twice that') : 'set by you';
    return `${whose}. The region is ${percent(share)} of the image; threshold ${percent(threshold)} (${rule}).${part}`;
  }

  // Writes the rectangle's edges into the fields; empty for masks.
  fill() {
    const {width, height} = this.scene.runs[0].header.display;
    for (const [edge, input] of Object.entries(this.edges)) {
      input.max = edge === 'left' || edge === 'right' ? width : height;
      this.put(input, this.area === OWN ? '' : this.area[edge]);
    }
  }

  put(input, value) {
    if (input !== this.typing) input.value = value;
  }
}

// 'relu2: first looked there in epoch 3 (24% inside).'
function lookedThere(scene, {label, values, counts, of}, threshold) {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return `${label}: no positive evidence in any epoch.`;
  if (scene.once) return `${label}: ${percent(values[0])} inside.`;
  const first = values.findIndex((value) => value !== null && value >= threshold);
  const place = first >= 0 ? first : values.indexOf(Math.max(...known));
  const sample = counts[place] < of ? `, ${counts[place]} of ${of} probes` : '';
  const [when, share] = [inWords(scene.label(place)), `${percent(values[place])} inside${sample}`];
  if (first < 0) return `${label}: never passes the threshold; its maximum is ${share}, in ${when}.`;
  return `${label}: first looked there in ${when} (${share}).`;
}
