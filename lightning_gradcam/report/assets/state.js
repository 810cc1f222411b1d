// What a link keeps: everything that can be chosen, as text.
import {COLOUR_NAMES} from './colour.js';

// Any text, empty by default. An empty `epoch` means the largest change, or the last; an
// empty `before` the position before it.
const FREE = ['run', 'compare', 'epoch', 'step', 'before', 'method', 'target', 'class', 'number', 'probe', 'area', 'passed'];
const LOOK = {view: 'overlay', scale: 'run', colour: 'turbo', signed: 'off', opacity: '50', threshold: '0'};
const BOARD = {region: 'off', show: 'cards', size: 'medium', sort: 'id', filter: 'all', speed: '2', theme: 'auto'};
const PARTS = {curves: 'off', versus: 'on'};
const DEFAULTS = {...Object.fromEntries(FREE.map((name) => [name, ''])), ...LOOK, ...BOARD, ...PARTS};
// Values and what the page calls them.
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
  filter: {all: 'all', wrong: 'wrong now', right: 'right now', flipped: 'ever flipped', blank: 'blank map now'},
  speed: {1: '1 / s', 2: '2 / s', 4: '4 / s', 8: '8 / s'},
  theme: {auto: 'as the system', light: 'light', dark: 'dark'},
};
const SHARES = ['opacity', 'threshold'];

// [[value, text], …]; empty if the choices depend on the run.
export function choicesOf(name) {
  return Object.entries(CHOICES[name] || {});
}

// Reads what a link keeps, and the list `layers`, which is empty for all layers: '#epoch=3&layer=a&layer=b'.
// Unknown or impossible values are left at their defaults.
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

// The hash of a state, only what differs from the defaults; '' where nothing does.
export function hashOf(state) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (state[name] !== value) found.set(name, state[name]);
  for (const layer of state.layers) found.append('layer', layer);
  const text = found.toString();
  return text ? `#${text}` : '';
}
