// The source of report.html: runs that lie in the page itself.
import {bytesOfBase64} from './colour.js';
import {mount} from './viewer.js';

// Runs by the names they are shown with; two of the same title get a number.
function reportRuns() {
  const names = new Map();
  for (let place = 0; ; place += 1) {
    const element = document.getElementById(`gradcam-run-${place}`);
    if (!element) return names;
    const header = JSON.parse(element.textContent);
    let name = header.title;
    for (let number = 2; names.has(name); number += 1) name = `${header.title} (${number})`;
    names.set(name, {header, place});
  }
}

async function inflated(place) {
  const packed = bytesOfBase64(document.getElementById(`gradcam-maps-${place}`).textContent.trim());
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function reportSource(runs) {
  return {
    runs: async () =>
      [...runs].map(([run, {header}]) => ({
        run,
        id: header.id,
        fingerprint: header.fingerprint,
        steps: header.steps.length,
      })),
    load: async (name) => ({header: runs.get(name).header, maps: await inflated(runs.get(name).place)}),
  };
}

// Of two runs on the same probes, the second stands beside the first.
function besideFirst(runs) {
  const [first, second] = [...runs];
  const same = runs.size === 2 && first[1].header.fingerprint === second[1].header.fingerprint;
  return same ? second[0] : '';
}

const inPage = reportRuns();
mount(document.getElementById('gradcam'), reportSource(inPage), {title: document.title, beside: besideFirst(inPage)});
