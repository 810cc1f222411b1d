// Pixels of one map on its picture, coloured as in lightning_gradcam/render/tiles.py.
import {colourTable} from './colour.js';
import {resized} from './resize.js';

// Between slices side by side, in pixels of the picture.
const SEAM = 1;
const buffers = new WeakMap();

// Draws 'original', 'overlay' or 'map' at the picture's resolution; the page enlarges it.
// look: {colour, opacity: 0…1, threshold: 0…1, scale, signed}. Returns 'blank', 'broken' or ''.
export function paint(canvas, picture, run, step, key, probe, look, kind) {
  const slices = kind === 'original' ? picture.slices : run.keys[key].slices;
  const state = kind === 'original' ? '' : stateOfMap(run.strongest(look, step, key, probe));
  lay(canvas, picture, {...run.keys[key], slices}, run.shares(look, step, key, probe), look, kind, state);
  return state;
}

// map: as shares of the brightest colour's value; its shape is the key's.
export function lay(canvas, picture, {width, height, slices, signal}, map, look, kind, state) {
  const image = bufferOf(canvas, slices * (picture.width + SEAM) - SEAM, picture.height);
  for (let slice = 0; slice < slices; slice += 1) {
    const frame = Math.floor(((2 * slice + 1) * picture.slices) / (2 * slices));
    const place = {frame, left: slice * (picture.width + SEAM)};
    if (state === 'broken') fade(image, picture, place, kind);
    else if (kind === 'original' || (state === 'blank' && kind === 'overlay')) copy(image, picture, place);
    else {
      const heat = resized(map, slices * width, slice * width, width, height, picture.width, picture.height);
      // A signal's curve stays as it is, above the band of its map.
      const first = signal && kind === 'overlay' ? picture.height - picture.band : 0;
      if (first > 0) copy(image, picture, place);
      const shown = first > 0 ? {...look, opacity: 1} : look;
      blend(image, picture, place, heat, shown, kind, first);
    }
  }
  const context = canvas.getContext('2d');
  context.putImageData(image, 0, 0);
  if (state === 'broken') crossOut(context, picture, slices);
}

function stateOfMap(strongest) {
  if (strongest === null) return 'broken';
  return strongest <= 0 ? 'blank' : '';
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

function blend(image, picture, {frame, left}, heat, {colour, opacity, threshold, signed}, kind, first) {
  const table = colourTable(colour);
  // Zero has the middle colour where there are two sides, and else the first.
  const [zero, reach] = signed ? [127.5, 127.5] : [0, 255];
  const stride = picture.slices * picture.width;
  const share = kind === 'map' ? 1 : opacity;
  const {data: out, width: wide} = image;
  const {data: base, width, height} = picture;
  for (let y = first; y < height; y += 1) {
    let from = (y * stride + frame * width) * 4;
    let to = (y * wide + left) * 4;
    for (let x = 0; x < width; x += 1, from += 4, to += 4) {
      const value = heat[y * width + x];
      // Without a threshold nothing is below it, not even zero.
      const hidden = Math.abs(value) < threshold;
      const weight = hidden ? 0 : share;
      const entry = Math.round(zero + value * reach) * 4;
      out[to] = base[from] * (1 - weight) + table[entry] * weight;
      out[to + 1] = base[from + 1] * (1 - weight) + table[entry + 1] * weight;
      out[to + 2] = base[from + 2] * (1 - weight) + table[entry + 2] * weight;
      out[to + 3] = hidden && kind === 'map' ? 0 : 255;
    }
  }
}

// A broken map's finite part is not shown: it would look like a map.
function fade(image, picture, {frame, left}, kind) {
  const stride = picture.slices * picture.width;
  for (let y = 0; y < picture.height; y += 1) {
    for (let x = 0; x < picture.width; x += 1) {
      const from = (y * stride + frame * picture.width + x) * 4;
      const [red, green, blue] = picture.data.subarray(from, from + 3);
      const grey = kind === 'map' ? 224 : (red * 0.299 + green * 0.587 + blue * 0.114) * 0.5 + 100;
      image.data.set([grey, grey, grey, 255], (y * image.width + left + x) * 4);
    }
  }
}

function crossOut(context, {width, height}, slices) {
  context.strokeStyle = '#c81e28';
  context.lineWidth = Math.max(1, Math.floor(Math.min(width, height) / 28));
  for (let slice = 0; slice < slices; slice += 1) {
    const left = slice * (width + SEAM);
    context.beginPath();
    context.moveTo(left, 0);
    context.lineTo(left + width, height);
    context.moveTo(left, height);
    context.lineTo(left + width, 0);
    context.stroke();
  }
}
