// The top of the page: title, runs to choose from, and what has to be known of them.
import {labelled, make, setText} from './dom.js';

const LEAD = 'Colours show which places of a picture spoke for the class the maps explain.';
const MOTION =
  ' Press ▶ or drag the slider to see how that changes while the network learns; “Film strips” shows all epochs at once.';
const THEMES = {auto: 'as the system', light: 'light', dark: 'dark'};

export class Head {
  // act: {set(changes), theme(), help()}.
  constructor(act, title) {
    this.title = make('h1', {text: title});
    this.run = make('select', {onchange: () => act.set({run: this.run.value, compare: ''})});
    this.compare = make('select', {onchange: () => act.set({compare: this.compare.value})});
    this.runField = labelled('Run', this.run);
    this.compareField = labelled('Beside it', this.compare, 'Another run with the same probes');
    this.theme = make('button', {type: 'button', class: 'tool', text: '◐', onclick: act.theme});
    const help = make('button', {
      type: 'button',
      class: 'tool',
      text: '?',
      'aria-label': 'Keyboard and reading',
      title: 'Keyboard and reading (?)',
      onclick: act.help,
    });
    this.facts = make('p', {class: 'facts'});
    this.note = make('p', {class: 'note'});
    this.standIn = make('p', {class: 'stand-in', role: 'status'});
    const tools = make('div', {class: 'tools'}, this.theme, help);
    const pickers = make('div', {class: 'pickers'}, this.runField, this.compareField);
    this.lead = make('p', {class: 'lead', text: LEAD + MOTION});
    this.element = make(
      'header',
      {class: 'head'},
      make('div', {class: 'head-line'}, this.title, pickers, tools),
      this.facts,
      this.note,
      this.lead,
    );
  }

  // entries: all runs that can be chosen.
  build(scene, entries) {
    const {header, name} = scene.runs[0];
    this.run.replaceChildren(...entries.map((entry) => make('option', {value: entry.run, text: entry.run})));
    this.run.value = name;
    this.runField.hidden = entries.length < 2;
    const others = entries.filter((entry) => entry.run !== name);
    const same = others.filter((entry) => entry.fingerprint === header.fingerprint);
    const different = others.filter((entry) => entry.fingerprint !== header.fingerprint);
    const option = (entry, disabled) => make('option', {value: entry.run, text: entry.run, disabled});
    this.compare.replaceChildren(make('option', {value: '', text: 'no other run'}));
    if (same.length)
      this.compare.append(make('optgroup', {label: 'same probes'}, ...same.map((entry) => option(entry, false))));
    if (different.length)
      this.compare.append(
        make('optgroup', {label: 'other probes: not comparable'}, ...different.map((entry) => option(entry, true))),
      );
    this.compare.value = scene.runs[1] ? scene.runs[1].name : '';
    this.compareField.hidden = others.length === 0;
    setText(this.lead, scene.once ? LEAD : LEAD + MOTION);
    const {length} = header.probes;
    const facts = [
      scene.runs.map((run, r) => (scene.runs.length > 1 ? `${scene.marks[r]}: ${run.name}` : run.name)).join(', '),
      scene.once ? `${length} picture${length === 1 ? '' : 's'}` : `${length} probes`,
      scene.once ? '' : `${scene.runs[0].steps.length} logged step${scene.runs[0].steps.length === 1 ? '' : 's'}`,
      `maps explain the ${header.score === 'logit' ? 'logit' : header.score}`,
      header.created ? header.created.slice(0, 10) : '',
    ];
    setText(this.facts, facts.filter(Boolean).join(' · '));
    this.facts.title = header.path || '';
    const notes = scene.runs.flatMap((run) => [run.header.note, run.header.remark]);
    setText(
      this.note,
      [...new Set(notes.filter(Boolean)), header.display_source ? `pictures: ${header.display_source}` : '']
        .filter(Boolean)
        .join(' · '),
    );
    this.note.hidden = this.note.textContent === '';
    this.named(scene.state.theme);
  }

  named(theme) {
    this.theme.title = `Colours of the page: ${THEMES[theme]} (d)`;
    this.theme.setAttribute('aria-label', this.theme.title);
  }

  move(scene) {
    setText(this.standIn, scene.standIn());
    this.standIn.hidden = this.standIn.textContent === '';
  }
}
