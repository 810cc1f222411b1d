// Decodes the probes' images.

const decoded = new Map();

// Returns, for each probe: {width, height, slices, data: RGBA of all slices side by side, region: SVG path of the mask
// or box, or '', covered: the fraction of the image that it covers, or null}.
export function picturesOf(run) {
  const {width, height, band} = run.header.display;
  return Promise.all(
    run.probes.map(async ({image: url, region, covered}) => {
      const image = await pixelsOf(url);
      const slices = Math.max(1, Math.round(image.width / width));
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
