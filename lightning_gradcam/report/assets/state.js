// What a link keeps: everything that can be chosen, as text.
import {COLOUR_NAMES} from './colour.js';

// `layers` is a list: none stands for all. `epoch` and `step` are empty for the last.
const DEFAULTS = {
  run: '',
  compare: '',
  epoch: '',
  step: '',
  method: '',
  target: '',
  show: 'cards',
  view: 'overlay',
  scale: 'run',
  colour: 'turbo',
  opacity: '50',
  threshold: '0',
  size: 'medium',
  region: 'off',
  sort: 'id',
  filter: 'all',
  class: '',
  number: '',
  probe: '',
  speed: '2',
  theme: 'auto',
};
const CHOICES = {
  show: ['cards', 'film'],
  view: ['overlay', 'map', 'both', 'original'],
  scale: ['image', 'run', 'layer'],
  colour: COLOUR_NAMES,
  size: ['original', 'small', 'medium', 'large'],
  region: ['off', 'on'],
  sort: ['id', 'class', 'drift', 'flips', 'confidence', 'score'],
  filter: ['all', 'wrong', 'right', 'flipped', 'blank'],
  speed: ['1', '2', '4', '8'],
  theme: ['auto', 'light', 'dark'],
};
const SHARES = ['opacity', 'threshold'];

export function defaultState() {
  return {...DEFAULTS, layers: []};
}

export function choicesOf(name) {
  return CHOICES[name];
}

// Reads '#epoch=3&layer=a&layer=b'. What is unknown or impossible is left at its default.
export function stateOf(hash) {
  const state = defaultState();
  const given = new URLSearchParams(hash.replace(/^#/, ''));
  for (const name of Object.keys(DEFAULTS)) {
    const value = given.get(name);
    if (value === null) continue;
    if (CHOICES[name] && !CHOICES[name].includes(value)) continue;
    if (SHARES.includes(name)) {
      const number = Math.round(Number(value));
      if (value === '' || !(number >= 0 && number <= 100)) continue;
      state[name] = String(number);
    } else state[name] = value;
  }
  state.layers = given.getAll('layer');
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
