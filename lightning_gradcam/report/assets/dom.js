// Elements from code. What comes from a run goes into textContent or attributes, never into HTML.

const SVG = 'http://www.w3.org/2000/svg';

// make('button', {class: 'x', text: 'Play', onclick: f, 'aria-label': '…'}, child, …): functions become listeners,
// null and false are left out.
export function make(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

export function draw(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'text') element.textContent = value;
    else if (typeof value === 'function') element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Changes the page only where the text is another one.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let lastId = 0;

export function freshId(stem) {
  lastId += 1;
  return `gradcam-${stem}-${lastId}`;
}

// A label around a control, so that both are one target. Some read a select's options as a part of its label, hence the
// name of its own.
export function labelled(text, control, title = null) {
  (control.matches('select, input') ? control : control.querySelector('input')).setAttribute('aria-label', text);
  return make('label', {class: 'field', title}, make('span', {class: 'field-name', text}), control);
}

// choices: [[value, text], …]; onpick gets the value.
export function select(choices, value, onpick, attributes = {}) {
  const element = make('select', {...attributes, onchange: () => onpick(element.value)});
  fill(element, choices, value);
  return element;
}

export function fill(element, choices, value) {
  element.replaceChildren(...choices.map(([key, text]) => make('option', {value: key, text})));
  element.value = value;
}

// Buttons of which one is pressed; a group with a name for screen readers.
export function segments(name, choices, onpick) {
  const buttons = choices.map(([value, text, title]) =>
    make('button', {type: 'button', class: 'segment', text, title, 'data-value': value, onclick: () => onpick(value)}),
  );
  const element = make('div', {class: 'segments', role: 'group', 'aria-label': name}, ...buttons);
  const press = (value) => {
    for (const button of buttons) button.setAttribute('aria-pressed', String(button.dataset.value === value));
  };
  return {element, press};
}
