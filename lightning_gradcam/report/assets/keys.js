// Keyboard commands, and the dialog that explains them.
import {button, make} from './dom.js';

const HELP = [
  ['← →', 'previous and next epoch (with Shift: ten epochs)'],
  ['Home End', 'first and last epoch'],
  ['Space', 'play or pause'],
  ['f  F', 'next and previous epoch where a prediction flips'],
  ['n  N', 'next and previous large change in the maps'],
  ['b', 'difference from this epoch; press again for the previous epoch'],
  ['[  ]', 'previous and next layer alone, then all layers'],
  ['t', 'one epoch or film strips'],
  ['v', 'overlay, map, both, difference, or image alone'],
  ['a', 'evidence for and against, or only for'],
  ['c', 'next colour map'],
  ['s', 'next colour scale'],
  ['m', 'outlines of the masks or boxes'],
  ['e', 'draw a region, and follow the evidence inside it (Tab: its edges)'],
  ['r  x', 'next run beside A; swap A and B'],
  ['w', 'difference A − B'],
  ['j  k', 'next and previous probe; Enter opens it'],
  ['Esc', 'back to all probes'],
  ['d', 'dark or light'],
  ['?', 'this help'],
];

const READING = [
  'Each map shows, for one layer, which parts of the image raise the score of the explained class: the brighter the ' +
    'colour, the more. “For and against” also shows parts that lower the score: red for, blue against, grey zero.',
  'The scale sets which value gets the brightest colour. Run: one value for each probe, layer and method, over all ' +
    'epochs and targets of the run. It is the largest 98th percentile of any map’s values, so a few extreme values do ' +
    'not darken the rest. Image: the largest value of each map. Layer: the largest value of all probes at the layer.',
  'An overlay without colour has a blank map (∅ in film strips): no part raises the score or, with “For and ' +
    'against”, the map is zero everywhere. The lines above the maps give the reason. A crossed-out overlay ' +
    'belongs to a map with infinite or NaN values. In the timeline of predictions, each piece is one predicted class, ' +
    'hatched where it is wrong; the line is the confidence.',
];

// commands: {step(by), ends(last), play(), flip(by), move(by), hold(), layer(by), cycle(name), beside(by), probe(by),
// region(), close(), theme(), help()}.
export function keyHandler(commands) {
  const groups = {
    letters: {
      f: () => commands.flip(1),
      F: () => commands.flip(-1),
      n: () => commands.move(1),
      N: () => commands.move(-1),
      b: commands.hold,
      '[': () => commands.layer(-1),
      ']': () => commands.layer(1),
      t: () => commands.cycle('show'),
      v: () => commands.cycle('view'),
      a: () => commands.cycle('signed'),
      c: () => commands.cycle('colour'),
      s: () => commands.cycle('scale'),
      m: () => commands.cycle('region'),
      e: commands.region,
      r: () => commands.beside(1),
      x: () => commands.beside(0),
      w: () => commands.cycle('versus'),
      j: () => commands.probe(1),
      k: () => commands.probe(-1),
      d: commands.theme,
      '?': commands.help,
      Escape: commands.close,
    },
    arrows: {
      ArrowLeft: (event) => commands.step(event.shiftKey ? -10 : -1),
      ArrowRight: (event) => commands.step(event.shiftKey ? 10 : 1),
      Home: () => commands.ends(false),
      End: () => commands.ends(true),
    },
    space: {' ': commands.play},
  };
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const {key, target} = event;
    if (target.closest && target.closest('dialog')) return;
    const own = ownKeys(target);
    const group = Object.keys(groups).find((name) => Object.hasOwn(groups[name], key) && !own.includes(name));
    if (!group) return;
    event.preventDefault();
    groups[group][key](event);
  };
}

// Returns the groups of keys that an element handles itself: a select all of them, a button only the space bar.
function ownKeys(target) {
  if (!target.matches) return [];
  if (target.matches('select, textarea, input[type=text]')) return ['letters', 'arrows', 'space'];
  if (target.matches('input[type=range]:not(.epoch), input[type=number]')) return ['arrows', 'space'];
  return target.matches('button, summary, a, input[type=checkbox]') ? ['space'] : [];
}

export function helpDialog() {
  const rows = HELP.map(([keys, what]) => {
    const boxes = keys.split(/ +/).map((key) => make('kbd', key));
    return make('tr', make('th', {scope: 'row'}, boxes), make('td', what));
  });
  const dialog = make(
    'dialog.help',
    {'aria-label': 'Keyboard and reading'},
    make('h2', 'Keyboard'),
    make('table', make('tbody', rows)),
    make('h2', 'How to read the maps'),
    READING.map((text) => make('p', text)),
    button('Close', () => dialog.close()),
  );
  return dialog;
}
