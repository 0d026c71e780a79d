"use strict";
// The player: the patches that the model is shown, over the playing picture and on a time line.
// Every moment (slot) has a time and the numbers of its cells in a square that holds the picture.

const byId = (id) => document.getElementById(id);
const video = byId("video"), kept = byId("kept"), line = byId("line");
const SAME_PICTURE_SECONDS = 0.002;
let slots = []; // [{seconds, cells}], ascending
let grid = 1;
let at = 0; // the moment that is shown of a video that the browser cannot play

export function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}

// Shows a video as soon as something of it can be shown; null shows none.
export function load(url) {
  at = 0;
  if (url) video.src = url; else video.removeAttribute("src");
  video.load();
  show(null);
}

function isPicture() {
  return !video.error && video.videoWidth > 0;
}

// Hides what has nothing to show: the picture, and all of it where the server could not read it either.
function arrange() {
  byId("stage").hidden = byId("controls").hidden = !isPicture();
  byId("unplayable").hidden = !video.error || !slots.length;
  byId("player").hidden = !isPicture() && !slots.length;
}

function moment() {
  return isPicture() ? video.currentTime : at;
}

// Takes what the server tells of the video; null while it is not known.
export function show(described) {
  slots = described?.slots ?? [];
  grid = described?.grid ?? 1;
  draw();
}

export function seek(seconds) {
  at = seconds;
  if (isPicture()) video.currentTime = seconds + SAME_PICTURE_SECONDS;
  else draw();
}

export function isPlayable() {
  return !video.error && Number.isFinite(video.duration);
}

export function length() {
  const last = slots.length ? slots[slots.length - 1].seconds : 0;
  return Number.isFinite(video.duration) ? video.duration : last;
}

function slotAt(seconds) {
  let found = 0;
  slots.forEach((slot, number) => {
    if (slot.seconds <= seconds + SAME_PICTURE_SECONDS) found = number;
  });
  return found;
}

// Fits a canvas to its place in device pixels; returns its context in CSS pixels, cleared.
function prepared(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height };
}

function drawKept(seconds) {
  const { context, width, height } = prepared(kept);
  if (!byId("draw").checked || !slots.length || !video.videoWidth) return;
  const { videoWidth, videoHeight } = video;
  const scale = Math.min(width / videoWidth, height / videoHeight);
  const picture = [videoWidth * scale, videoHeight * scale];
  const side = Math.max(...picture) / grid;
  const left = width / 2 - (grid * side) / 2, top = height / 2 - (grid * side) / 2;
  context.beginPath();
  context.rect((width - picture[0]) / 2, (height - picture[1]) / 2, ...picture);
  context.clip();
  const cells = new Set(slots[slotAt(seconds)].cells);
  const edges = new Path2D();
  context.fillStyle = "rgb(0 0 0 / 68%)";
  for (let cell = 0; cell < grid * grid; cell += 1) {
    const x = left + (cell % grid) * side, y = top + Math.floor(cell / grid) * side;
    if (!cells.has(cell)) {
      context.fillRect(Math.floor(x), Math.floor(y), Math.floor(x + side) - Math.floor(x),
        Math.floor(y + side) - Math.floor(y));
      continue;
    }
    const column = cell % grid;
    const sides = [
      [cell - grid, x, y, x + side, y], [cell + grid, x, y + side, x + side, y + side],
      [column ? cell - 1 : -1, x, y, x, y + side],
      [column < grid - 1 ? cell + 1 : -1, x + side, y, x + side, y + side],
    ];
    for (const [neighbour, x1, y1, x2, y2] of sides) {
      if (cells.has(neighbour)) continue;
      edges.moveTo(x1, y1);
      edges.lineTo(x2, y2);
    }
  }
  context.strokeStyle = "#ffd24a";
  context.lineWidth = 1.5;
  context.stroke(edges);
}

function drawLine(seconds) {
  const { context, width, height } = prepared(line);
  // Colours of the style are resolved in properties only, not in variables.
  const { color, borderTopColor: marked } = getComputedStyle(line);
  const end = length() || 1;
  // A picture that is kept whole fills the height, which leaves the scale to the others.
  const counts = slots.map((slot) => slot.cells.length).filter((count) => count < grid * grid);
  const most = Math.max(1, ...counts);
  const bar = Math.max(2, width / Math.max(slots.length, 1) - 2);
  const now = slotAt(seconds);
  slots.forEach(({ seconds: start, cells }, number) => {
    const part = Math.min(cells.length / most, 1);
    const tall = cells.length < grid * grid ? 0.8 * height * part : height;
    context.fillStyle = number === now ? marked : color;
    context.fillRect((start / end) * (width - bar), height - tall, bar, tall);
  });
  context.fillStyle = marked;
  context.fillRect(Math.min(seconds / end, 1) * (width - 2), 0, 2, height);
}

function draw(seconds = moment()) {
  arrange();
  drawKept(seconds);
  drawLine(seconds);
  const slot = slots[slotAt(seconds)];
  byId("time").textContent = `${clock(seconds)} / ${clock(length())}`;
  byId("play").textContent = video.paused ? "\u25b6" : "\u23f8";
  const text = slot ? `picture ${slotAt(seconds) + 1} of ${slots.length}, at ${clock(slot.seconds)}: `
    + `${slot.cells.length} of ${grid * grid} patches kept` : "";
  byId("moment").textContent = text;
  line.setAttribute("aria-valuemin", 0);
  line.setAttribute("aria-valuemax", length().toFixed(1));
  line.setAttribute("aria-valuenow", seconds.toFixed(1));
  line.setAttribute("aria-valuetext", `${clock(seconds)}; ${text}`);
}

function follow(_, frame) {
  draw(frame.mediaTime);
  video.requestVideoFrameCallback(follow);
}

function toggle() {
  if (!isPicture()) return;
  if (video.paused) video.play().catch(() => {}); else video.pause();
}

function step(places) {
  const next = slotAt(moment()) + places;
  if (slots.length) seek(slots[Math.min(Math.max(next, 0), slots.length - 1)].seconds);
}

function seekTo(event) {
  const place = (event.clientX - line.getBoundingClientRect().left) / line.clientWidth;
  seek(Math.min(Math.max(place, 0), 0.999) * length());
}

if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(follow);
for (const name of ["seeked", "loadedmetadata", "loadeddata", "play", "pause", "timeupdate", "ended",
  "emptied", "error"]) {
  video.addEventListener(name, () => draw());
}
video.onclick = toggle;
byId("play").onclick = toggle;
byId("draw").onchange = () => draw();
line.onpointerdown = (event) => {
  line.setPointerCapture(event.pointerId);
  seekTo(event);
};
line.onpointermove = (event) => event.buttons && seekTo(event);
line.onkeydown = (event) => {
  const does = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowDown: () => step(-1),
    ArrowUp: () => step(1), Home: () => seek(0), End: () => step(slots.length), " ": toggle,
    k: () => byId("draw").click(), K: () => byId("draw").click(),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
};
new ResizeObserver(() => draw()).observe(byId("stage"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
