// Lists a run's findings: a few at the top of the page, the rest collapsed.
import {button, make} from './dom.js';
import {numberOf} from './words.js';

// Number of findings shown for a single run on a wide screen, and for each of several runs or on a narrow screen.
const SHOWN_FINDINGS = [2, 1];
const SEVERITY_WORDS = {high: 'Important', medium: 'Notable', low: 'For information'};

// Creates the entry for one finding of a run: its text, its advice, and a button that shows its step.
function findingItem({severity, text, advice, method, epochs: [epoch] = [], steps: [number] = []}, run, jump) {
  // With several validations per epoch, the epoch alone does not identify a step. A long run's page lacks some steps.
  const step = run.steps.findIndex((one) => one.epoch === epoch && one.step === number);
  const where = step >= 0 ? run.label(step) : epoch < 0 ? 'untrained' : `epoch ${epoch}`;
  const go = epoch !== undefined && button(`Show ${where}`, () => jump(run, step, epoch, method));
  const mark = make('strong', `${SEVERITY_WORDS[severity] || severity}: `);
  return make('li', mark, text, ' ', make('span.advice', advice), ' ', go);
}

// Fills the list with the findings of the runs shown; several runs are named. jump: function to call with the run, the
// place of the step among its steps (-1 if it is not on the page), the epoch and the method. narrow: whether there is no
// space for findings of the lowest severity.
export function listFindings(list, runs, jump, narrow) {
  const parts = runs.flatMap((run) => {
    const {name, header} = run;
    // List this kind last: the headline already states where the maps moved most.
    const isStated = ({kind}) => kind === 'moved_most';
    const found = [...(header.findings || [])].sort((x, y) => isStated(x) - isStated(y));
    if (found.length === 0) return [];
    const most = Math.max(1, found.filter((each) => !isStated(each)).length);
    const grave = narrow ? found.filter(({severity}) => severity !== 'low').length : found.length;
    const items = found.map((each) => findingItem(each, run, jump));
    const rest = items.splice(Math.min(most, grave, SHOWN_FINDINGS[Number(runs.length > 1 || narrow)]));
    const words = items.length > 0 ? `${rest.length} more` : numberOf(rest.length, 'finding');
    const more = rest[0] && make('details', make('summary', words), make('ul', rest));
    return [make('section', runs.length > 1 && make('h2', `Findings of ${name}`), items[0] && make('ul', items), more)];
  });
  list.replaceChildren(...parts);
}
