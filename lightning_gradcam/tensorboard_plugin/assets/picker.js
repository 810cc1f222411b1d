// The list of runs on the left, as in TensorBoard next to its charts.
import {fill, labelled, make, select, setText} from './viewer/dom.js';
import {numberOf} from './viewer/words.js';
import {usable} from './choice.js';

const WHEN = {month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit'};

export class Picker {
  // choice: a Choice; act: {chosen()}, called after the user has changed it; colours(run, place).
  constructor(choice, act, colours) {
    Object.assign(this, {choice, act, colours, rows: new Map(), drawn: ''});
    const filtered = () => Object.assign(choice, {filter: this.filter.value});
    const name = 'Filter runs (regex)';
    const search = {type: 'search', placeholder: name, 'aria-label': name, value: choice.filter, spellcheck: 'false'};
    this.filter = make('input', {...search, oninput: () => this.change(filtered)});
    this.error = make('p.runs-error', {role: 'status'});
    this.all = this.checkbox((on) => choice.check(choice.possible, on));
    this.list = make('ul.runs-list');
    this.note = make('p.runs-note', {role: 'status'});
    this.sides = [0, 1].map((side) => select([], (run) => this.change(() => choice.pair.splice(side, 1, run))));
    const pair = this.sides.map((choices, side) => labelled('AB'[side], choices));
    this.pair = make('div.runs-pair', pair);
    this.remarks = make('div.runs-remarks');
    const everything = make('label.runs-all', this.all, make('span', 'Run'));
    const parts = [this.filter, this.error, everything, this.list, this.note, this.pair, this.remarks];
    this.toggle = make('summary.runs-toggle');
    this.details = make('details', this.toggle, parts);
    this.element = make('aside.runs', {'aria-label': 'Runs'}, this.details);
  }

  checkbox(work, disabled = false) {
    const onchange = ({target}) => this.change(() => work(target.checked));
    return make('input', {type: 'checkbox', disabled, onchange});
  }

  change(work) {
    work();
    this.update();
    this.act.chosen();
  }

  // Rebuilds the list after the colours have changed.
  rebuild() {
    this.drawn = '';
    this.update();
  }

  update() {
    const {choice} = this;
    const drawn = JSON.stringify([choice.visible, choice.remarks]);
    if (drawn !== this.drawn) this.build(choice.visible);
    this.drawn = drawn;
    const {names, note} = choice.shown;
    for (const [name, {box, side}] of this.rows) {
      box.checked = choice.has(name);
      setText(side, names.length > 1 && names.includes(name) ? 'AB'[names.indexOf(name)] : '');
    }
    const {length} = choice.possible;
    const checked = choice.chosen.length;
    const [every, some] = [checked > 0 && checked === length, checked > 0 && checked < length];
    Object.assign(this.all, {checked: every, indeterminate: some, disabled: length === 0});
    this.filter.setAttribute('aria-invalid', String(choice.error !== ''));
    setText(this.error, choice.error);
    setText(this.note, note);
    this.pair.hidden = checked < 3 || names.length < 2;
    if (!this.pair.hidden) this.fillSides(names);
    setText(this.toggle, `Runs: ${checked} of ${choice.entries.length}`);
  }

  fillSides(names) {
    const {chosen} = this.choice;
    const left = chosen.find((entry) => entry.run === names[0]);
    const others = chosen.filter((entry) => entry !== left && entry.fingerprint === left.fingerprint);
    [chosen, others].forEach((entries, side) => {
      const options = entries.map(({run, name}) => [run, name]);
      fill(this.sides[side], options, names[side]);
    });
  }

  build(visible) {
    this.rows.clear();
    const items = visible.map((entry) => make('li', this.row(entry)));
    const none = this.choice.entries.length ? 'No run matches.' : 'No runs yet.';
    if (items.length === 0) items.push(make('li.runs-none', none));
    this.list.replaceChildren(...items);
    this.remarks.replaceChildren(...this.choice.remarks.map((text) => make('p', text)));
  }

  row(entry) {
    const {run, name} = entry;
    const box = this.checkbox((on) => this.choice.check([entry], on), !usable(entry));
    const side = make('span.runs-side');
    this.rows.set(run, {box, side});
    const [light, dark] = this.colours(run, this.choice.entries.indexOf(entry));
    const dot = make('span.runs-dot', {style: `--light: ${light}; --dark: ${dark}`});
    const about = make('small', {class: entry.problem ? 'runs-problem' : ''}, described(entry));
    const folder = name !== run && make('small', broken(run));
    const text = make('span.runs-text', make('span.runs-name', broken(name)), folder, about);
    const title = `${run}\nDouble-click to show only this run.`;
    const ondblclick = () => usable(entry) && this.change(() => this.choice.only(run));
    return make('label', {title, ondblclick}, box, text, side, dot);
  }
}

function described({problem, steps, created}) {
  if (problem) return problem;
  const date = new Date(created || NaN);
  const when = Number.isNaN(date.getTime()) ? '' : ` · ${date.toLocaleString([], WHEN)}`;
  return `${steps === 0 ? 'no step yet' : numberOf(steps, 'step')}${when}`;
}

// Allows line breaks after slashes, for long names.
function broken(name) {
  return name.split(/(?<=\/)/).flatMap((part) => [part, make('wbr')]);
}
