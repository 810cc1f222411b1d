// Draws the pixels of a map over its image, coloured as in lightning_gradcam/render/tiles.py.
import {colourTable} from './colour.js';
import {resized} from './resize.js';

// Gap between slices side by side, in pixels of the image.
const SEAM = 1;
const OPAQUE = 0xff000000;
const buffers = new WeakMap();
const mixed = new Map();

// Draws 'original', 'overlay' or 'map' at the image's resolution; the page enlarges it.
// look: {colour, opacity: 0…1, threshold: 0…1, scale, signed}. Returns 'blank', 'broken' or ''.
export function paint(canvas, picture, run, step, key, probe, look, kind) {
  const slices = kind === 'original' ? picture.slices : run.keys[key].slices;
  const strongest = run.strongest(look, step, key, probe);
  const state = kind === 'original' || strongest > 0 ? '' : strongest === null ? 'broken' : 'blank';
  lay(canvas, picture, {...run.keys[key], slices}, run.shares(look, step, key, probe), look, kind, state);
  return state;
}

// map: values relative to the value of the brightest colour, in the key's shape.
export function lay(canvas, picture, {width, height, slices, signal}, map, look, kind, state) {
  const image = bufferOf(canvas, slices * (picture.width + SEAM) - SEAM, picture.height);
  for (let slice = 0; slice < slices; slice += 1) {
    const frame = Math.floor(((2 * slice + 1) * picture.slices) / (2 * slices));
    const place = {frame, left: slice * (picture.width + SEAM)};
    // A map that is not finite: its finite part would look like a map. The page fades the image and crosses it out.
    const isBare = kind === 'original' || state === 'broken' || (state === 'blank' && kind === 'overlay');
    if (isBare) copy(image, picture, place);
    else {
      const heat = resized(map, slices * width, slice * width, width, height, picture.width, picture.height);
      // A signal's curve, above the band for its map, remains unchanged.
      const first = signal && kind === 'overlay' ? picture.height - picture.band : 0;
      if (first > 0) copy(image, picture, place);
      const shown = first > 0 ? {...look, opacity: 1} : look;
      blend(image, picture, place, heat, shown, kind, first);
    }
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function bufferOf(canvas, width, height) {
  let image = buffers.get(canvas);
  if (!image || image.width !== width || image.height !== height) {
    canvas.width = width;
    canvas.height = height;
    image = new ImageData(width, height);
    buffers.set(canvas, image);
  }
  return image;
}

function copy(image, picture, {frame, left}) {
  const stride = picture.slices * picture.width;
  for (let y = 0; y < picture.height; y += 1) {
    const from = (y * stride + frame * picture.width) * 4;
    image.data.set(picture.data.subarray(from, from + picture.width * 4), (y * image.width + left) * 4);
  }
}

// Returns, for red, green and blue, the blend of each image level with each colour. A lookup table, because a frame has
// millions of pixels but few combinations.
function mixtures(colour, share) {
  const key = `${colour} ${share}`;
  if (mixed.has(key)) return mixed.get(key);
  if (mixed.size > 3) mixed.clear();
  const table = colourTable(colour);
  const channels = [0, 1, 2].map((channel) => {
    const found = new Uint8ClampedArray(65536);
    for (let i = 0; i < 65536; i += 1) found[i] = (i >> 8) * (1 - share) + table[(i & 255) * 4 + channel] * share;
    return found;
  });
  mixed.set(key, channels);
  return channels;
}

function blend(image, picture, {frame, left}, heat, {colour, opacity, threshold, signed}, kind, first) {
  const [reds, greens, blues] = mixtures(colour, kind === 'map' ? 1 : opacity);
  // Zero gets the middle colour if the map is signed, else the first. The additional half makes truncation round.
  const [zero, reach] = signed ? [128, 127.5] : [0.5, 255];
  const {width, height, slices} = picture;
  // A pixel is one number: alpha, blue, green and red, eight bits each.
  const base = new Int32Array(picture.data.buffer);
  const out = new Int32Array(image.data.buffer);
  const none = kind === 'map' ? 0 : OPAQUE;
  for (let y = first; y < height; y += 1) {
    let from = y * slices * width + frame * width;
    let to = y * image.width + left;
    for (let x = 0; x < width; x += 1, from += 1, to += 1) {
      const value = heat[y * width + x];
      const pixel = base[from];
      // Without a threshold, no value is below it, not even zero.
      if (value < threshold && -value < threshold) {
        out[to] = (pixel & ~OPAQUE) | none;
        continue;
      }
      const entry = (zero + value * reach) | 0;
      const red = reds[((pixel & 255) << 8) | entry];
      const green = greens[(pixel & 0xff00) | entry];
      const blue = blues[((pixel >> 8) & 0xff00) | entry];
      out[to] = red | (green << 8) | (blue << 16) | OPAQUE;
    }
  }
}
