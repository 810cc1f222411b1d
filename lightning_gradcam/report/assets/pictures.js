// Decodes the probes' images, and traces the outlines of their masks and boxes.

const decoded = new Map();

// Returns, for each probe: {width, height, slices, data: RGBA of all slices side by side, region: path or '', covered:
// the fraction of the image that the mask or box covers, or null}.
export function picturesOf(run) {
  const {width, height, band} = run.header.display;
  return Promise.all(
    run.probes.map(async (probe) => {
      const image = await pixelsOf(probe.image);
      const slices = Math.max(1, Math.round(image.width / width));
      const region = await regionOf(probe, width, height);
      const covered = await coveredBy(probe, width, height);
      return {width, height, band: band || 0, slices, data: image.data, region, covered};
    }),
  );
}

// Returns an image's pixels, decoded once; an image that could not be decoded is retried on the next request.
export function pixelsOf(url) {
  if (!decoded.has(url)) {
    const work = readPixels(url);
    work.catch(() => decoded.delete(url));
    decoded.set(url, work);
  }
  return decoded.get(url);
}

async function readPixels(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function coveredBy({mask, box}, width, height) {
  if (!mask) {
    // A box may extend beyond the image.
    const inside = (low, high, side) => Math.max(0, Math.min(high, side) - Math.max(low, 0)) / side;
    return box ? inside(box[0], box[2], width) * inside(box[1], box[3], height) : null;
  }
  const {data} = await pixelsOf(mask);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) count += Number(isMarked(data, at));
  return count / (width * height);
}

// Returns an SVG path around the mask, along the edges of its pixels, and around the box.
async function regionOf(probe, width, height) {
  const parts = [];
  if (probe.mask) {
    const {data} = await pixelsOf(probe.mask);
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && isMarked(data, (y * width + x) * 4);
    for (let y = 0; y <= height; y += 1) {
      for (let x = 0; x <= width; x += 1) {
        if (inside(x, y) !== inside(x, y - 1)) parts.push(`M${x} ${y}h1`);
        if (inside(x, y) !== inside(x - 1, y)) parts.push(`M${x} ${y}v1`);
      }
    }
  }
  if (probe.box) {
    const [left, top, right, bottom] = probe.box;
    parts.push(`M${left} ${top}H${right}V${bottom}H${left}Z`);
  }
  return parts.join('');
}

function isMarked(data, at) {
  return data[at + 3] > 127 && data[at] > 127;
}
