// The runs of a source: their list, and those already read.
import {familyOf} from './band.js';
import {picturesOf} from './pictures.js';
import {Run} from './run.js';

export class Library {
  constructor(source) {
    Object.assign(this, {source, entries: [], loaded: new Map()});
  }

  // Reads the list (again); runs whose steps have changed are read again at the next request.
  async renew() {
    this.entries = await this.source.runs();
    for (const entry of this.entries) {
      const known = this.loaded.get(entry.run);
      if (known && (known.id !== entry.id || known.steps !== entry.steps)) this.loaded.delete(entry.run);
    }
  }

  // The entries of the chosen run, and of the one to compare with if it has the same probes.
  chosen({run, compare}) {
    const named = (name) => this.entries.find((entry) => entry.run === name);
    const first = named(run) || this.entries.find((entry) => entry.steps > 0) || this.entries[0];
    const second = named(compare);
    const fits = first && second && second !== first && second.fingerprint === first.fingerprint;
    return [first, fits ? second : undefined].filter(Boolean);
  }

  // For each run shown, those that differ from it by their seed alone, without their maps; the same list for two of one
  // family.
  async families(shown) {
    const found = new Map();
    const head = ({run}) => new Run(run, {header: this.source.header(run), maps: null});
    const heads = async (entries) => entries.map(head);
    const each = shown.map(({run}) => {
      const kin = this.source.header ? familyOf(run.name, this.entries) : [];
      const key = kin.map((entry) => entry.run).join('\n');
      if (!found.has(key)) found.set(key, heads(kin));
      return found.get(key);
    });
    return Promise.all(each);
  }

  // Returns a promise of {run, pictures}.
  load({run: name, id, steps}) {
    if (!this.loaded.has(name)) {
      const work = this.source.load(name).then(async (data) => {
        const run = new Run(name, data);
        return {run, pictures: await picturesOf(run)};
      });
      // A run that could not be read is tried again at the next request.
      work.catch(() => this.loaded.delete(name));
      this.loaded.set(name, {id, steps, work});
    }
    return this.loaded.get(name).work;
  }
}
