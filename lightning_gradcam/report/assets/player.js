// Steps on at a steady pace until it is stopped or at the end.

export class Player {
  // forward() steps on and returns whether there is more; changed(on) is told when it starts and stops.
  constructor(forward, changed) {
    Object.assign(this, {forward, changed, timer: 0, rate: 2});
  }

  get on() {
    return this.timer !== 0;
  }

  start(rate) {
    this.stop();
    this.rate = rate;
    this.timer = window.setInterval(() => {
      if (!this.forward()) this.stop();
    }, 1000 / rate);
    this.changed(true);
  }

  stop() {
    if (!this.on) return;
    window.clearInterval(this.timer);
    this.timer = 0;
    this.changed(false);
  }
}
