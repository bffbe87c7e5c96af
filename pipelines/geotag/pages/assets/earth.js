"use strict";
// The map under a page's answers. The program of the page comes behind this one; it gives MAX_SCALE (pixels
// per world), findMarks (marks on the screen: px, py and size), drawAnswers, open, close, find and home.
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
// Keys and names come from strangers: letters that hide, or turn a line around, are spelled out.
const visible = (text) => text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu, (letter) => {
  const code = letter.codePointAt(0), digits = code < 256 ? 2 : code < 65536 ? 4 : 8;
  return `\\${"xuU"[Math.log2(digits) - 1]}${code.toString(16).padStart(digits, "0")}`;
});
const canvas = $("map"), paint = canvas.getContext("2d");
const EARTH_KM = 6371.0088, EQUATOR_KM = 40075, RAD = Math.PI / 180;
const INK = D.colours.ink, TRUE = D.colours.truth, ANSWER = D.colours.answer;

// Web Mercator on the unit square: x to the east, y to the south.
const mercatorX = (longitude) => longitude / 360 + 0.5;
const mercatorY = (latitude) => {
  const s = Math.sin(Math.max(-85.05, Math.min(85.05, latitude)) * RAD);
  return 0.5 - Math.log((1 + s) / (1 - s)) / (4 * Math.PI);
};
const latitudeAt = (y) => Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) / RAD;
const within01 = (t) => Math.max(0, Math.min(1, t));
const apart = (a, b) => a - b - Math.round(a - b);  // the short way around the world

// ---- data -----------------------------------------------------------------------------------
const ARRAYS = { Float32Array, Float64Array, Uint8Array, Uint16Array, Uint32Array, Int16Array };
function unpacked({ type, base64 }) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new ARRAYS[type](bytes.buffer);
}
const C = Object.fromEntries(Object.entries(D.columns).map(([name, column]) => [name, unpacked(column)]));
const hex = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
const RAMP = Array.from({ length: 65 }, (_, step) => {
  const at = step / 64 * (D.palette.length - 1), i = Math.min(D.palette.length - 2, Math.floor(at));
  const [a, b] = [hex(D.palette[i]), hex(D.palette[i + 1])];
  return `rgb(${a.map((v, k) => Math.round(v + (b[k] - v) * (at - i))).join(",")})`;
});
const [lowKm, highKm] = D.range_km;
const colourAt = (t) => RAMP[Math.round(64 * Math.max(0, Math.min(1, t)))];

const land = new Path2D();
for (const country of D.world) {
  const steps = unpacked(country.rings);
  for (let at = 0; at < steps.length;) {
    const end = at + 1 + 2 * steps[at++];
    for (let x = 0, y = 0, first = true; at < end; at += 2, first = false) {
      x += steps[at]; y += steps[at + 1];
      land[first ? "moveTo" : "lineTo"](mercatorX(x / 100), mercatorY(y / 100));
    }
    land.closePath();
  }
}
const grid = new Path2D();
for (let degrees = -180; degrees <= 180; degrees += 30) {
  grid.moveTo(mercatorX(degrees), 0); grid.lineTo(mercatorX(degrees), 1);
  if (Math.abs(degrees) <= 60) { grid.moveTo(0, mercatorY(degrees)); grid.lineTo(1, mercatorY(degrees)); }
}

// ---- view: a point of the unit square at the window's centre, and pixels per world --------------
const view = { x: 0.5, y: 0.43, scale: 0 };
let width = 0, height = 0, pending = false;
const smallest = () => Math.max(width, height * 0.9, 300);
const toScreen = (x, y) => [(x - view.x) * view.scale + width / 2, (y - view.y) * view.scale + height / 2];
function clampView() {
  view.scale = Math.max(smallest(), Math.min(view.scale, MAX_SCALE));
  view.x -= Math.floor(view.x);
  view.y = Math.max(0, Math.min(1, view.y));
}
function zoomBy(factor, px = width / 2, py = height / 2) {
  const before = view.scale;
  view.scale = Math.max(smallest(), Math.min(before * factor, MAX_SCALE));
  view.x += (px - width / 2) * (1 / before - 1 / view.scale);
  view.y += (py - height / 2) * (1 / before - 1 / view.scale);
  redraw();
}
function redraw() {
  if (!pending) { pending = true; requestAnimationFrame(draw); }
}
function resize() {
  const ratio = window.devicePixelRatio || 1;
  width = window.innerWidth; height = window.innerHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  redraw();
}
const worlds = (more = 0) => {  // the world repeats to the east and west
  const half = width / 2 / view.scale, copies = [];
  for (let k = Math.floor(view.x - half) - more; k < view.x + half + more; k++) copies.push(k);
  return copies;
};

