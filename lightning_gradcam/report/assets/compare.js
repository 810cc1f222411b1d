// Shows two runs side by side: their names, alternative runs for B, and the difference between their maps.
import {Cell} from './cell.js';
import {DIVERGING, paintColourBar} from './colour.js';
import {layDifference} from './difference.js';
import {button, make, segments} from './dom.js';
import {largest, percent, smallest} from './numbers.js';
import {resized} from './resize.js';

// Maximum number of runs shown as buttons; further runs are available only in the list.
const MOST_CHIPS = 12;
const SWAP = 'Swap A and B';
const VIEWS = ['overlay', 'map', 'both'];

// Whether runs are next to each other, unlike film strips, which are below each other.
export function isSided({runs, state}) {
  return runs.length > 1 && state.show !== 'film';
}

// Whether the difference between the two runs' maps is shown next to them.
export function showsApart(scene) {
  const {versus, view, show, probe} = scene.state;
  return scene.runs.length > 1 && versus === 'on' && VIEWS.includes(view) && (show !== 'film' || probe !== '');
}

// Returns A's map minus B's, both relative to the brightest colour in their own run, as they are shown, on A's grid.
// null if they have different numbers of slices.
function apartOf(scene, places, keys) {
  const [a, b] = scene.runs.map((run, r) => ({
    ...run.keys[keys[r]],
    shares: run.shares(scene.look, scene.step(r), keys[r], places[r]),
  }));
  if (a.slices !== b.slices) return null;
  const found = new Float32Array(a.shares.length);
  for (let slice = 0; slice < a.slices; slice += 1) {
    const other = resized(b.shares, b.slices * b.width, slice * b.width, b.width, b.height, a.width, a.height);
    for (let y = 0; y < a.height; y += 1) {
      for (let x = 0; x < a.width; x += 1) {
        const at = y * a.slices * a.width + slice * a.width + x;
        found[at] = a.shares[at] - other[y * a.width + x];
      }
    }
  }
  return found;
}

// An image of a difference: red where A has more evidence, blue where B has more, grey where both have the same.
class ApartCell extends Cell {
  // places: the probe's index in each run; column: a column that both runs have.
  constructor(scene, places, column) {
    super(scene, 0, places[0], column, 'apart');
    Object.assign(this, {places, keys: column.places});
  }

  update(scene) {
    const [a, b] = scene.runs;
    const broken = scene.runs.some((run, r) => run.maximum(scene.step(r), this.keys[r], this.places[r]) === null);
    const shares = apartOf(scene, this.places, this.keys);
    const state = broken || shares === null ? 'broken' : '';
    layDifference(this.canvas, this.picture, a.keys[this.keys[0]], shares || new Float32Array(1), scene.look, state);
    const classes = [a, b].map((run, r) => run.explainedClass(scene.step(r), this.keys[r], this.places[r]));
    const other = classes[0] === classes[1] ? '' : `classes differ: ${classes.join(' | ')}; `;
    const [most, least] = shares ? [Math.max(0, largest(shares)), Math.max(0, -smallest(shares))] : [0, 0];
    // In signed maps, "brighter" would be wrong, because blue is also bright.
    const ends = `A ${scene.look.signed ? 'higher' : 'brighter'} by up to ${percent(most)}, B by ${percent(least)}`;
    const text = other + (state ? 'cannot be subtracted' : most + least > 0 ? ends : 'no difference');
    this.canvas.title = state ? APART_WORDS : `${APART_WORDS} Largest: ${ends}.`;
    this.tell(state, text, `Probe ${a.probes[this.probe].id}, layer ${this.column.layer}, A minus B: ${text}`);
  }
}

const APART_WORDS =
  'A − B: red where A’s map is brighter (if signed: higher), blue where B’s is, grey where both are the same. Full' +
  ' colours mean a difference of 100% of the brightest colour.';

