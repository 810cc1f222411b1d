// The top of the page: title, selection of runs, and facts about them.
import {button, fill, labelled, make, select, setText} from './dom.js';
import {headlineOf, largestMove} from './moves.js';
import {numberInfo} from './numbers.js';
import {choicesOf} from './state.js';
import {explainedThing, numberOf, ofEach, quantities} from './words.js';

const LEAD = (what) => `Colours show which parts of the image raise ${what}.`;
const SIGNED = (what) => `Red parts of the image raise ${what}, blue parts lower it.`;
const MOTION = ' Press ▶ or drag the slider to see how they change during training.';

// With trainer.test or trainer.validate, the epoch and step are the Trainer's and not those of the checkpoint.
function stepsWords({steps}) {
  const {stage} = steps.at(-1);
  return numberOf(steps.length, 'logged step') + (['test', 'validate'].includes(stage) ? ` from trainer.${stage}` : '');
}

export class Head {
  // act: {set(changes), cycleTheme(), help: a dialog}.
  constructor(act, title) {
    this.title = make('h1', title);
    this.run = select([], (run) => act.set({run, compare: ''}));
    this.compare = select([], (compare) => act.set({compare}));
    this.runField = labelled('Run', this.run);
    this.compareField = labelled('Compare', this.compare, 'Another run with the same probes');
    this.theme = button('◐', () => act.cycleTheme(), {class: 'tool'});
    const name = 'How to read the maps, and keyboard';
    const help = button('?', () => act.help.showModal(), {class: 'tool', 'aria-label': name, title: `${name} (?)`});
    this.headline = make('p.headline');
    this.facts = make('p.facts');
    this.note = make('p.note');
    this.lead = make('p.lead');
    this.standIn = make('p.stand-in', {role: 'status'});
    const pickers = make('div.pickers', this.runField, this.compareField);
    const tools = make('div.tools', this.theme, help);
    const line = make('div.head-line', this.title, this.facts, pickers, tools);
    this.element = make('header.head', line, this.headline, make('div.about-line', this.lead, this.note));
  }

  // entries: all runs that can be selected.
  build(scene, entries) {
    const {header, name} = scene.runs[0];
    const names = entries.map(({run}) => [run, run]);
    fill(this.run, names, name);
    this.runField.hidden = entries.length < 2;
    const others = entries.filter((entry) => entry.run !== name);
    const group = (label, same) => {
      const some = others.filter(({fingerprint}) => (fingerprint === header.fingerprint) === same);
      const options = some.map(({run}) => make('option', {value: run, disabled: !same}, run));
      return options.length > 0 && make('optgroup', {label}, options);
    };
    const groups = [group('same probes', true), group('other probes: not comparable', false)];
    fill(this.compare, [['', 'no other run']], '');
    this.compare.append(...groups.filter(Boolean));
    this.compare.value = scene.runs[1]?.name ?? '';
    this.compareField.hidden = others.length === 0;
    this.what = explainedThing(scene);
    this.headline.title = numberInfo(scene.runs[0], 'drift').reading;
    const first = scene.runs.findIndex((run) => largestMove(run));
    const mark = (r) => scene.prefix(r).replace(' ', ': ');
    const headline = (run, r) => headlineOf(run, mark(r), scene.pictures[r], r === first);
    const moves = scene.runs.map(headline).filter(Boolean);
    this.headline.replaceChildren(...moves.map(([move, probe]) => make('span', make('strong', move), `${probe} `)));
    const shown = scene.runs.map((run, r) => mark(r) + run.name).join(', ');
    const facts = [
      this.title.textContent.endsWith(shown) ? '' : shown,
      numberOf(header.probes.length, scene.once ? 'image' : 'probe'),
      scene.once ? '' : ofEach(scene, stepsWords),
      ofEach(scene, (run) => `maps explain the ${quantities(run)}`),
      ofEach(scene, (run) => run.header.created?.slice(0, 10)),
    ];
    setText(this.facts, facts.filter(Boolean).join(' · '));
    this.facts.title = header.path || '';
    const notes = new Set(scene.runs.flatMap((run) => [run.header.note, run.header.remark]));
    notes.add(header.pictures);
    setText(this.note, [...notes].filter(Boolean).join(' · '));
    this.named(scene.state.theme);
  }

  named(theme) {
    this.theme.title = `Colours of the page: ${Object.fromEntries(choicesOf('theme'))[theme]} (d)`;
    this.theme.setAttribute('aria-label', this.theme.title);
  }

  move(scene) {
    setText(this.lead, (scene.look.signed ? SIGNED : LEAD)(this.what) + (scene.positions.length > 1 ? MOTION : ''));
    setText(this.standIn, scene.standIn());
  }
}
