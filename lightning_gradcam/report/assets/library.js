// A source's runs: their list, and those already loaded.
import {picturesOf} from './pictures.js';
import {Run} from './run.js';

export class Library {
  constructor(source) {
    Object.assign(this, {source, entries: [], loaded: new Map()});
  }

  // Reloads the list. Runs whose steps have changed are loaded again on the next request.
  async renew() {
    this.entries = await this.source.runs();
    for (const entry of this.entries) {
      const known = this.loaded.get(entry.run);
      if (known && (known.id !== entry.id || known.steps !== entry.steps)) this.loaded.delete(entry.run);
    }
  }

  // Returns the entries of the selected run, and of the one to compare with, if it has the same probes.
  chosen({run, compare}) {
    const named = (name) => this.entries.find((entry) => entry.run === name);
    const first = named(run) || this.entries.find((entry) => entry.steps > 0) || this.entries[0];
    const second = named(compare);
    const fits = first && second && second !== first && second.fingerprint === first.fingerprint;
    return [first, fits ? second : undefined].filter(Boolean);
  }

  // Returns, for each run shown, the runs that differ from it only in their seed, without maps; runs in the same family
  // get the same list.
  families(shown) {
    const found = new Map();
    return shown.map(({run}) => {
      const kin = this.source.kin?.(run.name) || [];
      const key = kin.map(({run: name}) => name).join('\n');
      if (!found.has(key)) found.set(key, kin.map(({run: name, header}) => new Run(name, {header, maps: null})));
      return found.get(key);
    });
  }

  // Returns a promise of {run, pictures}.
  load({run: name, id, steps}) {
    if (!this.loaded.has(name)) {
      const work = this.source.load(name).then(async (data) => {
        const run = new Run(name, data);
        return {run, pictures: await picturesOf(run)};
      });
      // Retry a run that could not be read on the next request.
      work.catch(() => this.loaded.delete(name));
      this.loaded.set(name, {id, steps, work});
    }
    return this.loaded.get(name).work;
  }
}
