// Selects the light or dark theme: the user's choice, else that of the surrounding page or system; light for printing.

export class Theme {
  // around: the surrounding page's theme; 'auto' for the system's.
  constructor(root, around) {
    Object.assign(this, {root, around, chosen: 'auto', printing: false});
  }

  // changes: {chosen, around, printing}.
  dress(changes) {
    Object.assign(this, changes);
    const wanted = this.chosen === 'auto' ? this.around : this.chosen;
    const dark = wanted === 'auto' ? window.matchMedia('(prefers-color-scheme: dark)').matches : wanted === 'dark';
    this.root.dataset.theme = dark && !this.printing ? 'dark' : 'light';
  }

  get opposite() {
    return this.root.dataset.theme === 'dark' ? 'light' : 'dark';
  }
}
