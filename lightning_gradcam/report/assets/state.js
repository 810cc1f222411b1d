// The state in a link: all of the user's selections, as text.
import {COLOUR_NAMES} from './colour.js';

// Free text, empty by default. An empty `epoch` is the largest change or the last position; an empty `before` is the
// previous position.
const FREE = ['run', 'compare', 'epoch', 'step', 'before', 'method', 'target', 'class', 'number', 'probe', 'area', 'passed'];
const LOOK = {view: 'overlay', scale: 'run', colour: 'turbo', signed: 'off', opacity: '50', threshold: '0'};
const BOARD = {region: 'off', show: 'cards', size: 'medium', sort: 'id', filter: 'all', speed: '2', theme: 'auto'};
const PARTS = {curves: 'off', versus: 'on'};
const DEFAULTS = {...Object.fromEntries(FREE.map((name) => [name, ''])), ...LOOK, ...BOARD, ...PARTS};
// The values of each choice, with their names on the page.
const CHOICES = {
  show: {cards: 'One epoch', film: 'Film strips'},
  view: {overlay: 'Overlay', map: 'Map', both: 'Both', difference: 'Difference', original: 'Image'},
  scale: {image: 'image', run: 'run', layer: 'layer'},
  colour: Object.fromEntries(COLOUR_NAMES.map((name) => [name, name])),
  size: {original: 'original', small: 'small', medium: 'medium', large: 'large'},
  curves: {off: 'off', on: 'on'},
  versus: {on: 'on', off: 'off'},
  region: {off: 'off', on: 'on'},
  signed: {off: 'off', on: 'on'},
  sort: {
    id: 'as logged',
    class: 'true class',
    drift: 'largest drift',
    flips: 'most flips',
    confidence: 'least confident',
    score: 'highest score',
  },
  filter: {all: 'all', wrong: 'wrong now', right: 'right now', flipped: 'ever flipped', blank: 'no map now'},
  speed: {1: '1 / s', 2: '2 / s', 4: '4 / s', 8: '8 / s'},
  theme: {auto: 'as the system', light: 'light', dark: 'dark'},
};
const SHARES = ['opacity', 'threshold'];

// Returns [[value, text], …]; empty if the choices depend on the run.
export function choicesOf(name) {
  return Object.entries(CHOICES[name] || {});
}

// Parses the state in a link, such as '#epoch=3&layer=a&layer=b'; the list `layers` is empty for all layers. Invalid
// values are replaced by their defaults.
export function stateOf(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ''));
  const state = {...DEFAULTS, layers: given.getAll('layer')};
  for (const name of Object.keys(DEFAULTS)) {
    const value = given.get(name);
    if (value === null) continue;
    if (CHOICES[name] && !Object.hasOwn(CHOICES[name], value)) continue;
    if (SHARES.includes(name)) {
      const number = Math.round(Number(value));
      if (value === '' || !(number >= 0 && number <= 100)) continue;
      state[name] = String(number);
    } else state[name] = value;
  }
  return state;
}

// Returns the hash for a state, with only the values that differ from the defaults; '' if none do.
export function hashOf(state) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (state[name] !== value) found.set(name, state[name]);
  for (const layer of state.layers) found.append('layer', layer);
  const text = found.toString();
  return text ? `#${text}` : '';
}
