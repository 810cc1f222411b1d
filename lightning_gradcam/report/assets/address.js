// Stores the viewer's state in the page's address.
import {hashOf, stateOf} from './state.js';

// Milliseconds between changes of the address; browsers reject more than a few hundred in half a minute.
const PAUSE = 400;

export class Address {
  // followed(state) is called after the hash was edited or a link was followed.
  constructor(followed) {
    this.timer = 0;
    window.addEventListener('hashchange', () => {
      window.clearTimeout(this.timer);
      this.timer = 0;
      followed(this.state());
    });
  }

  state() {
    return stateOf(window.location.hash);
  }

  // Writes the state after a pause, including changes made in the meantime.
  write(state) {
    if (this.timer) return;
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      const {pathname, search} = window.location;
      try {
        window.history.replaceState(window.history.state, '', hashOf(state) || pathname + search);
      } catch {
        // A page without its own address, such as a frame in a notebook, can't store the state.
      }
    }, PAUSE);
  }
}
