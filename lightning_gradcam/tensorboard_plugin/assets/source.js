// Loads runs from TensorBoard's server; for a growing run, only new steps are fetched. The viewer identifies runs by
// names, which state how their hyperparameters differ; the list and the server identify them by folders.
import {familyOf} from './viewer/band.js';

const BASE = import.meta.url;

async function answer(route, parameters = {}) {
  const url = new URL(`./${route}`, BASE);
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  const response = await fetch(url, {credentials: 'same-origin'});
  if (response.ok) return response;
  const answered = await response.json().catch(() => ({}));
  throw Object.assign(new Error(answered.error || `TensorBoard answers with status ${response.status}.`), {
    status: response.status,
  });
}

export class Source {
  constructor() {
    Object.assign(this, {entries: [], notes: [], shown: [], ticked: [], held: new Map(), told: () => {}, missed: false});
    // For runs that are not shown, but whose numbers are part of a band: {mark, header: null if it can't be read}.
    Object.assign(this, {heads: new Map(), busy: false});
  }

  // Requests the list of runs again.
  async refresh() {
    const {runs, notes} = await (await answer('runs')).json();
    Object.assign(this, {entries: runs, notes});
  }

  // Sets the runs to show: none, one, or two side by side. ticked: the entries of all runs whose numbers may be shown.
  show(folders, ticked) {
    Object.assign(this, {shown: folders, ticked});
    for (const folder of this.held.keys()) if (!folders.includes(folder)) this.held.delete(folder);
    const part = this.relatives.map(({run}) => run);
    for (const folder of this.heads.keys()) if (!part.includes(folder)) this.heads.delete(folder);
  }

  entry(folder) {
    return this.entries.find(({run}) => run === folder);
  }

  // Returns the ticked runs that differ from a shown one only in their seed.
  get relatives() {
    return [...new Set(this.shown.flatMap((folder) => familyOf(folder, this.ticked)))];
  }

  // Reads the headers of relatives that are not shown, for the viewer to draw their mean and range. One that could not
  // be read is requested again next time, unless it is damaged.
  async gather() {
    if (this.busy) return;
    this.busy = true;
    const isMissing = ({run, mark}) => !this.shown.includes(run) && this.heads.get(run)?.mark !== mark;
    const next = () => this.relatives.find(isMissing);
    let [news, again] = [false, false];
    for (let missing = next(); missing && !again; missing = next()) {
      const {run, mark} = missing;
      const work = answer('run', {run}).then((found) => found.json());
      const header = await work.catch((error) => {
        again = error.status !== 500;
        return null;
      });
      news ||= header !== null || this.heads.get(run)?.header !== null;
      this.heads.set(run, {mark: again ? '' : mark, header});
    }
    this.busy = false;
    if (news) this.tell();
  }

  // Returns the runs in a run's family; none until all headers have been read.
  kin(name) {
    const own = this.ticked.find((entry) => entry.name === name);
    const family = familyOf(own?.run, this.ticked).map(({run, name: title, seed}) => {
      const {header} = this.held.get(run) || this.heads.get(run) || {};
      return {run: title, header: header && {...header, seed}};
    });
    const readable = family.filter(({header}) => header !== null);
    return readable.length > 1 && readable.every(({header}) => header) ? readable : [];
  }

  // Returns the list of runs for the viewer. The id includes the mark, so a replaced step counts as a change.
  async runs() {
    const entries = this.shown.map((folder) => this.entry(folder)).filter(Boolean);
    return entries.map((entry) => ({...entry, run: entry.name, id: `${entry.id} ${entry.mark}`}));
  }

  watch(callback) {
    this.told = callback;
  }

  // Makes the viewer request its runs again.
  tell() {
    this.missed = false;
    this.told();
  }

  async load(name) {
    try {
      const {run} = this.entries.find((entry) => entry.name === name) || {run: name};
      return await this.read(run, 3);
    } catch (error) {
      // The viewer shows the error. A run that is not damaged may be readable next time.
      if (error.status !== 500) this.missed = true;
      throw error;
    }
  }

  // Reads a run. If it was rewound between the two requests, its mark differs, and it is requested again.
  async read(name, tries) {
    const header = await (await answer('run', {run: name})).json();
    const before = this.held.get(name);
    const same = before && before.header.id === header.id && before.header.block === header.block ? before : null;
    let kept = 0;
    while (same && kept < header.marks.length && same.header.marks[kept] === header.marks[kept]) kept += 1;
    const maps = new Uint8Array(header.marks.length * header.block);
    if (kept > 0) maps.set(same.maps.subarray(0, kept * header.block));
    if (kept < header.marks.length) {
      try {
        const found = await answer('maps', {run: name, start: kept, stop: header.marks.length, mark: header.mark});
        maps.set(new Uint8Array(await found.arrayBuffer()), kept * header.block);
      } catch (error) {
        if (error.status === 409 && tries > 1) return this.read(name, tries - 1);
        throw error;
      }
    }
    const data = {header, maps};
    if (this.shown.includes(name)) this.held.set(name, data);
    return data;
  }
}
