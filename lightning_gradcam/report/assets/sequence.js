// Controls for a sequence in time, such as a run's epochs: a play button and a slider.
import {button, freshId, setText, slider} from './dom.js';

export class Sequence {
  // name: the slider's name. go(place) shows a place. hint: text appended to the button's title.
  constructor(name, go, hint = '') {
    Object.assign(this, {go, hint, at: 0, count: 0, rate: 2, timer: 0});
    this.slider = slider(name, (place) => this.pick(place), {max: 0, class: 'epoch', id: freshId('epoch')});
    this.button = button('', () => this.play(), {class: 'play'});
    this.dress();
  }

  get on() {
    return this.timer !== 0;
  }

  // Sets the current place, the number of places, and the text for the current one.
  move(at, count, words) {
    Object.assign(this, {at, count});
    Object.assign(this.slider, {max: Math.max(count - 1, 0), value: at, disabled: count < 2});
    this.slider.setAttribute('aria-valuetext', words);
  }

  // Goes to the place that the user selects.
  pick(place) {
    this.stop();
    this.show(place);
  }

  show(place) {
    // Set immediately: several steps within one frame must add up.
    this.at = Math.min(this.count - 1, Math.max(0, place));
    this.go(this.at);
  }

  play() {
    if (this.on) this.stop();
    else if (this.count > 1) {
      if (this.at === this.count - 1) this.show(0);
      this.start();
    }
  }

  // Places per second.
  setRate(rate) {
    const changed = this.rate !== rate;
    this.rate = rate;
    if (this.on && changed) this.start();
  }

  start() {
    window.clearInterval(this.timer);
    this.timer = window.setInterval(() => this.forward(), 1000 / this.rate);
    this.dress();
  }

  forward() {
    if (this.at < this.count - 1) this.show(this.at + 1);
    if (this.at >= this.count - 1) this.stop();
  }

  stop() {
    window.clearInterval(this.timer);
    this.timer = 0;
    this.dress();
  }

  dress() {
    const name = this.on ? 'Pause' : 'Play';
    setText(this.button, this.on ? '❚❚' : '▶');
    this.button.setAttribute('aria-label', name);
    this.button.title = name + this.hint;
  }
}
