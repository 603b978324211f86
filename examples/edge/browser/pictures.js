// A picture's file -> the image tower's pixels, as `lit.json` says: `pixels_of` of ../reference.py.
const f32 = Math.fround;

// Uint8Array [height * width * 3] of any file that the browser decodes.
export async function pixelsOf(file, of) {
  return place(await decode(file, of), of);
}

// An opaque RGB picture; the canvas composites transparent ones over the background.
async function decode(file, of) {
  let bitmap;
  try {
    const given = of.exif_orientation ? file : await withoutExif(file);
    bitmap = await createImageBitmap(given, { colorSpaceConversion: 'none' });
  } catch {
    throw new Error('This file does not decode as a picture: choose a JPEG, PNG, WebP, GIF or BMP.');
  }
  const { width, height } = bitmap;
  if (width * height > of.max_pixels) {
    const most = of.max_pixels.toLocaleString('en');
    throw new Error(`A picture should have at most ${most} pixels: shrink it. This one: ${width} x ${height}.`);
  }
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.fillStyle = `rgb(${of.background} ${of.background} ${of.background})`;
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < data.length; i += 4, j += 3) {
    rgb[j] = data[i];
    rgb[j + 1] = data[i + 1];
    rgb[j + 2] = data[i + 2];
  }
  return { data: rgb, height, width };
}

// Browsers apply EXIF's orientation, also where the model's pictures were not turned: renamed, a
// JPEG's EXIF is ignored. (PNG and WebP hardly ever have it.)
async function withoutExif(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const name = [0x45, 0x78, 0x69, 0x66, 0, 0];
  const at = bytes.subarray(0, 65536).findIndex((_, i) => name.every((x, j) => bytes[i + j] === x));
  if (at >= 0) bytes[at] = 0x58;
  return new Blob([bytes]);
}

// Stretches, pads or crops to the tower's size.
export function place(image, of) {
  const [height, width] = of.shape;
  if (of.resize === 'stretch') return resize(image, height, width, of).data;
  const factors = [f32(height / image.height), f32(width / image.width)];
  if (of.resize === 'pad') {
    const factor = Math.min(...factors);
    const fit = (count, most) => Math.min(Math.max(even(f32(count * factor)), 1), most);
    const whole = [fit(image.height, height), fit(image.width, width)];
    const small = resize(image, ...whole, of);
    const found = new Uint8Array(height * width * 3).fill(of.background);
    const [top, left] = [(height - whole[0]) >> 1, (width - whole[1]) >> 1];
    for (let y = 0; y < whole[0]; y++) {
      const row = small.data.subarray(y * whole[1] * 3, (y + 1) * whole[1] * 3);
      found.set(row, ((y + top) * width + left) * 3);
    }
    return found;
  }
  // Only the middle of a very thin picture: all of it, scaled, would be huge.
  const reach = f32(f32(16 * of.crop_fraction) / Math.max(...factors));
  const middle = (count, size) => {
    const most = Math.ceil(reach * size);
    const cut = Math.max(count - most - Math.abs((count - most) % 2), 0) >> 1;
    return [cut, count - 2 * cut];
  };
  const [top, rows] = middle(image.height, height);
  const [left, columns] = middle(image.width, width);
  const thin = part(image, top, left, rows, columns);
  const factor = f32(
    Math.max(f32(height / thin.height), f32(width / thin.width)) / f32(of.crop_fraction),
  );
  const large = [[thin.height, height], [thin.width, width]].map(([count, least]) =>
    Math.max(Math.trunc(f32(f32(count * factor) + f32(1e-3))), least),
  );
  const found = resize(thin, ...large, of);
  return part(found, (large[0] - height) >> 1, (large[1] - width) >> 1, height, width).data;
}

function part(image, top, left, height, width) {
  if (height === image.height && width === image.width) return image;
  const data = new Uint8Array(height * width * 3);
  for (let y = 0; y < height; y++) {
    const start = ((y + top) * image.width + left) * 3;
    data.set(image.data.subarray(start, start + width * 3), y * width * 3);
  }
  return { data, height, width };
}

// `tf.image.resize` with fractions truncated: columns first, then rows.
function resize(image, height, width, of) {
  const columns = along(image.data, image.height, image.width, 3, width, of);
  const rows = along(columns, 1, image.height, width * 3, height, of);
  return { data: Uint8Array.from(rows, (x) => Math.min(Math.max(x, 0), 255)), height, width };
}

// The middle axis of [outer, count, inner] -> [outer, out, inner].
function along(data, outer, count, inner, out, of) {
  const found = new Float32Array(outer * out * inner);
  const plain = of.interpolation === 'bilinear' && !of.antialias;
  for (let i = 0; i < out; i++) {
    const taps = plain ? null : weights(i, count, out, of);
    const at = f32(f32(f32(i + 0.5) * f32(count / out)) - 0.5);
    const first = Math.floor(at);
    const fraction = f32(at - first);
    const low = Math.min(Math.max(first, 0), count - 1) * inner;
    const high = Math.min(Math.max(first + 1, 0), count - 1) * inner;
    for (let o = 0; o < outer; o++) {
      const from = o * count * inner;
      const to = (o * out + i) * inner;
      for (let k = 0; k < inner; k++) {
        if (plain) {
          const a = data[from + low + k];
          found[to + k] = a + f32(f32(data[from + high + k] - a) * fraction);
        } else {
          let sum = 0;
          for (const [j, weight] of taps) sum += weight * data[from + j * inner + k];
          found[to + k] = sum;
        }
      }
    }
  }
  return found;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const KERNELS = {
  bilinear: [1, (x) => Math.max(1 - x, 0)],
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : Math.max(2 - x, 0) ** 2 * (1 - x) * 0.5)],
  lanczos3: [3, (x) => (x < 3 ? sinc(x) * sinc(x / 3) : 0)],
  lanczos5: [5, (x) => (x < 5 ? sinc(x) * sinc(x / 5) : 0)],
};

// [[row, weight]]: the weights of the rows in row i of `out`.
function weights(i, count, out, of) {
  if (of.interpolation === 'nearest') return [[Math.floor(((i + 0.5) * count) / out), 1]];
  if (!(of.interpolation in KERNELS)) {
    throw new Error(`This page resizes by ${Object.keys(KERNELS).join(', ')}. Received: ${of.interpolation}.`);
  }
  const [radius, kernel] = KERNELS[of.interpolation];
  const wide = of.antialias ? Math.max(count / out, 1) : 1;
  const middle = ((i + 0.5) * count) / out - 0.5;
  const found = [];
  const end = Math.min(Math.floor(middle + radius * wide), count - 1);
  for (let j = Math.max(Math.ceil(middle - radius * wide), 0); j <= end; j++) {
    found.push([j, kernel(Math.abs(j - middle) / wide)]);
  }
  const sum = found.reduce((total, [, weight]) => total + weight, 0);
  return found.map(([j, weight]) => [j, f32(weight / sum)]);
}

// Rounds half to even, as NumPy does.
function even(x) {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 ? up - 1 : up;
}
