// Reads the colour tables from colormaps.png.
import {pixelsOf} from './pictures.js';

// Row numbers in lightning_gradcam/render/assets/colormaps.png, in the order in which the page lists the colour maps.
// The last one is for signed maps: blue, grey at zero, red.
const ROWS = {turbo: 0, viridis: 3, inferno: 5, magma: 6, cividis: 7, Reds: 2, hot: 8, jet: 1, gray: 9, coolwarm: 10};
const ENTRIES = 256;
let tables = null;

export const DIVERGING = 'coolwarm';
export const COLOUR_NAMES = Object.keys(ROWS).filter((name) => name !== DIVERGING);

// Reads colormaps.png; must be called before any map is coloured.
export function readColours(url) {
  return pixelsOf(url).then(({data}) => {
    tables = data;
  });
}

// Returns 256 colours, each as red, green, blue and alpha.
export function colourTable(name) {
  return tables.subarray(ROWS[name] * ENTRIES * 4, (ROWS[name] + 1) * ENTRIES * 4);
}

// Draws the table from left to right, one pixel per colour.
export function paintColourBar(canvas, name) {
  canvas.width = ENTRIES;
  canvas.height = 1;
  canvas.getContext('2d').putImageData(new ImageData(colourTable(name), ENTRIES, 1), 0, 0);
}
