"use strict";
// Maps and pictures as numbers, and their colours. Nothing here depends on the page's state.

// 33 stops of Matplotlib's perceptually uniform maps, and blue over white to orange for signed values.
const STOPS = {
  viridis: "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c1f978b1f9f8821a685" +
    "27ad8131b57b3dbc744cc26c5cc8636ece5881d34d95d840aadc32c0df25d5e21aeae51afde725",
  inferno: "0000040403120b0724150b37210c4a2f0a5b3d09654a0c6b57106e64156e71196e7d1e6d8a226a972766a32c61b0315bbc3754c63d4dd04545da4e3c" +
    "e35933eb6429f1711ff67e14f98c0afb9b06fcaa0ffbba1ff9c932f5d949f2e865f3f586fcffa4",
  cividis: "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d5a5f6e61656f686a716f70737676767d7c788381798b8778928d78" +
    "9a9376a29975aaa073b3a670bbad6dc3b369ccba64d4c15fddc858e6d051efd748f8df3cfee838",
  signed: "2166ac92c5def7f7f7fdae61b35806",
  grey: "010101ffffff",
};

// 256 colours, three bytes each, linear between the stops.
function colourTable(hex) {
  const stops = hex.match(/../g).map(byte => parseInt(byte, 16)), last = stops.length / 3 - 1, table = new Uint8Array(768);
  for (let k = 0; k < 256; k++) {
    const x = k / 255 * last, i = Math.min(last - 1, Math.floor(x)), f = x - i;
    for (let c = 0; c < 3; c++) table[3 * k + c] = Math.round((1 - f) * stops[3 * i + c] + f * stops[3 * i + 3 + c]);
  }
  return table;
}
const colourStops = name => STOPS[name].match(/.{6}/g).map(hex => "#" + hex).join(", ");
const TABLES = Object.fromEntries(Object.entries(STOPS).map(([name, hex]) => [name, colourTable(hex)]));

// Cells from 16-bit levels of the peak, least byte first.
function unpackMap(text, peak) {
  const bytes = atob(text), cells = new Float32Array(bytes.length / 2);
  for (let k = 0; k < cells.length; k++) cells[k] = peak * (bytes.charCodeAt(2 * k) + 256 * bytes.charCodeAt(2 * k + 1)) / 65535;
  return cells;
}

function correlation(a, b) {
  const n = a.length, mean = values => values.reduce((sum, value) => sum + value, 0) / n, p = mean(a), q = mean(b);
  let ab = 0, aa = 0, bb = 0;
  for (let k = 0; k < n; k++) { ab += (a[k] - p) * (b[k] - q); aa += (a[k] - p) ** 2; bb += (b[k] - q) ** 2; }
  return aa > 0 && bb > 0 ? ab / Math.sqrt(aa * bb) : NaN;
}

// The place of each of n pixels between the cells of one axis: the lower cell, the upper one, and the upper one's share.
function between(cells, n) {
  return Array.from({ length: n }, (_, k) => {
    const x = Math.min(cells - 1, Math.max(0, (k + .5) / n * cells - .5)), low = Math.floor(x);
    return [low, Math.min(cells - 1, low + 1), x - low];
  });
}

// Cells are interpolated as numbers and coloured afterwards, so that no colour appears that the scale does not have.
function enlarge(cells, [rows, columns], n) {
  const values = new Float32Array(n * n), across = between(columns, n);
  between(rows, n).forEach(([i, j, f], y) => across.forEach(([k, l, g], x) => {
    values[y * n + x] = (1 - f) * ((1 - g) * cells[i * columns + k] + g * cells[i * columns + l]) +
      f * ((1 - g) * cells[j * columns + k] + g * cells[j * columns + l]);
  }));
  return values;
}

// Over a picture, a cell covers it the less, the lower its value: only the end of the scale covers it as far as the slider says.
function paintMap(cells, grid, n, end, table, signed, over) {
  const pixels = new ImageData(n, n), data = pixels.data, values = enlarge(cells, grid, n);
  for (let k = 0; k < n * n; k++) {
    const value = end > 0 ? values[k] / end : 0, t = Math.min(1, Math.max(0, signed ? .5 + value / 2 : value));
    const colour = 3 * Math.round(255 * t);
    data[4 * k] = table[colour]; data[4 * k + 1] = table[colour + 1]; data[4 * k + 2] = table[colour + 2];
    data[4 * k + 3] = over ? Math.round(255 * Math.min(1, .1 + 1.2 * Math.abs(value))) : 255;
  }
  return pixels;
}

// A picture in grey, so that its colours are not taken for the map's.
function grey(picture) {
  const pixels = new ImageData(picture.width, picture.height), { data } = picture;
  for (let k = 0; k < data.length; k += 4) pixels.data.fill(.299 * data[k] + .587 * data[k + 1] + .114 * data[k + 2], k, k + 3).fill(255, k + 3, k + 4);
  return pixels;
}

// The pixels of a picture, after it is decoded.
async function pixelsOf(image) {
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// The change of the first quality's picture by another, levels, [pixels 4]; the page stores 128 + 8 / strength times that.
async function changeOf([strength, webp]) {
  const image = new Image();
  image.src = "data:image/webp;base64," + webp;
  const { data } = await pixelsOf(image), change = new Float32Array(data.length);
  for (let k = 0; k < data.length; k++) change[k] = k % 4 === 3 ? 0 : (data[k] - 128) * strength / 8;
  return change;
}

// ``base`` plus ``change``, which is null if there is none.
function plus(base, change) {
  const sum = new ImageData(base.width, base.height);
  for (let k = 0; k < sum.data.length; k++) sum.data[k] = base.data[k] + (change ? change[k] : 0);
  return sum;
}

// Eight times the difference from ``left`` to ``right``, around grey, cut at 127 levels.
function errorPicture(left, right, width, height) {
  const error = new ImageData(width, height);
  for (let k = 0; k < error.data.length; k++) {
    const change = (right ? right[k] : 0) - (left ? left[k] : 0);
    error.data[k] = k % 4 === 3 ? 255 : 128 + Math.max(-127, Math.min(127, 8 * change));
  }
  return error;
}
