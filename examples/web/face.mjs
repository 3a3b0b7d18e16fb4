// Name the expression of a face in a browser with an exported model and onnxruntime-web; nothing leaves the browser.
// The cropper is face_crop.py in JavaScript, to the pixel: five points, in pixels, centres at .0: the eye on the left of the
// picture, the eye on its right, nose tip, mouth corner on the left, mouth corner on the right.

const HALF = 0.5;

/** Rint as numpy does: a half goes to the even number. */
function rint(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest < HALF || (rest === HALF && low % 2 === 0) ? low : low + 1;
}

/** [a, b, c, d, e, f] of x' = a x + b y + c, y' = d x + e y + f: least squares from source to target points (Umeyama 1991). */
export function similarity(source, target) {
  const mean = (points, k) => points.reduce((sum, point) => sum + point[k], 0) / points.length;
  const [sx, sy, tx, ty] = [mean(source, 0), mean(source, 1), mean(target, 0), mean(target, 1)];
  let along = 0, across = 0, size = 0;
  source.forEach(([x, y], k) => {
    const [p, q, r, s] = [x - sx, y - sy, target[k][0] - tx, target[k][1] - ty];
    along += p * r + q * s;
    across += p * s - q * r;
    size += p * p + q * q;
  });
  const [c, d] = [along / size, across / size];
  return [c, -d, tx - (c * sx - d * sy), d, c, ty - (d * sx + c * sy)];
}

/** {width, height, data: RGB bytes} of the part of a photo that the view shows, and its matrix. */
function partSeen(photo, m, size, margin) {
  const det = m[0] * m[4] - m[1] * m[3];
  const corners = [[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]].map(([u, v]) => {
    const [p, q] = [u - m[2], v - m[5]];
    return [(m[4] * p - m[1] * q) / det, (m[0] * q - m[3] * p) / det];
  });
  const inside = (value, last) => Math.min(Math.max(value, 0), last);
  const low = [0, 1].map((k) => inside(Math.floor(Math.min(...corners.map((p) => p[k])) - margin), [photo.width, photo.height][k] - 1));
  const high = [0, 1].map((k) => inside(Math.ceil(Math.max(...corners.map((p) => p[k])) + margin), [photo.width, photo.height][k] - 1));
  const part = { width: high[0] - low[0] + 1, height: high[1] - low[1] + 1 };
  part.data = new Uint8Array(part.width * part.height * 3);
  for (let y = 0; y < part.height; y += 1) {
    const from = ((low[1] + y) * photo.width + low[0]) * 3;
    part.data.set(photo.data.subarray(from, from + part.width * 3), y * part.width * 3);
  }
  return [part, [m[0], m[1], m[2] + m[0] * low[0] + m[1] * low[1], m[3], m[4], m[5] + m[3] * low[0] + m[4] * low[1]]];
}

/** Half as large: the mean of four pixels; an odd border is repeated. */
function halved(photo) {
  const half = { width: Math.ceil(photo.width / 2), height: Math.ceil(photo.height / 2) };
  half.data = new Uint8Array(half.width * half.height * 3);
  const at = (x, y, k) => photo.data[(Math.min(y, photo.height - 1) * photo.width + Math.min(x, photo.width - 1)) * 3 + k];
  for (let y = 0; y < half.height; y += 1) for (let x = 0; x < half.width; x += 1) for (let k = 0; k < 3; k += 1) {
    const sum = at(2 * x, 2 * y, k) + at(2 * x, 2 * y + 1, k) + at(2 * x + 1, 2 * y, k) + at(2 * x + 1, 2 * y + 1, k);
    half.data[(y * half.width + x) * 3 + k] = (sum + 2) >> 2;
  }
  return half;
}

/** (3, size, size) bytes of the view of a photo under a matrix, bilinear on a grid of 1/32 pixel; outside black, or the border repeated. */
function warp(photo, m, size, replicate) {
  const over = 1 / (m[0] * m[4] - m[1] * m[3]);
  const [a, b, d, e] = [m[4] * over, -m[1] * over, -m[3] * over, m[0] * over];
  const rows = [[a, b, -a * m[2] - b * m[5]], [d, e, -d * m[2] - e * m[5]]];
  const place = (row, x, y) => (rint((row[1] * y + row[2]) * 1024) + 16 + rint(row[0] * x * 1024)) >> 5;
  const at = (x, y, k) => {
    if (!replicate && (x < 0 || y < 0 || x >= photo.width || y >= photo.height)) return 0;
    const [u, v] = [Math.min(Math.max(x, 0), photo.width - 1), Math.min(Math.max(y, 0), photo.height - 1)];
    return photo.data[(v * photo.width + u) * 3 + k];
  };
  const view = new Uint8Array(3 * size * size);
  for (let y = 0; y < size; y += 1) for (let x = 0; x < size; x += 1) {
    const [column, row] = [place(rows[0], x, y), place(rows[1], x, y)];
    const [left, top, right, down] = [column >> 5, row >> 5, column & 31, row & 31];
    for (let k = 0; k < 3; k += 1) {
      const upper = (32 - right) * at(left, top, k) + right * at(left + 1, top, k);
      const lower = (32 - right) * at(left, top + 1, k) + right * at(left + 1, top + 1, k);
      view[(k * size + y) * size + x] = ((32 - down) * upper + down * lower + 512) >> 10;
    }
  }
  return view;
}

/** The face of a photo as the model wants it: (3, S, S) bytes. `about` is the JSON in the model's metadata. */
export function crop(photo, points, about) {
  const { framing } = about;
  let m = similarity(points.map((point) => point.map(Math.fround)), framing.points.map((point) => point.map(Math.fround)));
  let scale = Math.hypot(m[0], m[3]);
  if (scale <= HALF) [photo, m] = partSeen(photo, m, framing.size, 2 / scale);
  for (; scale <= HALF; scale *= 2) { // shrink by halves first, or pixels would be skipped
    photo = halved(photo);
    m = [2 * m[0], 2 * m[1], m[2] + HALF * (m[0] + m[1]), 2 * m[3], 2 * m[4], m[5] + HALF * (m[3] + m[4])];
  }
  return warp(photo, m, framing.size, !framing.aligned);
}

/** RGB bytes of anything that a canvas draws. */
export function pixelsOf(image, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(width * height * 3);
  for (let k = 0; k < width * height; k += 1) rgb.set(data.subarray(4 * k, 4 * k + 3), 3 * k);
  return { width, height, data: rgb };
}

/** Expression -> probability, of one face of a photo. `ort` is onnxruntime-web, `session` of the exported model. */
export async function expressions(ort, session, about, photo, points) {
  if (about.framing.size !== about.input.size) throw new Error('this model resizes its faces; use a run whose size is that of its store');
  const face = crop(photo, points, about);
  const found = await session.run({ pixels: new ort.Tensor('uint8', face, [1, 3, about.input.size, about.input.size]) });
  return Object.fromEntries(about.classes.map((name, k) => [name, found.probabilities.data[k]]));
}
