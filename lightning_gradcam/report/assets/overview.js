// The curves above the cards: predictions on the left, a number for the maps on the right.
import {bandSeries, bandWords} from './band.js';
import {ChartPanel, labelRoom} from './chart.js';
import {fill, make, select, setText} from './dom.js';
import {chosenNumber, isCounted, isOfPredictions, mapNumbers, means, numberInfo, sampleSizes} from './numbers.js';
import {numberOf} from './words.js';

// Returns a chart line of a number for each run and layer shown, over the slider's positions. probes: indices in the
// first run. Each line has the number of probes in its means (`counts`), and their total number (`of`).
function seriesOf(scene, name, probes) {
  return linesOf(scene, name).flatMap((line) => {
    const {r, run, column, key, title} = line;
    const family = scene.families[r];
    if (family.length === 0) {
      const places = scene.placesIn(r, probes);
      const counts = isCounted(run, name) ? [] : scene.along(r, sampleSizes(run, name, key, places));
      return {...line, values: scene.along(r, means(run, name, key, places)), counts, of: places.length};
    }
    // Both runs may be of one family.
    if (scene.families.indexOf(family) !== r) return [];
    const label = scene.families.every((other) => other === family) ? title : line.label;
    return {...line, label, ...bandSeries(scene, family, name, column, probes)};
  });
}

// Returns the lines for each run: its predictions, or each column of its maps.
function linesOf(scene, name) {
  if (!isOfPredictions(name)) return scene.lines;
  const [title, dash] = name === 'accuracy' ? ['right', 0] : [name, 1];
  const line = {column: null, key: -1, title, dash};
  return scene.runs.map((run, r) => ({...line, r, run, label: scene.prefix(r) + title, second: r > 0}));
}

export function chartContent(scene, names, probes, onpick) {
  const info = numberInfo(scene.runs[0], names[0]);
  const series = names.flatMap((name) => seriesOf(scene, name, probes));
  return {series, info, ticks: scene.ticks, name: info.title, onpick};
}

export class Overview {
  constructor(act) {
    this.act = act;
    this.left = new ChartPanel();
    this.right = new ChartPanel();
    this.choice = select([], (number) => act.set({number}), {'aria-label': 'Number'});
    this.reading = make('p.reading');
    this.about = make('span.about');
    const curve = (name, ...parts) => make('section.curve', {'aria-label': name}, parts);
    this.predictions = curve('Predictions over the epochs', make('h2', 'Predictions'), this.left.element);
    const title = make('h2', make('label', make('span.unseen', 'Number '), this.choice));
    const numbers = curve('A number for the maps over the epochs', title, this.right.element, this.reading);
    const summary = make('summary', make('span', 'Curves'), this.about);
    this.element = make('details.overview', summary, make('div.curves', this.predictions, numbers));
    this.element.addEventListener('toggle', () => act.set({curves: this.element.open ? 'on' : 'off'}));
  }

  build(scene) {
    const [run] = scene.runs;
    this.element.open = scene.state.curves === 'on';
    const names = mapNumbers(run);
    const name = chosenNumber(run, scene.state.number);
    const info = numberInfo(run, name);
    const titled = names.map((one) => [one, numberInfo(run, one).title]);
    fill(this.choice, titled, name);
    const probes = scene.steady();
    const pick = this.act.pick;
    this.predictions.hidden = !scene.hasClasses();
    const known = run.probes.some((probe) => probe.true.length > 0);
    const left = chartContent(scene, known ? ['accuracy', 'confidence'] : ['confidence'], probes, pick);
    const right = chartContent(scene, [name], probes, pick);
    // Reserve the same space for labels, to align the epochs of both charts.
    const room = Math.max(this.predictions.hidden ? 0 : labelRoom(left), labelRoom(right));
    if (!this.predictions.hidden) this.left.show({...left, room, name: 'Predictions'}, scene.at);
    this.right.show({...right, room}, scene.at);
    setText(this.reading, info.reading);
    this.choice.title = info.reading;
    const few = probes.length < run.probes.length;
    const all = `${few ? `${probes.length} of ` : ''}${numberOf(run.probes.length, 'probe')}`;
    const what = isCounted(run, name) ? `number of probes, of ${all}` : `mean of ${all} (fewer where noted)`;
    setText(this.about, [what, ...bandWords(scene), 'click to go to an epoch'].join('; '));
  }

  move(scene) {
    this.left.move(scene.at);
    this.right.move(scene.at);
  }
}
