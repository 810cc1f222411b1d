// What TensorBoard's page tells a plugin in its frame: its theme, its list of runs, and that it has read the logs again.

const RELOADED = ['experimental.DataReloaded', 'experimental.RunsChanged'];
// Of TensorBoard's charts, given to its runs one after the other: for light and dark pages.
const PALETTE = [
  ['#425066', '#8e98a3'], ['#12b5cb', '#12b5cb'], ['#e52592', '#e52592'], ['#f9ab00', '#f9ab00'],
  ['#9334e6', '#9334e6'], ['#7cb342', '#7cb342'], ['#e8710a', '#e8710a'],
];
const OUTSIDE = ['#bdbdbd', '#757575'];

export class Host {
  // act: {reloaded(), dressed(), named()}: the logs were read again, the theme or the list of runs is another one.
  constructor(act) {
    Object.assign(this, {act, runs: [], waiting: new Map(), count: 0});
    this.body = parentBody();
    if (this.body) {
      new MutationObserver(() => act.dressed()).observe(this.body, {attributes: true, attributeFilter: ['class']});
    }
    if (window.parent === window) return;
    const channel = new MessageChannel();
    this.port = channel.port1;
    this.port.onmessage = (event) => this.take(JSON.parse(event.data));
    window.parent.postMessage('experimental.bootstrap', window.location.origin, [channel.port2]);
    this.send('experimental.GetRuns', (runs) => this.named(runs));
  }

  send(type, callback) {
    this.count += 1;
    this.waiting.set(this.count, callback);
    this.port.postMessage(JSON.stringify({type, id: this.count, payload: null, error: null, isReply: false}));
  }

  take({type, id, payload, isReply}) {
    if (isReply) {
      const callback = this.waiting.get(id);
      this.waiting.delete(id);
      if (callback) callback(payload);
      return;
    }
    this.port.postMessage(JSON.stringify({type, id, payload: null, error: null, isReply: true}));
    if (type === 'experimental.RunsChanged') this.named(payload);
    if (RELOADED.includes(type)) this.act.reloaded();
  }

  named(runs) {
    if (!Array.isArray(runs)) return;
    this.runs = runs;
    this.act.named();
  }

  get theme() {
    if (!this.body) return 'auto';
    return this.body.classList.contains('dark-mode') ? 'dark' : 'light';
  }

  // The colours, light and dark, of the TensorBoard run in whose folder an archive lies.
  colours(archive, place) {
    const folder = (name) => (name === '.' ? '' : `${name}/`);
    const inside = this.runs.filter((name) => `${archive}/`.startsWith(folder(name)));
    const nearest = inside.reduce((best, name) => (folder(name).length > folder(best).length ? name : best), inside[0]);
    if (this.runs.length > 0 && nearest === undefined) return OUTSIDE;
    return PALETTE[(nearest === undefined ? place : this.runs.indexOf(nearest)) % PALETTE.length];
  }

  // TensorBoard hides the frames of the tabs that are not chosen.
  get hidden() {
    if (document.visibilityState === 'hidden') return true;
    try {
      return window.frameElement !== null && window.frameElement.getClientRects().length === 0;
    } catch {
      return false;
    }
  }
}

function parentBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null;
  }
}