// ---- drawing ------------------------------------------------------------------------------------
let shown = [];  // the marks on the screen: their group, and place and size in pixels
function draw() {
  pending = false;
  clampView();
  const ratio = window.devicePixelRatio || 1;
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint.fillStyle = D.colours.sea;
  paint.fillRect(0, 0, width, height);
  for (const k of worlds()) {
    const [left, top] = toScreen(k, 0), s = view.scale;
    paint.setTransform(ratio * s, 0, 0, ratio * s, ratio * left, ratio * top);
    paint.strokeStyle = D.colours.grid; paint.lineWidth = 1 / s; paint.stroke(grid);
    paint.fillStyle = D.colours.land; paint.strokeStyle = D.colours.border; paint.lineWidth = 0.9 / s;
    paint.fill(land); paint.stroke(land);
  }
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint.textAlign = "center"; paint.textBaseline = "middle";
  shown = findMarks();
  for (const k of worlds()) drawNames(k);
  drawAnswers();
  drawScale();
  if (canvas.matches(":focus-visible")) {
    paint.strokeStyle = INK; paint.lineWidth = 1; paint.beginPath();
    for (const [dx, dy] of [[9, 0], [0, 9]]) {
      paint.moveTo(width / 2 - dx, height / 2 - dy); paint.lineTo(width / 2 + dx, height / 2 + dy);
    }
    paint.stroke();
  }
}
function drawNames(k) {
  paint.font = "11.5px system-ui, sans-serif";
  paint.strokeStyle = "#ffffffb0"; paint.fillStyle = D.colours.faint; paint.lineWidth = 3; paint.lineJoin = "round";
  for (const { name, label } of D.world) {
    const [px, py] = toScreen(mercatorX(label[0]) + k, mercatorY(label[1]));
    const half = 3.4 * name.length;
    if (px < -half || py < -9 || px > width + half || py > height + 9 || label[2] / 360 * view.scale < 2.2 * half) continue;
    if (shown.some((mark) => Math.abs(mark.px - px) < half + mark.size && Math.abs(mark.py - py) < 7 + mark.size)) continue;
    paint.strokeText(name, px, py); paint.fillText(name, px, py);
  }
}
function drawScale() {
  const kmPerPx = EQUATOR_KM * Math.cos(latitudeAt(view.y) * RAD) / view.scale, room = 130 * kmPerPx;
  const power = 10 ** Math.floor(Math.log10(room)), length = power * [5, 2, 1].find((d) => d * power <= room);
  $("scale").style.width = `${length / kmPerPx}px`;
  $("scale_km").textContent = length >= 1 ? `${length.toLocaleString("en")} km` : `${Math.round(1000 * length)} m`;
}
function circle(latitude, longitude, km, k, fill) {  // all points km away on the sphere
  const d = Math.min(km / EARTH_KM, Math.PI), sinLat = Math.sin(latitude * RAD), cosLat = Math.cos(latitude * RAD);
  let last = null, whole = true;
  paint.beginPath();
  for (let step = 0; step <= 180; step++) {
    const bearing = step * 2 * RAD;
    const s = sinLat * Math.cos(d) + cosLat * Math.sin(d) * Math.cos(bearing);
    const turn = Math.atan2(Math.sin(bearing) * Math.sin(d) * cosLat, Math.cos(d) - sinLat * s);
    const x = mercatorX(longitude + turn / RAD), at = toScreen(x + k, mercatorY(Math.asin(Math.max(-1, Math.min(1, s))) / RAD));
    const jumps = last !== null && Math.abs(x - last) > 0.5;  // around a pole
    if (jumps) whole = false;
    paint[last === null || jumps ? "moveTo" : "lineTo"](...at);
    last = x;
  }
  if (fill && whole) { paint.fillStyle = fill; paint.fill(); }
  paint.stroke();
}
function greatCircle(lat1, lon1, lat2, lon2, k) {  // the shortest way from one place to another
  const unit = (lat, lon) => [Math.cos(lat * RAD) * Math.cos(lon * RAD), Math.cos(lat * RAD) * Math.sin(lon * RAD), Math.sin(lat * RAD)];
  const [a, b] = [unit(lat1, lon1), unit(lat2, lon2)], angle = distanceKm(lat1, lon1, lat2, lon2) / EARTH_KM;
  let x = mercatorX(lon1);
  for (let step = 0; step <= 32 && angle > 1e-9; step++) {
    const p = Math.sin(angle * (1 - step / 32)), q = Math.sin(angle * step / 32), v = a.map((value, axis) => p * value + q * b[axis]);
    x += apart(mercatorX(Math.atan2(v[1], v[0]) / RAD), x);
    paint[step ? "lineTo" : "moveTo"](...toScreen(x + k, mercatorY(Math.atan2(v[2], Math.hypot(v[0], v[1])) / RAD)));
  }
  return x;
}

