// A film strip for one probe and layer: one small image for every position of the slider.
import {regionOutline} from './cell.js';
import {lineKey} from './chart.js';
import {button, make} from './dom.js';
import {paint} from './paint.js';
import {described} from './words.js';

const LONGEST = 64;
const thumbs = new WeakMap();

export class Film {
  constructor(scene, r, probe, column, onpick) {
    Object.assign(this, {r, probe, column, key: column.places[r]});
    const picture = scene.pictures[r][probe];
    const {slices} = scene.runs[r].keys[this.key];
    const bordered = scene.state.region === 'on' && picture.region;
    this.picture = thumbOf(picture);
    this.frames = scene.positions.map((_, place) => {
      const sharp = this.picture.width < 64 ? 'crisp' : 'smooth';
      const canvas = make('canvas', {class: sharp, 'aria-hidden': 'true', width: 1, height: 1});
      const frame = make('span.frame', canvas, bordered && regionOutline(picture, slices));
      const element = button(frame, () => onpick(place), {class: 'film-frame', tabindex: '-1'});
      element.append(make('span.film-tick', scene.tick(place, r)));
      return {canvas, element};
    });
    this.track = make('div.film-track', {onscroll: () => this.scrolled()}, this.frames);
    const group = {role: 'group', 'aria-label': `All epochs of layer ${column.layer}`};
    const name = make('span.film-name', {title: column.layer}, lineKey(scene, column), column.title);
    this.element = make('div.film', group, name, this.track);
    this.track.style.setProperty('--slices', String(slices));
    // left, width: the visible part; each: a frame's width; all in pixels.
    Object.assign(this, {at: -1, drawn: '', left: 0, width: 0, each: 0});
    new ResizeObserver(() => this.measure()).observe(this.track);
  }

  update(scene) {
    this.repaint(scene);
    if (this.at === scene.at) return;
    const old = this.frames[this.at]?.element;
    old?.removeAttribute('aria-current');
    old?.setAttribute('tabindex', '-1');
    this.at = scene.at;
    const {element} = this.frames[this.at];
    element.setAttribute('aria-current', 'true');
    element.setAttribute('tabindex', '0');
    // After all strips have changed: the page is then laid out only once.
    queueMicrotask(() => this.follow());
  }

  measure() {
    const {clientWidth, scrollWidth} = this.track;
    Object.assign(this, {width: clientWidth, each: scrollWidth / this.frames.length});
    this.scrolled();
    this.follow();
  }

  // Scrolls to the current frame if it is not visible.
  follow() {
    const {at, left, width, each, track} = this;
    if (at * each >= left && (at + 1) * each <= left + width) return;
    track.scrollLeft = (at + 0.5) * each - width / 2;
    this.left = track.scrollLeft;
    // After all strips have been scrolled.
    queueMicrotask(() => this.reveal());
  }

  scrolled() {
    this.left = this.track.scrollLeft;
    this.reveal();
  }

  // Hides frames far outside the visible part, because browsers composite each canvas separately at every move.
  reveal() {
    const {left, width, each} = this;
    this.frames.forEach(({canvas}, place) => {
      const near = (place + 1) * each > left - width / 2 && place * each < left + 1.5 * width;
      canvas.style.visibility = near ? '' : 'hidden';
    });
  }

  repaint(scene) {
    const look = JSON.stringify(scene.look) + scene.state.view;
    if (this.drawn === look) return;
    this.drawn = look;
    const run = scene.runs[this.r];
    const kind = {map: 'map', original: 'original'}[scene.state.view] || 'overlay';
    this.frames.forEach(({canvas, element}, place) => {
      const step = scene.stepAt(place, this.r);
      const state = paint(canvas, this.picture, run, step, this.key, this.probe, scene.look, kind);
      const right = run.right(step, this.probe);
      element.classList.toggle('wrong', right === false);
      for (const name of ['blank', 'broken']) element.classList.toggle(name, state === name);
      element.title = described(run, step, this.key, this.probe, kind, state, scene.look);
      element.setAttribute('aria-label', element.title);
    });
  }
}

// Returns an image scaled down to at most LONGEST pixels per side, to draw long strips of photographs quickly.
function thumbOf(picture) {
  const share = LONGEST / Math.max(picture.width, picture.height);
  if (share >= 1) return picture;
  if (thumbs.has(picture)) return thumbs.get(picture);
  const width = Math.max(1, Math.round(picture.width * share));
  const height = Math.max(1, Math.round(picture.height * share));
  const large = make('canvas', {width: picture.width * picture.slices, height: picture.height});
  large.getContext('2d').putImageData(new ImageData(picture.data, large.width, large.height), 0, 0);
  const small = make('canvas', {width: width * picture.slices, height});
  const context = small.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingQuality = 'high';
  context.drawImage(large, 0, 0, small.width, small.height);
  const found = {...picture, width, height, data: context.getImageData(0, 0, small.width, height).data};
  thumbs.set(picture, found);
  return found;
}
