// Which runs are chosen: by check boxes and a filter, as in TensorBoard's own list of runs.

export class Choice {
  // kept: what `kept()` gave earlier.
  constructor({checked = null, filter = '', pair = ['', '']} = {}) {
    Object.assign(this, {entries: [], checked: checked && new Set(checked), filter, pair, error: ''});
  }

  kept() {
    const {checked, filter, pair} = this;
    return {checked: checked && [...checked], filter, pair};
  }

  // As long as nothing was checked, the newest run is.
  take(entries) {
    this.entries = entries;
    const possible = entries.filter(usable);
    if (this.checked && (this.touched || entries.some((entry) => this.checked.has(entry.run)))) return;
    const newest = possible.reduce((best, entry) => (best && best.created >= entry.created ? best : entry), null);
    this.checked = newest ? new Set([newest.run]) : null;
  }

  // The runs that match the filter; all of them while it is no regular expression.
  get visible() {
    try {
      const pattern = new RegExp(this.filter, 'i');
      this.error = '';
      return this.entries.filter((entry) => pattern.test(entry.run));
    } catch {
      this.error = 'This is no regular expression.';
      return this.entries;
    }
  }

  has(name) {
    return this.checked !== null && this.checked.has(name);
  }

  check(names, on) {
    this.touched = true;
    this.checked = this.checked || new Set();
    for (const name of names) {
      if (on) this.checked.add(name);
      else this.checked.delete(name);
    }
  }

  only(name) {
    this.touched = true;
    this.checked = new Set([name]);
  }

  get chosen() {
    return this.visible.filter((entry) => usable(entry) && this.has(entry.run));
  }

  // The names of the one or two runs to show, and what has to be said of the others.
  get shown() {
    const {chosen, pair} = this;
    if (chosen.length === 0) return {names: [], note: ''};
    const left = chosen.find((entry) => entry.run === pair[0]) || chosen[0];
    const others = chosen.filter((entry) => entry !== left);
    const fitting = others.filter((entry) => entry.fingerprint === left.fingerprint);
    const right = fitting.find((entry) => entry.run === pair[1]) || fitting[0];
    const names = [left, right].filter(Boolean).map((entry) => entry.run);
    if (others.length > 0 && !right) {
      return {names, note: `Only ${left.run} is shown: the other checked runs have other probes, and can't be compared with it.`};
    }
    return {names, note: chosen.length > 2 ? `${chosen.length} runs are checked; two stand side by side.` : ''};
  }
}

export function usable(entry) {
  return entry.steps > 0 && !entry.problem;
}
