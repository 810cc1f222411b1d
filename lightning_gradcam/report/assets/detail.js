// All about one probe: large pictures, every epoch, its numbers as curves and as a table.
import {Cell, cellWidth} from './cell.js';
import {ChartPanel} from './chart.js';
import {make, setText} from './dom.js';
import {Film} from './film.js';
import {chosenNumber, mapNumbers, numberInfo, shortNumber, valueOf} from './numbers.js';
import {chartContent} from './overview.js';
import {moveMarkers, timeline} from './timeline.js';
import {verdict} from './words.js';

export class Detail {
  // act: {pick(place), close(), open(probe), set(changes)}.
  constructor(act) {
    this.act = act;
    this.panel = new ChartPanel(170);
    this.element = make('section', {class: 'detail', hidden: true});
  }

  build(scene, probe) {
    this.probe = probe;
    this.parts = [];
    const [run] = scene.runs;
    const {id} = run.probes[probe];
    const truth = run.trueNames(probe);
    const order = scene.order();
    const beside = (by) => order[order.indexOf(probe) + by];
    const go = (by, text, name) => {
      const next = beside(by);
      return make('button', {
        type: 'button',
        text,
        'aria-label': name,
        disabled: next === undefined,
        onclick: () => this.act.open(next),
      });
    };
    this.heading = make('h2', {tabindex: '-1', text: `#${id}`});
    if (truth) this.heading.append(make('span', {class: 'truth', text: truth}));
    const head = make(
      'div',
      {class: 'detail-head'},
      make('button', {
        type: 'button',
        class: 'back',
        text: '← All probes',
        title: 'Back (Esc)',
        onclick: this.act.close,
      }),
      this.heading,
      go(-1, '‹ before', 'Probe before'),
      go(1, 'next ›', 'Next probe'),
    );
    this.element.replaceChildren(head);
    this.element.setAttribute('aria-label', `Probe ${id}`);
    this.element.style.setProperty('--cell', `${Math.max(cellWidth(run.header.display, 'detail'), 1)}px`);
    const slices = Math.max(1, ...scene.columns.map((column) => column.slices));
    const thumb = cellWidth(run.header.display, 'small');
    const room = (this.element.clientWidth - 120) / scene.positions.length / slices - 4;
    // A little smaller where all epochs fit then.
    this.element.style.setProperty('--thumb', `${room < thumb && room > thumb * 0.7 ? Math.floor(room) : thumb}px`);
    scene.runs.forEach((_, r) => {
      const place = scene.placeIn(r, probe);
      if (place >= 0) this.element.append(this.ofRun(scene, r, place));
    });
    const name = chosenNumber(run, scene.state.number);
    this.panel.show(chartContent(scene, [name], [probe], this.act.pick), scene.at);
    this.table = make('div', {class: 'table-box'});
    const title = make('h3', {text: `${numberInfo(run, name).title} of this probe`});
    this.element.append(
      make(
        'div',
        {class: 'detail-numbers'},
        scene.once ? null : make('section', {}, title, this.panel.element),
        make('section', {}, make('h3', {text: scene.once ? 'Numbers' : 'Numbers at this epoch'}), this.table),
      ),
    );
  }

  ofRun(scene, r, place) {
    const run = scene.runs[r];
    const said = make('span', {class: 'verdict'});
    const line = make('div', {class: 'run-line'}, said);
    if (scene.runs.length > 1)
      line.prepend(
        make('span', {class: 'badge', text: scene.marks[r]}),
        make('span', {class: 'run-name', text: run.name}),
      );
    const columns = scene.columns.filter((column) => column.places[r] >= 0);
    const cells = [new Cell(scene, r, place, null, 'original')];
    const pairs = columns.map((column) => {
      const pair = [new Cell(scene, r, place, column, 'overlay'), new Cell(scene, r, place, column, 'map')];
      cells.push(...pair);
      const box = make('div', {class: 'pair'}, ...pair.map((cell) => cell.element));
      box.style.setProperty('--slices', String(run.keys[column.places[r]].slices));
      return box;
    });
    const films = scene.once ? [] : columns.map((column) => new Film(scene, r, place, column, this.act.pick));
    const flips = run.flips(place).map((step) => {
      const [before, now] = [step - 1, step].map((at) => run.className(run.predicted(at, place)));
      const text = `${run.label(step)}: ${before} → ${now}`;
      return make('button', {
        type: 'button',
        class: 'flip-button',
        text,
        onclick: () => this.act.pick(scene.positions.findIndex((_, at) => scene.stepAt(at, r) === step)),
      });
    });
    this.parts.push({r, place, said, parts: [...cells, ...films]});
    return make(
      'div',
      {class: 'detail-run'},
      line,
      make('div', {class: 'cells'}, cells[0].element, ...pairs),
      scene.once ? null : make('h3', {text: 'All epochs'}),
      scene.once ? null : make('div', {class: 'films'}, ...films.map((film) => film.element)),
      !scene.once && scene.hasClasses() ? timeline(scene, r, place, this.act.pick) : null,
      flips.length ? make('div', {class: 'flips'}, make('span', {text: 'Flips'}), ...flips) : null,
    );
  }

  update(scene) {
    for (const {r, place, said, parts} of this.parts) {
      const {text, kind} = verdict(scene.runs[r], scene.step(r), place);
      setText(said, text || 'no prediction');
      said.className = `verdict ${kind}`;
      for (const part of parts) part.update(scene);
    }
    moveMarkers(this.element.querySelectorAll('.marker'), scene);
    this.panel.move(scene.at);
    this.fillTable(scene);
  }

  fillTable(scene) {
    const names = mapNumbers(scene.runs[0]);
    const places = this.parts.flatMap(({r, place}) =>
      scene.columns.filter((column) => column.places[r] >= 0).map((column) => ({r, place, column})),
    );
    const several = scene.runs.length > 1;
    const head = places.map(({r, column}) =>
      make('th', {scope: 'col', text: `${several ? `${scene.marks[r]} ` : ''}${column.title}`, title: column.layer}),
    );
    const rows = names.map((name) => {
      const info = numberInfo(scene.runs[0], name);
      const cells = places.map(({r, place, column}) =>
        make('td', {text: shortNumber(valueOf(scene.runs[r], name, scene.step(r), column.places[r], place))}),
      );
      return make('tr', {title: info.reading}, make('th', {scope: 'row', text: info.title}), ...cells);
    });
    const scores = places.map(({r, place, column}) => {
      const run = scene.runs[r];
      const value = shortNumber(run.score(scene.step(r), column.places[r], place));
      // A sum of probabilities can exceed 1.
      const summed = column.target === 'label' ? run.probes[place].true.length : 1;
      return make('td', {text: summed > 1 ? `sum over ${summed} classes: ${value}` : value});
    });
    rows.push(make('tr', {}, make('th', {scope: 'row', text: `explained ${scene.runs[0].header.score}`}), ...scores));
    this.table.replaceChildren(
      make(
        'table',
        {},
        make('thead', {}, make('tr', {}, make('th', {scope: 'col', text: 'number'}), ...head)),
        make('tbody', {}, ...rows),
      ),
    );
  }

  stop() {
    this.panel.stop();
  }
}
