// Creates elements. Text from a run is assigned to textContent or attributes, never parsed as HTML.

const SVG = 'http://www.w3.org/2000/svg';

// make('button.play', {title: 'Play', onclick: f}, child, …): a tag with classes, optional attributes, and children.
// Functions become listeners. Attributes and children that are null, undefined or false are omitted. A child with an
// `element`, such as a Cell, is replaced by that element.
export function make(tag, ...rest) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name);
  element.classList.add(...classes);
  return dress(element, rest);
}

export function draw(tag, ...rest) {
  return dress(document.createElementNS(SVG, tag), rest);
}

function dress(element, rest) {
  const [attributes, ...children] = rest[0]?.constructor === Object ? rest : [{}, ...rest];
  for (const [name, value] of Object.entries(attributes)) {
    if (isLeftOut(value)) continue;
    if (typeof value === 'function') element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  const kept = children.flat(Infinity).filter((child) => !isLeftOut(child));
  element.append(...kept.map((child) => child.element || child));
  return element;
}

function isLeftOut(value) {
  return value === null || value === undefined || value === false;
}

// Changes the page only if the text is different.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastId = 0;

export function freshId(stem) {
  lastId += 1;
  return `gradcam-${stem}-${lastId}`;
}

// Wraps a control in a label, which makes both one target. The control gets its own name, because some screen readers
// would otherwise read a select's options as part of its label.
export function labelled(text, control, title = null) {
  (control.matches('select, input') ? control : control.querySelector('input')).setAttribute('aria-label', text);
  return make('label.field', {title}, make('span.field-name', text), control);
}

export function button(text, onclick, attributes = {}) {
  return make('button', {type: 'button', onclick, ...attributes}, text);
}

// Creates a range input from 0 to 100, or to `max`; onpick receives the number.
export function slider(name, onpick, attributes = {}) {
  const limits = {type: 'range', min: 0, max: 100, step: 1, 'aria-label': name};
  return make('input', {...limits, ...attributes, oninput: ({target}) => onpick(Number(target.value))});
}

// choices: [[value, text], …]; onpick receives the value.
export function select(choices, onpick, attributes = {}) {
  const element = make('select', {...attributes, onchange: () => onpick(element.value)});
  if (choices.length > 0) fill(element, choices, choices[0][0]);
  return element;
}

export function fill(element, choices, value) {
  element.replaceChildren(...choices.map(([key, text]) => make('option', {value: key}, text)));
  element.value = value;
}

// Creates buttons that can be pressed, in a group with a name for screen readers. show(choices, pressed) sets them:
// [[value, text, title], …], and the values of those that are pressed. While the choices stay the same, so do the
// buttons, which keeps the keyboard focus.
export function segments(name, onpick) {
  const element = make('div.segments', {role: 'group', 'aria-label': name});
  const segment = ([value, text, title]) =>
    button(text, () => onpick(value), {class: 'segment', title, 'data-value': value});
  let shown = '';
  const show = (choices, pressed) => {
    if (shown !== JSON.stringify(choices)) element.replaceChildren(...choices.map(segment));
    shown = JSON.stringify(choices);
    element.hidden = choices.length === 0;
    for (const one of element.children) one.setAttribute('aria-pressed', String(pressed.includes(one.dataset.value)));
  };
  return {element, show};
}

// Creates a box of notices that shows the first, and the others once it is opened. show(lines) replaces them.
export function noticeBox() {
  const first = make('summary');
  const list = make('ul.notices', {'aria-label': 'Blank maps and flipped predictions'});
  const element = make('details.notice-box', first, list);
  let shown = null;
  const show = (lines) => {
    const text = lines.join('\n');
    if (shown === text) return;
    shown = text;
    setText(first, lines.length > 1 ? `${lines[0]} (and ${lines.length - 1} more)` : lines[0] || '');
    list.replaceChildren(...lines.map((line) => make('li', line)));
    element.hidden = lines.length === 0;
  };
  return {element, show};
}
