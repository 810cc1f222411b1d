// The list of runs at the left, as TensorBoard has it beside its charts.
import {fill, labelled, make, setText} from './viewer/dom.js';
import {usable} from './choice.js';

export class Picker {
  // choice: a Choice; act: {chosen()}, called when the user has changed it; colours(run, place).
  constructor(choice, act, colours) {
    Object.assign(this, {choice, act, colours, rows: new Map(), drawn: ''});
    this.filter = make('input', {type: 'search', placeholder: 'Filter runs (regex)', 'aria-label': 'Filter runs (regex)', value: choice.filter, spellcheck: 'false', oninput: () => this.filtered()});
    this.error = make('p', {class: 'runs-error', role: 'status'});
    this.all = make('input', {type: 'checkbox', onchange: () => this.change(() => choice.check(choice.visible.filter(usable).map((e) => e.run), this.all.checked))});
    this.list = make('ul', {class: 'runs-list'});
    this.note = make('p', {class: 'runs-note', role: 'status'});
    this.sides = [0, 1].map((side) => make('select', {onchange: () => this.change(() => this.choice.pair.splice(side, 1, this.sides[side].value))}));
    this.pair = make('div', {class: 'runs-pair'}, ...this.sides.map((select, side) => labelled('AB'[side], select)));
    this.remarks = make('div', {class: 'runs-remarks'});
    const everything = make('label', {class: 'runs-all'}, this.all, make('span', {text: 'Run'}));
    this.inner = make('div', {class: 'runs-inner', id: 'gradcam-runs'}, this.filter, this.error, everything, this.list, this.note, this.pair, this.remarks);
    this.toggle = make('button', {type: 'button', class: 'runs-toggle', 'aria-controls': 'gradcam-runs', onclick: () => this.fold(!this.folded)});
    this.element = make('aside', {class: 'runs', 'aria-label': 'Runs'}, this.toggle, this.inner);
  }

  fold(folded) {
    this.folded = folded;
    this.element.dataset.folded = String(folded);
    this.toggle.setAttribute('aria-expanded', String(!folded));
  }

  filtered() {
    this.change(() => {
      this.choice.filter = this.filter.value;
    });
  }

  change(work) {
    work();
    this.update([]);
    this.act.chosen();
  }

  // The colours have changed.
  rebuild() {
    this.drawn = '';
    this.update();
  }

  // notes: of the search through the log directory; [] leaves them as they are.
  update(notes = []) {
    const {choice} = this;
    const visible = choice.visible;
    const drawn = JSON.stringify(visible);
    if (drawn !== this.drawn) {
      this.drawn = drawn;
      this.build(visible);
    }
    const {names, note} = choice.shown;
    for (const [name, {box, side}] of this.rows) {
      box.checked = choice.has(name);
      setText(side, names.length > 1 && names.includes(name) ? 'AB'[names.indexOf(name)] : '');
    }
    const possible = visible.filter(usable);
    const checked = possible.filter((entry) => choice.has(entry.run)).length;
    Object.assign(this.all, {checked: checked > 0 && checked === possible.length, indeterminate: checked > 0 && checked < possible.length, disabled: possible.length === 0});
    this.filter.setAttribute('aria-invalid', String(choice.error !== ''));
    setText(this.error, choice.error);
    setText(this.note, note);
    this.pair.hidden = choice.chosen.length < 3 || names.length < 2;
    if (!this.pair.hidden) {
      const of = (entries) => entries.map((entry) => [entry.run, entry.run]);
      const left = choice.chosen.find((entry) => entry.run === names[0]);
      fill(this.sides[0], of(choice.chosen), names[0]);
      fill(this.sides[1], of(choice.chosen.filter((e) => e !== left && e.fingerprint === left.fingerprint)), names[1]);
    }
    if (notes.length > 0) this.remarks.replaceChildren(...notes.map((text) => make('p', {text})));
    setText(this.toggle, `Runs: ${checked} of ${choice.entries.length}`);
  }

  build(visible) {
    this.rows.clear();
    const items = visible.map((entry) => {
      const place = this.choice.entries.indexOf(entry);
      const box = make('input', {type: 'checkbox', disabled: !usable(entry), onchange: () => this.change(() => this.choice.check([entry.run], box.checked))});
      const side = make('span', {class: 'runs-side'});
      const [light, dark] = this.colours(entry.run, place);
      const dot = make('span', {class: 'runs-dot', style: `--light: ${light}; --dark: ${dark}`});
      const name = make('span', {class: 'runs-name'}, ...broken(entry.run));
      const text = make('span', {class: 'runs-text'}, name, make('small', {class: entry.problem ? 'runs-problem' : '', text: said(entry)}));
      this.rows.set(entry.run, {box, side});
      const only = () => usable(entry) && this.change(() => this.choice.only(entry.run));
      const label = make('label', {title: `${entry.run}\nA double click shows only this run.`, ondblclick: only}, box, text, side, dot);
      return make('li', {}, label);
    });
    if (items.length === 0) items.push(make('li', {class: 'runs-none', text: this.choice.entries.length ? 'No run matches.' : 'No runs yet.'}));
    this.list.replaceChildren(...items);
  }
}

function said({problem, steps, created}) {
  if (problem) return problem;
  const date = created ? new Date(created) : null;
  const when = date && !Number.isNaN(date.getTime()) ? ` · ${date.toLocaleString([], {month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit'})}` : '';
  return `${steps === 0 ? 'no step yet' : `${steps} step${steps === 1 ? '' : 's'}`}${when}`;
}

// Long names are broken after slashes.
function broken(name) {
  return name.split(/(?<=\/)/).flatMap((part) => [part, make('wbr')]);
}