// Creates the difference cells for one probe; none if a run lacks the probe, and none for layers that a run lacks.
export function apartCells(scene, probe) {
  const places = scene.runs.map((_, r) => scene.placeIn(r, probe));
  if (!showsApart(scene) || places.includes(-1)) return [];
  const both = scene.columns.filter((column) => !column.places.includes(-1));
  return both.map((column) => new ApartCell(scene, places, column));
}

// Creates the pane with difference cells; false if there are none.
export function apartPane(cells) {
  const head = make('div.run-line', make('span.apart-mark', {title: APART_WORDS}, 'A − B'));
  return cells.length > 0 && make('div.run-row.apart-row', head, make('div.cells', cells));
}

// Returns the number of panes side by side: one for each of two runs, and one for their difference; 0 otherwise.
export function panesOf(scene) {
  return isSided(scene) ? 2 + Number(showsApart(scene)) : 0;
}

// The line above the maps, which shows the runs A and B and explains the colours of the difference.
export class CompareLine {
  // act: {set(changes), scene}; fixed: whether the runs are selected elsewhere on the page.
  constructor(act, fixed) {
    Object.assign(this, {act, fixed, others: []});
    const pick = (name) => act.set({compare: act.scene.runs[1]?.name === name ? '' : name});
    this.chips = segments('Run beside A', pick);
    const flip = () => act.set({versus: act.scene.state.versus === 'on' ? 'off' : 'on'});
    this.versus = segments('Difference of A and B', flip);
    const swap = button('⇄', () => this.swap(), {class: 'tool', 'aria-label': SWAP, title: `${SWAP} (x)`});
    this.colours = make('canvas.colour-bar', {'aria-hidden': 'true', width: 256, height: 1});
    const legend = make('div.legend', make('span', 'more in B'), this.colours, make('span', 'more in A'));
    this.key = [legend, make('span.reading', 'full colours: ±100% of the brightest colour')];
    this.texts = [0, 1, 2].map(() => make('span.side-text'));
    const parts = [[this.texts[0]], [this.texts[1], this.chips], [swap], [this.versus, this.texts[2]]];
    this.sides = parts.map((part) => make('div.side', part));
    this.element = make('section.compare-line', {'aria-label': 'Runs side by side'}, this.sides);
  }

  // entries: all runs that can be selected.
  build(scene, entries) {
    const [a, b] = scene.runs;
    const {fingerprint} = a.header;
    const others = entries.filter((entry) => entry.run !== a.name && entry.fingerprint === fingerprint && entry.steps);
    this.others = others.map(({run}) => run);
    this.element.hidden = others.length === 0;
    const few = others.length > 1 || !b ? this.others.slice(0, MOST_CHIPS) : [];
    this.chips.show(few.map((name) => [name, name, name]), [b?.name]);
    this.versus.show([['on', 'A − B', `${APART_WORDS} (w)`]], [scene.state.versus]);
    const mark = (text) => make('span.badge', text);
    const name = (run) => make('span.side-name', {title: run.header.path || run.name}, run.name);
    const alone = [make('span.field-name', 'Compare with')];
    this.texts[0].replaceChildren(...(b ? [mark('A'), name(a)] : []));
    this.texts[1].replaceChildren(...(b ? [mark('B'), ...(few.includes(b.name) ? [] : [name(b)])] : alone));
    this.texts[2].replaceChildren(...(showsApart(scene) ? this.key : []));
    this.sides[0].hidden = this.sides[3].hidden = !b;
    this.sides[2].hidden = !b || this.fixed;
    paintColourBar(this.colours, DIVERGING);
  }

  // Selects the next run to show beside A; none after the last one.
  next() {
    if (this.fixed) return;
    const names = ['', ...this.others];
    const now = names.indexOf(this.act.scene.runs[1]?.name ?? '');
    this.act.set({compare: names[(now + 1) % names.length]});
  }

  swap() {
    const [a, b] = this.act.scene.runs;
    if (b && !this.fixed) this.act.set({run: b.name, compare: a.name});
  }
}
