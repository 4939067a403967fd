// Image files to the square that the model takes, as keras_cifar/data/images.py does it with Pillow: upright, without
// colour profile, over white, then cut, padded or squashed, and resized with Pillow's bicubic filter to the bit.

const PRECISION = 22; // bits of a coefficient behind the point, as in Pillow's Resample.c
const PAD_COLOUR = [124, 116, 104]; // ImageNet's mean
const MOST_PIXELS = 16_000_000; // what every browser's canvas can hold

// The pixels of a File or Blob: {width, height, data: RGBA}.
export async function decodeImage(file) {
  const options = { colorSpaceConversion: "none", imageOrientation: "from-image" };
  let bitmap = await createImageBitmap(file, options);
  const ratio = Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height));
  if (ratio < 1) {
    const [resizeWidth, resizeHeight] = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * ratio)));
    bitmap.close();
    bitmap = await createImageBitmap(file, { ...options, resizeWidth, resizeHeight, resizeQuality: "high" });
  }
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, data: context.getImageData(0, 0, width, height).data };
}

// The square: side * side * 3 values, RGB.
export function fitSquare(image, side, resize) {
  if (resize === "squash") return rgb(resample(image, side, side, [0, 0, image.width, image.height]));
  if (resize === "pad") return pad(image, side);
  return rgb(resample(image, side, side, centre(image.width, image.height)));
}

// The largest square in the middle: left, top, right, bottom, which may lie half a pixel off.
function centre(width, height) {
  const length = Math.min(width, height);
  const [left, top] = [(width - length) / 2, (height - length) / 2];
  return [left, top, left + length, top + length];
}

function pad(image, side) {
  const { width, height } = image;
  const wide = width > height ? side : roundHalfEven((width / height) * side);
  const high = width > height ? roundHalfEven((height / width) * side) : side;
  const [left, top] = [roundHalfEven((side - wide) / 2), roundHalfEven((side - high) / 2)];
  const square = new Uint8Array(side * side * 3);
  for (let i = 0; i < square.length; i++) square[i] = PAD_COLOUR[i % 3];
  if (!wide || !high) return square;
  const small = resample(image, wide, high, [0, 0, width, height]);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      for (let c = 0; c < 3; c++) square[((y + top) * side + x + left) * 3 + c] = small.data[(y * wide + x) * 4 + c];
    }
  }
  return square;
}

function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

function rgb({ width, height, data }) {
  const found = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) found[3 * i + c] = data[4 * i + c];
  return found;
}

// Both directions one after the other, each rounded to 8 bits; in the order of Pillow 13, which older versions lack for
// images that shrink much more in height.
function resample(image, width, height, box) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const columns = (source) => {
    if (width === source.width && !left && right === width) return source;
    return stretch(source, coefficients(source.width, left, right, width), true);
  };
  const rows = (source) => {
    if (height === source.height && !top && bottom === height) return source;
    return stretch(source, coefficients(source.height, top, bottom, height), false);
  };
  const isTall = height < image.height && image.height - height > 2 * (image.width - width);
  return isTall ? columns(rows(image)) : rows(columns(image));
}

function stretch(source, weights, isHorizontal) {
  const width = isHorizontal ? weights.length : source.width;
  const height = isHorizontal ? source.height : weights.length;
  const data = new Uint8Array(width * height * 4);
  for (let i = 0; i < (isHorizontal ? height : width); i++) {
    if (isHorizontal) apply(weights, source.data, i * source.width * 4, 4, data, i * width * 4, 4);
    else apply(weights, source.data, i * 4, source.width * 4, data, i * 4, width * 4);
  }
  return { width, height, data };
}

// One line of pixels: where it starts, and how far the next pixel is, in the source and in the result.
function apply(weights, source, from, step, result, to, resultStep) {
  for (const { first, values } of weights) {
    for (let c = 0; c < 3; c++) {
      let sum = 1 << (PRECISION - 1);
      let place = from + first * step + c;
      for (let i = 0; i < values.length; i++, place += step) sum += source[place] * values[i];
      const value = sum >> PRECISION;
      result[to + c] = value < 0 ? 0 : value > 255 ? 255 : value;
    }
    to += resultStep;
  }
}

// For each pixel of the result the first pixel of the source that counts, and the weights from there on.
function coefficients(size, start, end, count) {
  const scale = Math.fround(end - start) / count;
  const stretch = Math.max(scale, 1);
  const found = [];
  for (let i = 0; i < count; i++) {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 2 * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(centre + 2 * stretch + 0.5), size);
    const inverse = 1 / stretch;
    const values = Array.from({ length: last - first }, (_, k) => bicubic((k + first - centre + 0.5) * inverse));
    let sum = 0;
    for (const value of values) sum += value;
    const fixed = values.map((value) => {
      const exact = (sum ? value / sum : value) * (1 << PRECISION);
      return Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
    });
    found.push({ first, values: Int32Array.from(fixed) });
  }
  return found;
}

function bicubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}
