// Keyboard commands, and the dialog that explains them.
import {button, make} from './dom.js';
import {choicesOf} from './state.js';

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

// Returns [[keys as listed in the help, what they do, {key: command(event)}], …].
function commandsOf(viewer) {
  const {sequence} = viewer;
  const step = (by) => (event) => viewer.step(event.shiftKey ? 10 * by : by);
  const flip = (by) => () => viewer.pick(viewer.scene.nextFlip(by));
  const layer = (by) => () => viewer.set({layers: viewer.scene.soloed(by)});
  const hold = () => viewer.set(viewer.scene.held());
  const cycle = (name) => () => {
    const values = choicesOf(name).map(([value]) => value);
    viewer.set({[name]: values[(values.indexOf(viewer.state[name]) + 1) % values.length]});
  };
  return [
    ['← →', 'previous and next epoch (with Shift: ten epochs)', {ArrowLeft: step(-1), ArrowRight: step(1)}],
    ['Home End', 'first and last epoch', {Home: () => viewer.pick(0), End: () => viewer.pick(sequence.count - 1)}],
    ['Space', 'play or pause', {' ': () => sequence.play()}],
    ['f  F', 'next and previous epoch where a prediction flips', {f: flip(1), F: flip(-1)}],
    ['n  N', 'next and previous large change in the maps', {n: () => viewer.move(1), N: () => viewer.move(-1)}],
    ['b', 'difference from this epoch; press again for the previous epoch', {b: hold}],
    ['[  ]', 'previous and next layer alone, then all layers', {'[': layer(-1), ']': layer(1)}],
    ['t', 'one epoch or film strips', {t: cycle('show')}],
    ['v', 'overlay, map, both, difference, or image alone', {v: cycle('view')}],
    ['a', 'evidence for and against, or only for', {a: cycle('signed')}],
    ['c', 'next colour map', {c: cycle('colour')}],
    ['s', 'next colour scale', {s: cycle('scale')}],
    ['m', 'outlines of the masks or boxes', {m: cycle('region')}],
    ['e', 'draw a region, and follow the evidence inside it (Tab: its edges)', {e: () => viewer.region.toggle()}],
    ['r  x', 'next run beside A; swap A and B', {r: () => viewer.compared.next(), x: () => viewer.compared.swap()}],
    ['w', 'difference A − B', {w: cycle('versus')}],
    ['j  k', 'next and previous probe; Enter opens it', {j: () => viewer.toProbe(1), k: () => viewer.toProbe(-1)}],
    ['Esc', 'back to all probes', {Escape: () => viewer.close()}],
    ['d', 'dark or light', {d: () => viewer.cycleTheme()}],
    ['?', 'this help', {'?': () => viewer.help.showModal()}],
  ];
}

// Runs the commands, and returns the dialog.
export function keyboard(viewer) {
  const commands = commandsOf(viewer);
  const actions = Object.assign({}, ...commands.map(([, , keys]) => keys));
  document.addEventListener('keydown', (event) => {
    if (!viewer.scene || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const {key, target} = event;
    if (!Object.hasOwn(actions, key) || target.closest?.('dialog') || isOwnKey(target, key)) return;
    event.preventDefault();
    actions[key](event);
  });
  return helpDialog(commands);
}

// Whether an element handles a key itself: a select handles all of them, a button only the space bar.
function isOwnKey(target, key) {
  if (!target.matches) return false;
  if (target.matches('select, input[type=search]')) return true;
  if (target.matches('input[type=range]:not(.epoch), input[type=number]')) return /^( |Arrow.*|Home|End)$/.test(key);
  return key === ' ' && target.matches('button, summary, a, input[type=checkbox]');
}

function helpDialog(commands) {
  const rows = commands.map(([keys, what]) => {
    const boxes = keys.split(/ +/).map((key) => make('kbd', key));
    return make('tr', make('th', {scope: 'row'}, boxes), make('td', what));
  });
  const dialog = make(
    'dialog.help',
    {'aria-label': 'How to read the maps, and keyboard'},
    // First, because it gets the focus: at the end, the dialog would open scrolled down to it.
    button('Close', () => dialog.close()),
    make('h2', 'How to read the maps'),
    READING.map((text) => make('p', text)),
    make('h2', 'Keyboard'),
    make('table', make('tbody', rows)),
  );
  return dialog;
}
