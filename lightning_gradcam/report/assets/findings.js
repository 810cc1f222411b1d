// What a run's maps show, in sentences: a short list at the top of the page, the rest folded away.
import {button, make} from './dom.js';

// Of one run, and of each of several.
const SHOWN_FINDINGS = [2, 1];
const SEVERITY_WORDS = {high: 'Important', medium: 'Notable', low: 'For information'};

// One finding, what to do about it, and a button to its epoch.
function findingItem({severity, text, advice, method, epochs: [epoch] = []}, jump) {
  const where = epoch < 0 ? 'Show untrained' : `Show epoch ${epoch}`;
  const go = epoch !== undefined && button(where, () => jump(epoch, method));
  const mark = make('strong', `${SEVERITY_WORDS[severity] || severity}: `);
  return make('li', mark, text, ' ', make('span.advice', advice), ' ', go);
}

// Fills the list with what the runs shown have; each of several is named. jump: called with epoch and method.
export function listFindings(list, runs, jump) {
  const parts = runs.flatMap(({name, header}) => {
    const items = (header.findings || []).map((each) => findingItem(each, jump));
    if (items.length === 0) return [];
    const rest = items.splice(SHOWN_FINDINGS[Number(runs.length > 1)]);
    const more = rest[0] && make('details', make('summary', `${rest.length} more`), make('ul', rest));
    return [make('section', runs.length > 1 && make('h2', `Findings of ${name}`), make('ul', items), more)];
  });
  list.replaceChildren(...parts);
}
