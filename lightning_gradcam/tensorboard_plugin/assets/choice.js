// The selection of runs, with check boxes and a filter as in TensorBoard's own list of runs.

export class Choice {
  // kept: an earlier result of `kept()`.
  constructor({checked = null, filter = '', pair = ['', '']} = {}) {
    Object.assign(this, {entries: [], remarks: [], checked: checked && new Set(checked), filter, pair, error: ''});
  }

  kept() {
    const {checked, filter, pair} = this;
    return {checked: checked && [...checked], filter, pair};
  }

  // Until the user ticks a run, the newest one is ticked. remarks: those of the search through the log directory.
  take(entries, remarks) {
    Object.assign(this, {entries, remarks});
    if (this.checked && (this.touched || entries.some((entry) => this.checked.has(entry.run)))) return;
    const later = (best, entry) => (best && best.created >= entry.created ? best : entry);
    const newest = entries.filter(usable).reduce(later, null);
    this.checked = newest ? new Set([newest.run]) : null;
  }

  // Returns the runs that match the filter; all runs while the filter is not a valid regular expression.
  get visible() {
    try {
      const pattern = new RegExp(this.filter, 'i');
      this.error = '';
      return this.entries.filter(({run, name}) => pattern.test(run) || pattern.test(name));
    } catch {
      this.error = 'This is not a valid regular expression.';
      return this.entries;
    }
  }

  has(name) {
    return this.checked !== null && this.checked.has(name);
  }

  check(entries, on) {
    this.touched = true;
    this.checked ||= new Set();
    for (const {run} of entries) {
      if (on) this.checked.add(run);
      else this.checked.delete(run);
    }
  }

  only(name) {
    this.touched = true;
    this.checked = new Set([name]);
  }

  // Returns the visible runs that can be shown.
  get possible() {
    return this.visible.filter(usable);
  }

  get chosen() {
    return this.possible.filter((entry) => this.has(entry.run));
  }

  // Returns the names of the one or two runs to show, and a note about the others.
  get shown() {
    const {chosen, pair} = this;
    if (chosen.length === 0) return {names: [], note: ''};
    const left = chosen.find((entry) => entry.run === pair[0]) || chosen[0];
    const others = chosen.filter((entry) => entry !== left);
    const fitting = others.filter((entry) => entry.fingerprint === left.fingerprint);
    const right = fitting.find((entry) => entry.run === pair[1]) || fitting[0];
    const names = [left, right].filter(Boolean).map((entry) => entry.run);
    const alone = `Only ${left.name} is shown: the other ticked runs have other probes and cannot be compared with it.`;
    if (others.length > 0 && !right) return {names, note: alone};
    return {names, note: chosen.length > 2 ? `${chosen.length} runs are ticked; two are shown side by side.` : ''};
  }
}

export function usable(entry) {
  return entry.steps > 0 && !entry.problem;
}
