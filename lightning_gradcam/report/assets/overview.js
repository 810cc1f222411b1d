// The curves above the cards: predictions on the left, one of the maps' numbers on the right.
import {ChartPanel} from './chart.js';
import {fill, make, setText} from './dom.js';
import {chosenNumber, isCounted, isOfPredictions, mapNumbers, means, numberInfo, sampleSizes} from './numbers.js';

// Lines of a number: for each run and layer shown, over the slider's positions. probes: places in the first run. Each
// has the number of probes that its mean is of (`counts`), and of how many (`of`).
export function seriesOf(scene, name, probes) {
  const found = [];
  scene.runs.forEach((run, r) => {
    const places = probes.map((probe) => scene.placeIn(r, probe)).filter((place) => place >= 0);
    const mark = scene.runs.length > 1 ? `${scene.marks[r]} ` : '';
    const along = (values) =>
      scene.positions.map((_, place) => (scene.has(place, r) ? values[scene.stepAt(place, r)] : null));
    const line = (key) => ({
      values: along(means(run, name, key, places)),
      counts: isCounted(run, name) ? [] : along(sampleSizes(run, name, key, places)),
      of: places.length,
    });
    if (isOfPredictions(name)) {
      const label = name === 'accuracy' ? 'right' : 'confidence';
      found.push({
        label: mark + label,
        ...line(-1),
        dash: name === 'accuracy' ? 0 : 1,
        second: r > 0,
      });
      return;
    }
    for (const column of scene.columns) {
      if (column.places[r] < 0) continue;
      found.push({
        label: mark + column.title,
        ...line(column.places[r]),
        dash: column.dash,
        second: r > 0,
      });
    }
  });
  return found;
}

export function chartContent(scene, names, probes, onpick) {
  const info = numberInfo(scene.runs[0], names[0]);
  const series = names.flatMap((name) => seriesOf(scene, name, probes));
  return {series, info, ticks: scene.positions.map((_, place) => scene.tick(place)), name: info.title, onpick};
}

export class Overview {
  constructor(act) {
    this.act = act;
    this.left = new ChartPanel();
    this.right = new ChartPanel();
    this.choice = make('select', {'aria-label': 'Number', onchange: () => act.set({number: this.choice.value})});
    this.reading = make('p', {class: 'reading'});
    this.about = make('span', {class: 'about'});
    this.predictions = make(
      'section',
      {class: 'curve', 'aria-label': 'Predictions over the epochs'},
      make('h2', {text: 'Predictions'}),
      this.left.element,
    );
    const head = make('h2', {}, make('label', {}, make('span', {class: 'unseen', text: 'Number '}), this.choice));
    this.numbers = make(
      'section',
      {class: 'curve', 'aria-label': 'A number of the maps over the epochs'},
      head,
      this.right.element,
      this.reading,
    );
    this.summary = make('summary', {}, make('span', {text: 'Curves'}), this.about);
    this.element = make(
      'details',
      {class: 'overview'},
      this.summary,
      make('div', {class: 'curves'}, this.predictions, this.numbers),
    );
    this.element.open = window.innerWidth >= 700;
  }

  build(scene) {
    const [run] = scene.runs;
    const names = mapNumbers(run);
    const name = chosenNumber(run, scene.state.number);
    fill(
      this.choice,
      names.map((one) => [one, numberInfo(run, one).title]),
      name,
    );
    const probes = scene.steady();
    const pick = this.act.pick;
    this.predictions.hidden = !scene.hasClasses();
    if (!this.predictions.hidden) {
      const known = run.probes.some((probe) => probe.true.length > 0);
      this.left.show(
        {
          ...chartContent(scene, known ? ['accuracy', 'confidence'] : ['confidence'], probes, pick),
          name: 'Predictions',
        },
        scene.at,
      );
    }
    this.right.show(chartContent(scene, [name], probes, pick), scene.at);
    setText(this.reading, numberInfo(run, name).reading);
    this.choice.title = numberInfo(run, name).reading;
    const few = probes.length < run.probes.length;
    const all = `${few ? `${probes.length} of ` : ''}${run.probes.length} probes`;
    const less = 'where fewer probes have a value, its n stands beside it';
    const what = isCounted(run, name) ? `number of probes, of ${all}` : `mean of ${all}; ${less}`;
    setText(this.about, `${what}; a click goes to that epoch`);
  }

  move(scene) {
    this.left.move(scene.at);
    this.right.move(scene.at);
  }

  stop() {
    this.left.stop();
    this.right.stop();
  }
}
