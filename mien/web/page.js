'use strict';
// The page of `mien serve`. It asks only the server that it came from, keeps photos in this tab, and builds downloads here.

const $ = (id) => document.getElementById(id);
// of each expression on light and on dark paper, at least 3 : 1
const INKS = { light: ['#4477aa', '#d9485a', '#228833', '#8f7e14', '#1b87aa', '#aa3377', '#6b6b6b', '#b86200'],
  dark: ['#77aadd', '#ee8866', '#44bb99', '#eedd88', '#99ddff', '#ffaabb', '#bbbbbb', '#ffa94d'] };
const inkOf = (k) => { const inks = INKS[matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light']; return inks[k % inks.length]; };
const TABS = ['drawn', 'photo', 'video', 'swap', 'camera'];
let known, rows = '', pictures = [];

function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

function fields(extra = {}) {
  const chosen = $('calibration').value ? { calibration: $('calibration').value } : {};
  return new URLSearchParams({ method: $('method').value, expression: $('expression').value, ...chosen, ...extra }).toString();
}

async function ask(path, body, kind) {
  let answer;
  try {
    answer = await fetch(path, { method: 'POST', body, headers: { 'Content-Type': kind }, credentials: 'omit' });
  } catch {
    return { message: 'The page does not answer; is mien serve still running?' };
  }
  if (answer.ok && answer.headers.get('Content-Type') === 'application/pdf') return { pdf: await answer.blob() };
  const text = await answer.text();
  try { return JSON.parse(text); } catch { return { message: `${text[0].toUpperCase()}${text.slice(1)}.` }; }
}

const askDrawn = (path, face) => ask(`${path}?${fields()}`, JSON.stringify(face), 'application/json');
const askPhoto = (path, file, extra = {}) => ask(`${path}?${fields({ name: file.name || 'photo', ...extra })}`, file, 'application/octet-stream');

function message(text) { // what stands between backquotes is a command
  const parts = text.split('`').map((part, k) => (k % 2 ? element('code', { textContent: part }) : part));
  return element('div', { className: 'mien-message', role: 'status' }, ...parts);
}

function download(content, name, kind) {
  const link = element('a', { href: URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function button(text, action) {
  const made = element('button', { type: 'button', textContent: text });
  made.addEventListener('click', async () => {
    made.disabled = true;
    try { await action(); } finally { made.disabled = false; }
  });
  return made;
}

function joined(texts) {
  return texts.map((text, number) => (number ? text.slice(text.indexOf('\n') + 1) : text)).join('');
}

async function downloadReport(asked, place, name) {
  const answer = await asked();
  if (answer.pdf) download(answer.pdf, name); else place.prepend(message(answer.message));
}

function downloadPicture(place, name) {
  const image = place.querySelector('img');
  const [head, data] = image.src.split(',');
  download(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), name, head.slice(5).split(';')[0]);
}

// tabs

function show(name) {
  for (const one of TABS) {
    $(`tab-${one}`).setAttribute('aria-selected', one === name);
    $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
    $(one).hidden = one !== name;
  }
  if (name !== 'camera') stopCamera();
}

function tabs() {
  TABS.forEach((name) => {
    $(`tab-${name}`).addEventListener('click', () => show(name));
    $(`tab-${name}`).addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const there = TABS.filter((one) => !$(`tab-${one}`).hidden), here = there.indexOf(name);
      const next = event.key === 'Home' ? 0 : event.key === 'End' ? there.length - 1 : step ? (here + step + there.length) % there.length : null;
      if (next === null) return;
      event.preventDefault();
      show(there[next]);
      $(`tab-${there[next]}`).focus();
    });
  });
}

// synthetic faces

function slider(id, label, options) {
  const input = element('input', { id, type: 'range', ...options });
  const value = element('output', { textContent: input.value });
  value.htmlFor = id;
  input.addEventListener('input', () => { value.textContent = input.value; });
  return element('label', {}, label, input, value);
}

function drawnFace() {
  const units = {};
  for (const input of document.querySelectorAll('#units input')) units[input.id.slice(5)] = Number(input.value);
  return { units, person: Number($('person').value), yaw: Number($('yaw').value), pitch: Number($('pitch').value) };
}

let asking = false, again = false;
async function answerDrawn() {
  if (asking) { again = true; return; }
  asking = true;
  do {
    again = false;
    const answer = await askDrawn('/look', drawnFace());
    if (answer.html) { $('drawn-answer').innerHTML = answer.html; rows = answer.csv; }
    else $('drawn-answer').replaceChildren(message(answer.message));
  } while (again);
  asking = false;
}

function setSliders(values) {
  for (const input of document.querySelectorAll('#units input')) {
    input.value = values[input.id.slice(5)] || 0;
    input.parentElement.querySelector('output').textContent = input.value;
  }
}

function drawn() {
  Object.entries(known.groups).forEach(([group, names], number) => {
    const sliders = Object.entries(names).map(([unit, name]) => {
      const label = slider(`unit-${unit}`, `${unit} ${name}`, { min: 0, max: known.strongest, step: 0.5, value: known.start[unit] || 0 });
      label.id = unit;
      return label;
    });
    const details = element('details', { open: number < 2 }, element('summary', { textContent: group }), element('div', { className: 'mien-sliders' }, ...sliders));
    $('units').append(details);
  });
  $('person').max = known.people;
  for (const [id, most] of [['yaw', known.yaw], ['pitch', known.pitch]]) { $(id).min = -most; $(id).max = most; $(id).value = 0; }
  for (const id of ['person', 'yaw', 'pitch']) {
    $(id).addEventListener('input', () => { $(id).parentElement.querySelector('output').textContent = $(id).value; });
  }
  for (const name of Object.keys(known.presets)) $('preset').append(element('option', { value: name, textContent: name }));
  $('preset').addEventListener('change', () => { if ($('preset').value) { setSliders(known.presets[$('preset').value]); answerDrawn(); } });
  for (const input of document.querySelectorAll('#sliders input')) input.addEventListener('input', answerDrawn);
  $('sliders').addEventListener('submit', (event) => event.preventDefault());
  $('drawn-buttons').append(
    button('Rows (CSV)', () => download(rows, 'synthetic-face.csv', 'text/csv')),
    button('Report (PDF)', () => downloadReport(() => askDrawn('/report', drawnFace()), $('drawn-answer'), 'synthetic-face.pdf')));
}

// photos: this tab holds the files; each question carries one

async function answerPhotos() {
  const asked = pictures;
  const places = asked.map(() => element('div', {}, message('Looking …')));
  $('photo-answers').replaceChildren(...places);
  const texts = [];
  for (const [number, one] of asked.entries()) {
    const place = places[number];
    const answer = one.face ? await askDrawn('/look', one.face) : await askPhoto('/look', one.file);
    if (pictures !== asked) return;
    const title = element('h2', { className: 'mien-small', textContent: one.name });
    if (!answer.html) { place.replaceChildren(title, message(answer.message)); continue; }
    texts.push(answer.csv);
    place.innerHTML = answer.html;
    const stem = one.name.replace(/\.[^.]*$/, '') || 'photo';
    place.prepend(title);
    place.append(element('div', { className: 'mien-buttons' },
      button(`Picture of ${one.name}`, () => downloadPicture(place, `${stem}-mien.jpg`)),
      button(`Report of ${one.name} (PDF)`, () => downloadReport(() => (one.face ? askDrawn('/report', one.face) : askPhoto('/report', one.file)), place, `${stem}-mien.pdf`))));
    $('photo-buttons').replaceChildren(button('Rows of all (CSV)', () => download(joined(texts), 'mien.csv', 'text/csv')));
  }
}

function take(files) {
  const fit = [...files].filter((file) => file.size <= known.max_bytes).slice(0, 50);
  const large = files.length - fit.length;
  $('photo-told').textContent = large
    ? `${large} left out: larger than ${known.max_bytes / 1e6} MB, or more than 50 at once.` : fit.map((file) => file.name).join(', ');
  if (!fit.length) return;
  pictures = fit.map((file) => ({ file, name: file.name }));
  answerPhotos();
}

function photos() {
  $('photo-files').addEventListener('change', () => { take($('photo-files').files); $('photo-files').value = ''; });
  $('drop').addEventListener('dragover', (event) => event.preventDefault());
  $('drop').addEventListener('drop', (event) => { event.preventDefault(); take(event.dataTransfer.files); });
  known.examples.forEach(([preset, person, yaw]) => {
    $('examples').append(button(`Synthetic example: ${preset}`, () => {
      pictures = [{ name: `synthetic ${preset}`, face: { units: known.presets[preset], person, yaw, pitch: 0 } }];
      return answerPhotos();
    }));
  });
  if (!known.photos) for (const id of ['photo-files', 'video-file', 'camera-start']) $(id).disabled = true;
  if (!known.photos) for (const id of ['photo', 'video', 'camera']) $(id).prepend(message(`Photos are refused: ${known.no_finder}.`));
}

// frames of a video or camera: drawn here, sent as JPEG, answered without maps

function paint(canvas, faces) {
  const pen = canvas.getContext('2d'), size = Math.max(14, canvas.width / 40), tall = size * 1.3;
  const boxes = faces.map((face) => face.box.map((share, k) => share * (k % 2 ? canvas.height : canvas.width)));
  const ink = (face) => (face.doubt ? '#c8c8c8' : '#ffc400');
  faces.forEach((face, number) => {
    const [x0, y0, x1, y1] = boxes[number];
    pen.strokeStyle = ink(face);
    pen.lineWidth = size / 8;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  });
  pen.font = `${size}px sans-serif`;
  const taken = [...boxes];
  faces.forEach((face, number) => { // over the box or under it, where no other face and no label is hidden
    const [x0, y0, x1, y1] = boxes[number];
    const text = `${faces.length > 1 ? `${number + 1} ` : ''}${face.doubt ? `${face.doubt}: ` : ''}${face.expression} ${Math.round(100 * face.confidence)}%`;
    const wide = pen.measureText(text).width + size / 2;
    const places = [[x0, y0 - tall], [x1 - wide, y0 - tall], [x0, y1], [x1 - wide, y1]].map(([x, y]) =>
      [Math.max(0, Math.min(x, canvas.width - wide)), Math.max(0, Math.min(y, canvas.height - tall))]);
    const free = ([x, y]) => taken.every(([left, top, right, bottom], k) => k === number || x >= right || x + wide <= left || y >= bottom || y + tall <= top);
    const [x, y] = places.find(free) || places[0];
    taken.push([x, y, x + wide, y + tall]);
    pen.fillStyle = ink(face);
    pen.fillRect(x, y, wide, tall);
    pen.fillStyle = '#14181d';
    pen.fillText(text, x + size / 4, y + size);
  });
}

async function lookAt(source, width, height, canvas, extra) {
  const scale = Math.min(1, 960 / Math.max(width, height));
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.hidden = false;
  canvas.getContext('2d').drawImage(source, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, 'image/jpeg', 0.92));
  const answer = await ask(`/frame?${fields(extra)}`, blob, 'application/octet-stream');
  if (answer.faces) paint(canvas, answer.faces);
  return answer;
}

function line(canvas, times, values, end) {
  canvas.hidden = false;
  canvas.width = canvas.clientWidth || 600;
  canvas.height = 180;
  const pen = canvas.getContext('2d'), left = 44, wide = canvas.width - left - 8, high = 150;
  const style = getComputedStyle(document.documentElement);
  pen.font = '12px sans-serif';
  pen.fillStyle = style.getPropertyValue('--soft');
  pen.strokeStyle = style.getPropertyValue('--line');
  for (const share of [0, 0.5, 1]) {
    pen.fillText(`${100 * share}%`, 4, 12 + high * (1 - share));
    pen.strokeRect(left, 8 + high * (1 - share), wide, 0);
  }
  for (const share of [0, 0.5, 1]) {
    const text = `${(end * share).toFixed(1)} s`;
    pen.fillText(text, left + (wide - pen.measureText(text).width) * share, 174);
  }
  known.classes.forEach((name, k) => {
    pen.strokeStyle = inkOf(k);
    pen.lineWidth = 2;
    pen.beginPath();
    let pen_up = true;
    values.forEach((face, i) => {
      if (!face) { pen_up = true; return; }
      const x = left + (times[i] / end) * wide, y = 8 + high * (1 - face[name]);
      if (pen_up) pen.moveTo(x, y); else pen.lineTo(x, y);
      pen_up = false;
    });
    pen.stroke();
  });
  $('video-key').replaceChildren(...known.classes.map((name, k) => {
    const made = element('span', { textContent: name });
    made.style.setProperty('--ink-of', inkOf(k));
    return made;
  }));
}

let watching = 0;
async function watch(file) {
  const mine = (watching += 1), STEP = 0.5, MOST = 300;
  const player = element('video', { muted: true, preload: 'auto', src: URL.createObjectURL(file) });
  $('video-buttons').replaceChildren(button('Stop', () => { watching += 1; }));
  try {
    await new Promise((done, failed) => { player.onloadeddata = done; player.onerror = failed; });
  } catch {
    $('video-answer').replaceChildren(message('Your browser cannot play this video; `mien predict` reads more formats.'));
    return;
  }
  const end = Math.min(player.duration || 0, MOST), texts = [], times = [], values = [];
  for (let moment = 0, number = 0; moment < end && mine === watching; moment += STEP, number += 1) {
    player.currentTime = moment;
    await new Promise((done) => { player.onseeked = done; });
    const answer = await lookAt(player, player.videoWidth, player.videoHeight, $('video-canvas'), { name: file.name, time: moment, frame: number });
    if (!answer.faces) { $('video-answer').replaceChildren(message(answer.message)); break; }
    texts.push(answer.csv);
    times.push(moment);
    values.push(answer.faces.length ? answer.faces[0].probabilities : null);
    $('video-told').textContent = `${file.name}: ${moment.toFixed(1)} of ${end.toFixed(1)} s`;
    line($('video-line'), times, values, end);
  }
  URL.revokeObjectURL(player.src);
  if (texts.length) $('video-buttons').replaceChildren(button('Rows (CSV)', () => download(joined(texts), `${file.name}.csv`, 'text/csv')));
}

// two photos whose expressions are exchanged: all pictures come at once, the slider chooses among them

let strips = [];
function showSwap() {
  strips.forEach((strip, number) => {
    const one = strip[Number($('swap-share').value)];
    $(`swap-${number}`).src = one.picture;
    $(`swap-${number}`).hidden = false;
    $(`swap-units-${number}`).textContent = one.units.join(' ') || 'no action unit';
  });
}

async function askSwap() {
  const files = ['swap-first', 'swap-second'].map((id) => $(id).files[0]);
  if (!files[0] || !files[1]) return;
  if (files[0].size + files[1].size > known.max_bytes) {
    $('swap-told').replaceChildren(message(`Both photos together may have ${known.max_bytes / 1e6} MB.`));
    return;
  }
  $('swap-told').replaceChildren(message('Looking …'));
  const answer = await ask(`/swap?${fields({ first: files[0].size })}`, new Blob(files), 'application/octet-stream');
  $('swap-told').replaceChildren(...(answer.strips ? [] : [message(answer.message)]));
  if (!answer.strips) return;
  strips = answer.strips;
  Object.assign($('swap-share'), { max: strips[0].length - 1, value: 0, disabled: false });
  showSwap();
}

let stream = null;
async function startCamera() {
  if (!navigator.mediaDevices) { $('camera-answer').replaceChildren(message('Your browser gives the camera to pages of this computer (localhost) or of https only.')); return; }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 960 }, audio: false });
  } catch (error) {
    $('camera-answer').replaceChildren(message(`The camera cannot be used (${error.name}).`));
    return;
  }
  $('camera-start').disabled = true;
  $('camera-stop').disabled = false;
  const player = element('video', { muted: true, srcObject: stream, playsInline: true });
  await player.play();
  const mine = stream, began = performance.now();
  for (let number = 0; stream === mine; number += 1) {
    const answer = await lookAt(player, player.videoWidth, player.videoHeight, $('camera-canvas'), { name: 'camera', time: (performance.now() - began) / 1000, frame: number });
    if (stream !== mine) break;
    if (!answer.faces) { $('camera-answer').replaceChildren(message(answer.message)); await new Promise((done) => setTimeout(done, 2000)); continue; }
    $('camera-answer').replaceChildren(answer.faces.length ? '' : message('No face found.'));
    await new Promise((done) => setTimeout(done, 120));
  }
}

function stopCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  $('camera-canvas').hidden = true;
  $('camera-start').disabled = !known.photos;
  $('camera-stop').disabled = true;
}

async function begin() {
  known = await (await fetch('/settings')).json();
  $('notice').textContent = known.notice;
  $('about').textContent = `Model: ${known.model}. Faces: ${known.faces}. Everything is computed on the computer that serves this page.`;
  for (const name of known.methods) $('method').append(element('option', { value: name, textContent: name }));
  for (const name of [known.predicted, ...known.classes]) $('expression').append(element('option', { value: name, textContent: name }));
  for (const [name, words] of Object.entries(known.calibrations)) $('calibration').append(element('option', { value: name, textContent: words }));
  $('calibration-label').hidden = !Object.keys(known.calibrations).length;
  for (const id of ['method', 'expression', 'calibration']) $(id).addEventListener('change', () => { answerDrawn(); if (pictures.length) answerPhotos(); });
  tabs();
  drawn();
  photos();
  $('tab-swap').hidden = !known.swaps || !known.photos;
  for (const id of ['swap-first', 'swap-second']) $(id).addEventListener('change', askSwap);
  $('swap-share').addEventListener('input', showSwap);
  $('video-file').addEventListener('change', () => { if ($('video-file').files[0]) watch($('video-file').files[0]); $('video-file').value = ''; });
  $('camera-start').addEventListener('click', startCamera);
  $('camera-stop').addEventListener('click', stopCamera);
  await answerDrawn();
}

begin();
