// The keyboard: what each key does, and the page that says so.
import {make} from './dom.js';

const HELP = [
  ['← →', 'epoch before, next (with Shift: ten)'],
  ['Home End', 'first and last epoch'],
  ['Space', 'play and pause'],
  ['f  F', 'next and previous epoch at which a prediction flips'],
  ['[  ]', 'one layer after the other, then all'],
  ['t', 'pictures or film strips'],
  ['v', 'overlay, map, both, picture'],
  ['c', 'next colour map'],
  ['s', 'next colour scale'],
  ['m', 'border of the marked region'],
  ['j  k', 'next and previous probe; Enter opens it'],
  ['Esc', 'back to all probes'],
  ['d', 'dark or light'],
  ['?', 'this page'],
];

const MAPS =
  'Each map shows which places of a picture spoke for the explained class at one layer: the brighter its colour, ' +
  'the more. Raw maps are coloured here, in the page: the scale says what the brightest colour stands for, the largest ' +
  'value of each map (image), of each probe in the run (run), or of all probes in the run (layer).';
const SIGNS =
  'A picture without colours has no positive evidence at all (∅ in film strips); the lines above the pictures say why. ' +
  'A crossed-out one has a value that is not finite. In a strip of predictions each piece is a class, hatched where ' +
  'it is wrong; its line is the ' +
  'confidence.';

// commands: {step(by), ends(last), play(), flip(by), layer(by), cycle(name), probe(by), close(), theme(), help()}.
export function keyHandler(commands) {
  const simple = {
    f: () => commands.flip(1),
    F: () => commands.flip(-1),
    '[': () => commands.layer(-1),
    ']': () => commands.layer(1),
    t: () => commands.cycle('show'),
    v: () => commands.cycle('view'),
    c: () => commands.cycle('colour'),
    s: () => commands.cycle('scale'),
    m: () => commands.cycle('region'),
    j: () => commands.probe(1),
    k: () => commands.probe(-1),
    d: commands.theme,
    '?': commands.help,
    Escape: commands.close,
  };
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const {key, target} = event;
    if (target.closest && target.closest('dialog')) return;
    const own = ownKeys(target);
    let run = null;
    if (key === 'ArrowLeft' || key === 'ArrowRight') {
      const by = (key === 'ArrowLeft' ? -1 : 1) * (event.shiftKey ? 10 : 1);
      if (own !== 'arrows' && own !== 'letters') run = () => commands.step(by);
    } else if (key === 'Home' || key === 'End') {
      if (own !== 'arrows' && own !== 'letters') run = () => commands.ends(key === 'End');
    } else if (key === ' ') {
      if (own === null) run = commands.play;
    } else if (own !== 'letters' && Object.hasOwn(simple, key)) run = simple[key];
    if (run) {
      event.preventDefault();
      run();
    }
  };
}

// Keys that an element needs itself: a select takes arrows and letters, a button the space.
function ownKeys(target) {
  if (!target.matches) return null;
  if (target.matches('select, textarea, input[type=text]')) return 'letters';
  if (target.matches('input[type=range]:not(.epoch)')) return 'arrows';
  return target.matches('button, summary, a, input[type=checkbox]') ? 'space' : null;
}

export function helpDialog() {
  const rows = HELP.map(([keys, what]) =>
    make(
      'tr',
      {},
      make('th', {scope: 'row'}, ...keys.split(/ +/).map((key) => make('kbd', {text: key}))),
      make('td', {text: what}),
    ),
  );
  const dialog = make('dialog', {class: 'help', 'aria-label': 'Keyboard and reading'});
  dialog.append(
    make('h2', {text: 'Keyboard'}),
    make('table', {}, make('tbody', {}, ...rows)),
    make('h2', {text: 'How to read the maps'}),
    make('p', {text: MAPS}),
    make('p', {text: SIGNS}),
    make('button', {type: 'button', text: 'Close', onclick: () => dialog.close()}),
  );
  return dialog;
}
