// Resizes maps to the image's resolution, as in lightning_gradcam/stats/resize.py: bilinearly with corners not aligned.
// If a map is finer than the image, its values within each pixel are averaged.

const axes = new Map();
let scratch = new Float32Array(0);

// Returns the source indices and weights for each target index, `taps` of each.
export function axisWeights(source, target, area) {
  const key = `${source}/${target}/${area}`;
  if (axes.has(key)) return axes.get(key);
  const taps = area ? Math.ceil(source / target) + 1 : 2;
  const index = new Int32Array(target * taps);
  const weight = new Float32Array(target * taps);
  for (let place = 0; place < target; place += 1) {
    if (area) {
      const begin = Math.floor((place * source) / target);
      const end = Math.ceil(((place + 1) * source) / target);
      for (let k = begin; k < end; k += 1) {
        index[place * taps + k - begin] = k;
        weight[place * taps + k - begin] = 1 / (end - begin);
      }
    } else {
      const at = Math.max(((place + 0.5) * source) / target - 0.5, 0);
      const below = Math.floor(at);
      index[place * 2] = below;
      index[place * 2 + 1] = Math.min(below + 1, source - 1);
      weight[place * 2] = 1 - (at - below);
      weight[place * 2 + 1] = at - below;
    }
  }
  const found = {taps, index, weight};
  axes.set(key, found);
  return found;
}

// map: values in rows of length `stride`, of which the `width` values starting at `left` are used. Returns Float32Array
// [tall * wide], which the next call overwrites.
export function resized(map, stride, left, width, height, wide, tall) {
  const area = height > tall || width > wide;
  if (scratch.length !== wide * tall) scratch = new Float32Array(wide * tall);
  const out = scratch;
  const rows = axisWeights(height, tall, area);
  const {index, weight, taps} = axisWeights(width, wide, area);
  const line = new Float32Array(width);
  for (let y = 0, at = 0; y < tall; y += 1) {
    line.fill(0);
    for (let k = y * rows.taps; k < (y + 1) * rows.taps; k += 1) {
      const share = rows.weight[k];
      if (share === 0) continue;
      const from = rows.index[k] * stride + left;
      for (let x = 0; x < width; x += 1) line[x] += share * map[from + x];
    }
    for (let x = 0, k = 0; x < wide; x += 1, at += 1) {
      let sum = weight[k] * line[index[k]] + weight[k + 1] * line[index[k + 1]];
      k += 2;
      if (taps > 2) for (const end = k + taps - 2; k < end; k += 1) sum += weight[k] * line[index[k]];
      out[at] = sum;
    }
  }
  return out;
}
