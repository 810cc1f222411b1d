// The source of runs for report.html: those embedded in the page.
import {familyOf} from './band.js';
import {mount} from './viewer.js';

// Returns the runs by displayed name; repeated titles get a number.
async function reportRuns() {
  const names = new Map();
  const {length} = document.querySelectorAll('[id^="gradcam-run-"]');
  for (let place = 0; place < length; place += 1) {
    const header = JSON.parse(new TextDecoder().decode(await inflated(`gradcam-run-${place}`)));
    const stem = header.name || header.title;
    let name = stem;
    for (let number = 2; names.has(name); number += 1) name = `${stem} (${number})`;
    names.set(name, {header, place});
  }
  return names;
}

function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
}

async function inflated(id) {
  const packed = bytesOfBase64(document.getElementById(id).textContent);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function reportSource(runs) {
  const entries = [...runs].map(([run, {header}]) => ({...header, run, header, steps: header.steps.length}));
  return {
    runs: async () => entries,
    kin: (name) => familyOf(name, entries),
    load: async (name) => ({...runs.get(name), maps: await inflated(`gradcam-maps-${runs.get(name).place}`)}),
  };
}

// Returns the run to show beside the first one: the second, if there are exactly two and they have the same probes.
function besideFirst(runs) {
  const [first, second] = [...runs];
  const same = runs.size === 2 && first[1].header.fingerprint === second[1].header.fingerprint;
  return same ? second[0] : '';
}

const inPage = await reportRuns();
const stage = document.getElementById('gradcam');
const {colours} = stage.dataset;
mount(stage, reportSource(inPage), {title: document.title, beside: besideFirst(inPage), colours});