// ---- the card of a photo or of a group; text only ever enters the page as text -------------------
const km = (value) => `${value >= 10 ? Math.round(value).toLocaleString("en") : value.toFixed(1)} km`;
const percent = (p) => p > 0 && p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(p > 0.0995 ? 0 : 1)} %`;
const degrees = (latitude, longitude, digits = 3) => `${latitude.toFixed(digits)}, ${longitude.toFixed(digits)}`;
// The last digit of an answer is the first below a tenth of its radius: more would say what nobody knows.
const decimalsFor = (radiusKm) => Math.max(0, Math.min(5, Math.ceil(Math.log10(1112 / Math.max(radiusKm, 1e-4)))));
const photos = (n) => `${n.toLocaleString("en")} photo${n === 1 ? "" : "s"}`;
const regions = typeof Intl.DisplayNames === "function" ? new Intl.DisplayNames(["en"], { type: "region" }) : null;
function countryName(code) {
  try { return `${regions.of(code)} (${code})`; } catch { return code; }
}
function distanceKm(lat1, lon1, lat2, lon2) {
  const h = Math.sin((lat2 - lat1) * RAD / 2) ** 2
    + Math.cos(lat1 * RAD) * Math.cos(lat2 * RAD) * Math.sin((lon2 - lon1) * RAD / 2) ** 2;
  return 2 * EARTH_KM * Math.asin(Math.min(1, Math.sqrt(h)));
}
function addTable(title, rows) {
  const table = document.createElement("table");
  if (title) table.createCaption().textContent = title;
  for (const row of rows) {
    const line = table.insertRow();
    for (const cell of row) {
      const td = line.insertCell();
      if (typeof cell === "number") {
        td.className = "bar";
        td.appendChild(document.createElement("i")).style.width = `${Math.max(1, 100 * cell)}%`;
      } else td.textContent = visible(cell);
    }
  }
  $("tables").append(table);
}
function openCard(title, subtitle) {
  $("detail").hidden = false;
  $("detail").scrollTop = 0;
  document.querySelector("#detail h2").textContent = visible(title);
  $("shard").textContent = visible(subtitle);
  $("tables").replaceChildren(); $("list").replaceChildren();
  $("thumbnail").hidden = true;
}
function clock(i) {  // wall clock where the photo was taken, and its zone where that is known
  const local = new Date(1000 * C.captured_at[i]).toISOString().slice(0, 19).replace("T", " ");
  const offset = C.captured_utc_offset_min.length ? C.captured_utc_offset_min[i] : NaN;
  if (Number.isNaN(offset)) return local;
  const [hours, minutes] = [Math.floor(Math.abs(offset) / 60), Math.abs(offset) % 60].map((n) => `${n}`.padStart(2, "0"));
  return `${local} UTC${offset < 0 ? "\u2212" : "+"}${hours}:${minutes}`;
}
function nearest(px, py) {
  let best = null, closest = Infinity;
  for (const mark of shown) {
    const d = Math.hypot(mark.px - px, mark.py - py) - Math.max(mark.size, 8);
    if (d <= Math.min(closest, 2)) { closest = d; best = mark; }
  }
  return best;
}

// ---- hands ----------------------------------------------------------------------------------------
const pointers = new Map();
let moved = 0;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (!pointers.size) moved = 0;
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  canvas.classList.add("dragging");
});
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) {
    canvas.style.cursor = nearest(event.clientX, event.clientY) ? "pointer" : "";
    return;
  }
  const now = [event.clientX, event.clientY];
  const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
  moved += Math.abs(dx) + Math.abs(dy);
  const other = [...pointers].find(([id]) => id !== event.pointerId);
  view.x -= dx / view.scale / pointers.size;
  view.y -= dy / view.scale / pointers.size;
  if (other) {
    const reach = (p) => Math.max(1, Math.hypot(p[0] - other[1][0], p[1] - other[1][1]));
    zoomBy(reach(now) / reach(before), (now[0] + other[1][0]) / 2, (now[1] + other[1][1]) / 2);
  }
  pointers.set(event.pointerId, now);
  redraw();
});
function release(event) {
  pointers.delete(event.pointerId);
  if (!pointers.size) canvas.classList.remove("dragging");
  if (event.type !== "pointerup" || moved >= 5) return;
  const mark = nearest(event.clientX, event.clientY);
  if (mark) open(mark); else close();
}
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 30 : 1;
  zoomBy(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) * 0.002), event.clientX, event.clientY);
}, { passive: false });
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return close();
  const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const pan = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (pan) { view.x += pan[0] * 80 / view.scale; view.y += pan[1] * 80 / view.scale; redraw(); }
  else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") home();
  else if (event.key === "Enter" && event.target === canvas && shown.length) {
    const far = (mark) => Math.hypot(mark.px - width / 2, mark.py - height / 2);
    open(shown.reduce((a, b) => far(b) < far(a) ? b : a));
  }
});
for (const kind of ["focus", "blur"]) canvas.addEventListener(kind, redraw);
window.addEventListener("resize", resize);
$("in").onclick = () => zoomBy(1.7);
$("out").onclick = () => zoomBy(1 / 1.7);
$("home").onclick = home;
$("close").onclick = close;
$("find").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("wanted").value) find($("wanted").value);
});
function showTitle() {
  document.title = D.title;
  document.querySelector("h1").textContent = D.title;
  $("subtitle").textContent = D.subtitle;
  $("ramp").style.background = `linear-gradient(to right, ${D.palette.join(",")})`;
  const [lowEnd, highEnd] = document.querySelectorAll("#ends span");
  lowEnd.textContent = `≤ ${km(lowKm)}`; highEnd.textContent = `≥ ${km(highKm)}`;
}
