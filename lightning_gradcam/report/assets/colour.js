import {COLOUR_MAPS} from './colourmaps.js';

const tables = new Map();

export const COLOUR_NAMES = Object.keys(COLOUR_MAPS);

// 256 times red, green, blue.
export function colourTable(name) {
  if (!tables.has(name)) tables.set(name, bytesOfBase64(COLOUR_MAPS[name] || COLOUR_MAPS.turbo));
  return tables.get(name);
}

export function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const found = atob(text);
  const bytes = new Uint8Array(found.length);
  for (let i = 0; i < found.length; i += 1) bytes[i] = found.charCodeAt(i);
  return bytes;
}

// Draws the table from left to right, one pixel a colour.
export function paintColourBar(canvas, name) {
  canvas.width = 256;
  canvas.height = 1;
  const image = new ImageData(256, 1);
  const table = colourTable(name);
  for (let i = 0; i < 256; i += 1) {
    image.data.set(table.subarray(i * 3, i * 3 + 3), i * 4);
    image.data[i * 4 + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}
