// Computes the share of a map's evidence inside an image region: `energy_inside`, with the same formula as `inside` in
// lightning_gradcam/stats/masks.py.
import {isKnown, mean, valueOf} from './numbers.js';
import {axisWeights} from './resize.js';

// The region that is each probe's own mask or box.
export const OWN = 'mask';

// Parses a rectangle from a link, 'left,top,right,bottom' in pixels of the page's images; null if it is invalid.
export function rectangleOf(text, {width, height}) {
  const [left, top, right, bottom, ...more] = text.split(',').map(Number);
  const whole = [left, top, right, bottom].every((edge) => Number.isInteger(edge));
  const fits = whole && left >= 0 && top >= 0 && right <= width && bottom <= height;
  return fits && left < right && top < bottom && more.length === 0 ? {left, top, right, bottom} : null;
}

// Returns the weight of each map location along one side, for the part between two fractions of the side. The map is
// resized to the probe's `size` as in energy_inside; pixels count if their centre is inside.
function weightsAlong(places, size, from, to) {
  const {index, weight} = axisWeights(places, size, false);
  const found = new Float64Array(places);
  for (let pixel = 0; pixel < size; pixel += 1) {
    if (pixel + 0.5 < from * size || pixel + 0.5 >= to * size) continue;
    for (const tap of [2 * pixel, 2 * pixel + 1]) found[index[tap]] += weight[tap];
  }
  return found;
}

// Returns a function of step and probe: the share of a key's map inside a rectangle, or null without positive evidence.
function insideRectangle(run, key, {left, top, right, bottom}) {
  const {width, height, full = [height, width]} = run.header.display;
  const {width: wide, height: tall, slices, signal} = run.keys[key];
  const weights = (x, y) => {
    const [across, down] = [weightsAlong(wide, full[1], ...x), weightsAlong(tall, full[0], ...y)];
    const place = (_, at) => down[Math.floor(at / (wide * slices))] * across[at % wide];
    return Float64Array.from({length: tall * wide * slices}, place);
  };
  const whole = [0, 1];
  // A signal has no height.
  const within = weights([left / width, right / width], signal ? whole : [top / height, bottom / height]);
  const all = weights(whole, whole);
  return (step, probe) => {
    const bytes = run.map(step, key, probe);
    let [inside, total] = [0, 0];
    for (let at = 0; at < bytes.length; at += 1) {
      // The map's largest value cancels out.
      const root = Math.max(0, bytes[at] - 128);
      inside += root * root * within[at];
      total += root * root * all[at];
    }
    return total > 0 ? inside / total : null;
  };
}

// Returns a chart line for each run and layer shown; its values are the mean share inside at each position. area: a
// rectangle, or OWN for the numbers logged for each probe's mask or box.
export function sharesInside(scene, area) {
  const probes = scene.studied();
  return scene.lines.map((line) => {
    const {r, run, key} = line;
    const places = scene.placesIn(r, probes);
    const logged = (step, probe) => valueOf(run, 'energy_inside', step, key, probe);
    const share = area === OWN ? logged : insideRectangle(run, key, area);
    const shares = run.steps.map((_, step) => places.map((probe) => share(step, probe)));
    const counts = shares.map((values) => values.filter(isKnown).length);
    return {...line, values: scene.along(r, shares.map(mean)), counts: scene.along(r, counts), of: places.length};
  });
}

// Returns the fraction of the image that the region covers; for masks and boxes, the mean over probes.
export function shareOfPicture(scene, area) {
  const {width, height} = scene.runs[0].header.display;
  if (area === OWN) return mean(scene.studied().map((probe) => scene.pictures[0][probe].covered));
  const tall = scene.runs[0].keys.some(({signal}) => signal) ? 1 : (area.bottom - area.top) / height;
  return ((area.right - area.left) / width) * tall;
}

// Returns the default threshold: twice the region's fraction of the image, which is twice chance level; for large
// regions, halfway between that fraction and 1.
export function usualThreshold(share) {
  return Math.min(2 * share, (1 + share) / 2);
}
