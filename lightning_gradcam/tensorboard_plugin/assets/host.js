// Receives what TensorBoard's page reports to a plugin in a frame: its theme, list of runs, and reloads of the logs.

const RELOADED = ['experimental.DataReloaded', 'experimental.RunsChanged'];
// The colours of TensorBoard's charts, for light and dark pages, in the order in which they are assigned to runs.
const SAME = ['#12b5cb', '#e52592', '#f9ab00', '#9334e6', '#7cb342', '#e8710a'];
const PALETTE = [['#425066', '#8e98a3'], ...SAME.map((colour) => [colour, colour])];
const OUTSIDE = ['#bdbdbd', '#757575'];

export class Host {
  // act: {reloaded(), dressed(), named()}: the logs were read again; the theme or the list of runs has changed.
  constructor(act) {
    Object.assign(this, {act, runs: []});
    this.body = parentBody();
    if (this.body) {
      new MutationObserver(() => act.dressed()).observe(this.body, {attributes: true, attributeFilter: ['class']});
    }
    if (window.parent === window) return;
    const channel = new MessageChannel();
    this.port = channel.port1;
    this.port.onmessage = (event) => this.take(JSON.parse(event.data));
    window.parent.postMessage('experimental.bootstrap', window.location.origin, [channel.port2]);
    this.send({type: 'experimental.GetRuns', id: 1, isReply: false});
  }

  send(message) {
    this.port.postMessage(JSON.stringify({...message, payload: null, error: null}));
  }

  take({type, id, payload, isReply}) {
    if (!isReply) this.send({type, id, isReply: true});
    // Request only the list of runs.
    if (isReply || type === 'experimental.RunsChanged') this.named(payload);
    if (!isReply && RELOADED.includes(type)) this.act.reloaded();
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

  // Returns the light and dark colours of the TensorBoard run whose folder contains an archive.
  colours(archive, place) {
    const folder = (name) => (name === '.' ? '' : `${name}/`);
    const inside = this.runs.filter((name) => `${archive}/`.startsWith(folder(name)));
    const nearest = inside.reduce((best, name) => (folder(name).length > folder(best).length ? name : best), inside[0]);
    if (this.runs.length > 0 && nearest === undefined) return OUTSIDE;
    return PALETTE[(nearest === undefined ? place : this.runs.indexOf(nearest)) % PALETTE.length];
  }

  // TensorBoard hides the frames of tabs that are not selected.
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
