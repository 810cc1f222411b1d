// The tables of the colour maps, from colormaps.png.
import {pixelsOf} from './pictures.js';

// Rows of lightning_gradcam/render/assets/colormaps.png, in the order in which the page offers them; diverging ones are
// left out.
const ROWS = {turbo: 0, viridis: 3, inferno: 5, magma: 6, cividis: 7, Reds: 2, hot: 8, jet: 1, gray: 9};
const ENTRIES = 256;
let tables = null;

export const COLOUR_NAMES = Object.keys(ROWS);

// Reads colormaps.png; nothing is coloured before.
export function readColours(url) {
  return pixelsOf(url).then(({data}) => {
    tables = data;
  });
}

// 256 times red, green, blue, alpha.
export function colourTable(name) {
  return tables.subarray(ROWS[name] * ENTRIES * 4, (ROWS[name] + 1) * ENTRIES * 4);
}

// Draws the table from left to right, one pixel a colour.
export function paintColourBar(canvas, name) {
  canvas.width = ENTRIES;
  canvas.height = 1;
  canvas.getContext('2d').putImageData(new ImageData(colourTable(name), ENTRIES, 1), 0, 0);
}
