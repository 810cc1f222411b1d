// Runs from TensorBoard's server. Only the new steps of a growing run are fetched.

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
    Object.assign(this, {entries: [], notes: [], shown: [], held: new Map(), told: () => {}, missed: false});
  }

  // Asks for the list of runs again.
  async refresh() {
    const {runs, notes} = await (await answer('runs')).json();
    Object.assign(this, {entries: runs, notes});
  }

  // The runs to show: none, one, or two side by side.
  show(names) {
    this.shown = names;
    for (const name of this.held.keys()) if (!names.includes(name)) this.held.delete(name);
  }

  // The list of runs for the viewer. The mark is part of the id, so that a replaced step counts as a change.
  async runs() {
    const entries = this.shown.map((name) => this.entries.find((entry) => entry.run === name)).filter(Boolean);
    return entries.map((entry) => ({...entry, id: `${entry.id} ${entry.mark}`}));
  }

  watch(callback) {
    this.told = callback;
    return () => this.watch(() => {});
  }

  // Makes the viewer ask for its runs again.
  tell() {
    this.missed = false;
    this.told();
  }

  async load(name) {
    try {
      return await this.read(name, 3);
    } catch (error) {
      // The viewer shows the error. A run that is not damaged may be readable next time.
      if (error.status !== 500) this.missed = true;
      throw error;
    }
  }

  // A run that was rewound between the two requests has another mark, and is requested again.
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
