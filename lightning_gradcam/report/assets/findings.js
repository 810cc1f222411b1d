// What a run's maps show, in sentences: a short list at the top of the page, the rest folded away.
import {button, make} from './dom.js';

const SHOWN_FINDINGS = 3;
const SEVERITY_WORDS = {high: 'Important', medium: 'Notable', low: 'For information'};

// One finding, what to do about it, and a button to its epoch.
function findingItem({severity, text, advice, epochs}, jump) {
  const [epoch] = epochs || [];
  const where = epoch < 0 ? 'Show untrained' : `Show epoch ${epoch}`;
  const go = epoch !== undefined && button(where, () => jump(epoch));
  const mark = make('strong', `${SEVERITY_WORDS[severity] || severity}: `);
  return make('li', mark, text, ' ', make('span.advice', advice), ' ', go);
}

export class Findings {
  // jump: called with the epoch to show.
  constructor(jump) {
    this.jump = jump;
    this.element = make('section.findings', {'aria-label': 'Findings', hidden: true});
  }

  // runs: those shown; each of several is named.
  show(runs) {
    const parts = runs.flatMap((run) => {
      const found = run.header.findings || [];
      if (found.length === 0) return [];
      const items = found.map((each) => findingItem(each, this.jump));
      const rest = items.splice(SHOWN_FINDINGS);
      const more = rest.length > 0 && make('details', make('summary', `${rest.length} more`), make('ul', rest));
      return [runs.length > 1 && make('h2', `Findings of ${run.name}`), make('ul', items), more].filter(Boolean);
    });
    this.element.replaceChildren(...parts);
    this.element.hidden = parts.length === 0;
  }
}
