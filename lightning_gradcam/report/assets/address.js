// The page's address keeps the state.
import {hashOf, stateOf} from './state.js';

// Browsers refuse more than a few hundred changes of the address in half a minute.
const PAUSE = 400;

export class Address {
  // followed(state) is called when the hash has been changed by hand or by a link.
  constructor(used, followed) {
    this.used = used;
    this.timer = 0;
    this.follow = () => {
      window.clearTimeout(this.timer);
      this.timer = 0;
      followed(this.state());
    };
    if (used) window.addEventListener('hashchange', this.follow);
  }

  state() {
    return stateOf(this.used ? window.location.hash : '');
  }

  // Writes the state a moment later, as it is then.
  write(state) {
    if (!this.used || this.timer) return;
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      const {pathname, search} = window.location;
      try {
        window.history.replaceState(window.history.state, '', hashOf(state) || pathname + search);
      } catch {
        // A page without an address of its own, such as a frame in a notebook, has no link to keep.
        this.used = false;
      }
    }, PAUSE);
  }

  stop() {
    window.clearTimeout(this.timer);
    window.removeEventListener('hashchange', this.follow);
  }
}
