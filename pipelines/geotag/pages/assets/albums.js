// The albums of albums.html, on the map of earth.js: one at a time, with a window in time.
const N = D.key.length, MAX_SCALE = 4e7, LISTED = 100, NEAR_PX = 7, STEPS = 1000;
const MOST_CIRCLES = 1500, LEFT_PX = 66, RIGHT_PX = 8, FOOT_PX = 18;
const [ANCHOR, PLACED, CONTRADICTS, NO_TIME] = ["anchor", "placed", "contradicts", "no_time"].map((one) => D.standings.indexOf(one));
const SAYS = {
  anchor: "anchor: its own position is believed", placed: "placed by the others of its album",
  contradicts: "its own position contradicts the others", no_time: "without a time that can be true",
  alone: "alone: no other photo says where",
};

// ---- data -----------------------------------------------------------------------------------
const at = (column, i) => column.length ? column[i] : NaN;  // a column that is empty throughout is left out
const xs = Float64Array.from({ length: N }, (_, i) => mercatorX(at(C.longitude, i)));
const ys = Float64Array.from({ length: N }, (_, i) => mercatorY(at(C.latitude, i)));
const placedAt = (i) => !Number.isNaN(xs[i]);
const radius = (i) => at(C.radius_90_km, i);
const colourOf = (i) => {
  const t = Math.log(Math.max(radius(i), 1e-6) / lowKm) / Math.log(highKm / lowKm);
  return C.standing[i] === ANCHOR ? INK : placedAt(i) && !Number.isNaN(t) ? colourAt(t) : D.colours.strange;
};
let album = 0, first = 0, last = 0, timed = 0;  // its rows, and the end of those that have a time
let zone = "";  // UTC, unless all clocks of the album are without a zone
let range = [0, 1], times = [0, 1];  // what the time line shows, and the window, in seconds of UTC
let moments = [0, 1], places = [0, 1];  // times of photos, and where the time line has them
let edges = [0, 1];  // where it has the ends of its range
const spots = new Float64Array(N);  // where it has each photo
let selected = -1;
const inWindow = (i) => i >= timed || (C.utc[i] >= times[0] && C.utc[i] <= times[1]);

function choose(number) {
  album = number; selected = -1;
  $("detail").hidden = true;
  first = D.first[number] ?? 0; last = D.first[number + 1] ?? 0;
  for (timed = first; timed < last && !Number.isNaN(at(C.utc, timed)); timed++);
  zone = C.captured_utc_offset_min.slice(first, timed).some((minutes) => !Number.isNaN(minutes)) ? " UTC" : "";
  layTimes();
  allTimes();
  home();
}
// Long pauses are drawn short, or an album of years would be empty but for its ends: the way from a
// photo to the next one grows with a power of the time between.
function layTimes() {
  moments = [...new Set(C.utc.subarray(first, timed))];
  if (!moments.length) moments = [0];
  if (moments.length < 2) moments = [moments[0] - 1800, moments[0], moments[0] + 1800];
  places = [0];
  for (let k = 1; k < moments.length; k++) places.push(places[k - 1] + (moments[k] - moments[k - 1]) ** 0.3);
  for (let i = first; i < timed; i++) spots[i] = between(C.utc[i], moments, places);
}
function setRange(from, to) {
  range = [from, to];
  edges = range.map((end) => between(end, moments, places));
  setTimes(from, to);
}
function between(x, from, to) {  // a number on the way through the points of from, carried to those of to
  let low = 0, high = from.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; if (from[middle] <= x) low = middle; else high = middle; }
  const share = within01((x - from[low]) / (from[high] - from[low]));
  return share === 1 ? to[high] : to[low] + share * (to[high] - to[low]);  // ends are met exactly
}
const shareOf = (t) => (between(t, moments, places) - edges[0]) / (edges[1] - edges[0]);
const timeAt = (share) => share <= 0 ? range[0] : share >= 1 ? range[1]
  : between(edges[0] + share * (edges[1] - edges[0]), places, moments);
function allTimes() {
  setRange(moments[0], moments[moments.length - 1]);
}
function setTimes(from, to) {
  times = [Math.max(range[0], Math.min(from, to)), Math.min(range[1], Math.max(from, to))];
  const shares = times.map(shareOf), bar = document.querySelector("#window i");
  [$("from").value, $("to").value] = shares.map((share) => Math.round(STEPS * share));
  bar.style.left = `${100 * shares[0]}%`; bar.style.right = `${100 - 100 * shares[1]}%`;
  let count = 0;
  for (let i = first; i < timed; i++) count += inWindow(i);
  const rest = [];
  if (D.photos[album] > last - first) rest.push(`${(last - first).toLocaleString("en")} of ${photos(D.photos[album])} here, evenly drawn`);
  if (last > timed) rest.push(`${photos(last - timed)} without a time`);
  $("told").textContent = timed > first
    ? [`${moment(times[0])} to ${moment(times[1])}${zone}: ${photos(count)}`, ...rest].join("; ")
    : last > first ? "no photo of this album has a time" : "there is no photo";
  redraw();
}
const moment = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ");

// ---- the map --------------------------------------------------------------------------------------
function home() {  // all of the album, above the time line
  let box = null, x0 = 0;
  const reaches = [];
  for (let i = first; i < last; i++) if (placedAt(i)) {
    if (!box) { x0 = xs[i]; box = [0, 0, ys[i], ys[i]]; }
    const x = apart(xs[i], x0);
    box = [Math.min(box[0], x), Math.max(box[1], x), Math.min(box[2], ys[i]), Math.max(box[3], ys[i])];
    if (radius(i) > 0) reaches.push(radius(i) / EQUATOR_KM / Math.max(0.1, Math.cos(C.latitude[i] * RAD)));
  }
  const reach = reaches.sort((a, b) => a - b)[reaches.length >> 1] ?? 0;  // half of the radii are seen whole
  if (box) box = [box[0] - reach, box[1] + reach, box[2] - reach, box[3] + reach];
  const foot = window.innerHeight - $("time").getBoundingClientRect().top;
  const top = width > 640 ? 60 : $("head").getBoundingClientRect().bottom;
  if (!box) Object.assign(view, { x: 0.5, y: 0.43, scale: smallest() });
  else {
    const wide = Math.max(box[1] - box[0], 1e-6), high = Math.max(box[3] - box[2], 1e-6);
    const scale = Math.min(0.7 * width / wide, 0.75 * Math.max(80, height - foot - top) / high, MAX_SCALE / 4);
    Object.assign(view, { x: x0 + (box[0] + box[1]) / 2, scale });
    view.scale = Math.max(scale, smallest());
    view.y = (box[2] + box[3]) / 2 + (foot - top) / 2 / view.scale;
  }
  redraw();
}
function findMarks() {  // photos of the window that are nearer than NEAR_PX make one mark
  const found = new Map();
  for (const k of worlds()) for (let i = first; i < last; i++) {
    if (!placedAt(i) || !inWindow(i)) continue;
    const [px, py] = toScreen(xs[i] + k, ys[i]);
    if (px < -20 || py < -20 || px > width + 20 || py > height + 20) continue;
    const cell = `${Math.round(px / NEAR_PX)},${Math.round(py / NEAR_PX)}`;
    const mark = found.get(cell);
    if (mark) mark.rows.push(i); else found.set(cell, { px, py, size: 5, rows: [i] });
  }
  for (const mark of found.values()) {
    mark.anchor = mark.rows.find((i) => C.standing[i] === ANCHOR) ?? -1;
    mark.size = 5 + 1.5 * Math.log10(mark.rows.length);
    mark.widest = mark.rows.reduce((a, b) => radius(b) > radius(a) ? b : a);
  }
  return [...found.values()];
}
function drawAnswers() {
  for (const k of worlds(1)) { drawTrack(k); drawCircles(k); }
  for (const k of worlds(1)) { drawContradictions(k); if (selected >= 0) drawRadii(selected, k); }
  for (const { px, py, size, anchor, widest } of shown) {
    paint.strokeStyle = "#ffffff"; paint.lineWidth = 1.2;
    paint.fillStyle = anchor >= 0 ? INK : colourOf(widest);
    paint.beginPath();
    if (anchor >= 0) diamond(paint, px, py, size + 1.5); else paint.arc(px, py, size, 0, 7);
    paint.fill(); paint.stroke();
  }
  if (selected >= 0) for (const k of worlds(1)) drawSelected(selected, k);
  drawLine();
}
function diamond(pen, x, y, size) {
  pen.moveTo(x, y - size); pen.lineTo(x + size, y); pen.lineTo(x, y + size); pen.lineTo(x - size, y); pen.closePath();
}
function cross(pen, x, y, size) {
  for (const way of [1, -1]) { pen.moveTo(x - size, y - way * size); pen.lineTo(x + size, y + way * size); }
}
function drawTrack(k) {  // the way from photo to photo; stronger in the window
  for (const strong of [false, true]) {
    paint.strokeStyle = INK; paint.globalAlpha = strong ? 0.6 : 0.18; paint.lineWidth = 1.2;
    paint.beginPath();
    let before = -1, x = 0;
    for (let i = first; i < timed; i++) {
      if (!placedAt(i)) continue;
      const next = before < 0 ? xs[i] : x + apart(xs[i], x);
      const drawn = before >= 0 && (!strong || (inWindow(before) && inWindow(i)));
      if (drawn && (xs[i] !== xs[before] || ys[i] !== ys[before])) {
        paint.moveTo(...toScreen(x + k, ys[before])); paint.lineTo(...toScreen(next + k, ys[i]));
      }
      before = i; x = next;
    }
    paint.stroke();
  }
  paint.globalAlpha = 1;
}
function drawCircles(k) {  // radii of the photos in the window, wide ones first
  const rows = new Map();  // of photos at one place with nearly the same radius one
  for (let i = first; i < timed; i++) {
    if (C.standing[i] === ANCHOR || !placedAt(i) || !inWindow(i) || !(radius(i) > 0)) continue;
    rows.set(`${C.latitude[i]},${C.longitude[i]},${Math.round(6 * Math.log(radius(i)))}`, i);
  }
  const every = Math.ceil(rows.size / MOST_CIRCLES);
  const drawn = [...rows.values()].filter((_, row) => row % every === 0).sort((a, b) => radius(b) - radius(a));
  const fill = Math.min(0.1, 0.8 / (1 + drawn.length)), line = Math.min(1, 4 / Math.sqrt(drawn.length) + 0.25);
  for (const i of drawn) for (const [km, alpha] of [[radius(i), 0.45], [C.radius_50_km[i], 0.8]]) {
    paint.strokeStyle = colourOf(i); paint.globalAlpha = alpha * line; paint.lineWidth = 1;
    const px = km / EQUATOR_KM / Math.cos(at(C.latitude, i) * RAD) * view.scale;
    if (px < 2) continue;
    const [x, y] = toScreen(xs[i] + k, ys[i]);
    if (km > 100) circle(C.latitude[i], C.longitude[i], km, k);
    else if (x > -px && x < width + px && y > -px && y < height + px) {
      paint.beginPath(); paint.arc(x, y, px, 0, 7); paint.stroke();
      if (alpha > 0.5) continue;
      paint.globalAlpha = fill; paint.fillStyle = colourOf(i); paint.fill();
    }
  }
  paint.globalAlpha = 1;
}
function drawContradictions(k) {
  paint.strokeStyle = D.colours.warning; paint.fillStyle = D.colours.warning;
  for (let i = first; i < last; i++) {
    if (C.standing[i] !== CONTRADICTS || !C.known_kind[i] || !inWindow(i)) continue;
    const [tx, ty] = ownOnScreen(i, k);
    if (placedAt(i)) {
      paint.lineWidth = 1; paint.setLineDash([3, 4]); paint.globalAlpha = 0.7; paint.beginPath();
      greatCircle(C.latitude[i], C.longitude[i], C.known_latitude[i], C.known_longitude[i], k);
      paint.stroke(); paint.setLineDash([]); paint.globalAlpha = 1;
    }
    paint.lineWidth = 3; paint.beginPath(); cross(paint, tx, ty, 6); paint.stroke();
  }
}
function ownOnScreen(i, k) {  // a photo's own position, on the same side of the world as its place
  const x = mercatorX(C.known_longitude[i]);
  return toScreen((placedAt(i) ? xs[i] + apart(x, xs[i]) : x) + k, mercatorY(C.known_latitude[i]));
}
function drawRadii(i, k) {
  const alone = [at(C.alone_latitude, i), at(C.alone_longitude, i)];
  if (!Number.isNaN(alone[0]) && C.standing[i] === PLACED) {
    paint.strokeStyle = D.colours.faint; paint.lineWidth = 1.5;
    paint.setLineDash([5, 4]); circle(...alone, C.alone_radius_90_km[i], k);
    paint.setLineDash([]); circle(...alone, C.alone_radius_50_km[i], k);
  }
  if (!placedAt(i) || !(radius(i) > 0)) return;
  paint.strokeStyle = INK; paint.lineWidth = 1.8; paint.setLineDash([5, 4]);
  circle(C.latitude[i], C.longitude[i], radius(i), k, `${ANSWER}1f`);
  paint.setLineDash([]);
  circle(C.latitude[i], C.longitude[i], C.radius_50_km[i], k, `${ANSWER}2e`);
}
function drawSelected(i, k) {
  if (!placedAt(i)) return;
  const [px, py] = toScreen(xs[i] + k, ys[i]);
  paint.strokeStyle = INK; paint.lineWidth = 2; paint.setLineDash([2, 3]);
  for (const anchor of anchorsOf(i)) if (anchor >= 0) {
    paint.beginPath(); paint.moveTo(px, py);
    paint.lineTo(...toScreen(xs[i] + apart(xs[anchor], xs[i]) + k, ys[anchor])); paint.stroke();
  }
  paint.setLineDash([]);
  if (C.known_kind[i] && C.standing[i] === PLACED) {
    const [tx, ty] = ownOnScreen(i, k);
    paint.strokeStyle = TRUE; paint.lineWidth = 2.5; paint.beginPath(); cross(paint, tx, ty, 6); paint.stroke();
  }
  paint.strokeStyle = "#ffffff"; paint.fillStyle = colourOf(i); paint.lineWidth = 2.5;
  paint.beginPath(); paint.arc(px, py, 8, 0, 7); paint.fill(); paint.stroke();
}
function anchorsOf(i) {  // the anchors before and after a photo, -1 where there is none
  if (i >= timed || C.standing[i] === ANCHOR) return [-1, -1];
  let [before, after] = [i - 1, i + 1];
  while (before >= first && C.standing[before] !== ANCHOR) before--;
  while (after < timed && C.standing[after] !== ANCHOR) after++;
  return [before >= first ? before : -1, after < timed ? after : -1];
}

// ---- the time line: the 90 % radius of each photo on a logarithmic scale --------------------------
const line = $("line"), pen = line.getContext("2d");
const LENGTHS = [[0.01, "10 m"], [1, "1 km"], [100, "100 km"], [10000, "10,000 km"]];
let lineWidth = 0, lineHeight = 0;  // without the times below
const shareX = (share) => LEFT_PX + share * (lineWidth - LEFT_PX - RIGHT_PX);
const radiusY = (km) => lineHeight * (1 - 0.06 - 0.9 * within01(Math.log(Math.max(km, 1e-9) / 0.004) / Math.log(20040 / 0.004)));
const lineMark = (i) => [shareX((spots[i] - edges[0]) / (edges[1] - edges[0])), C.standing[i] === ANCHOR ? lineHeight - 5 : radiusY(radius(i))];
function drawLine() {
  const ratio = window.devicePixelRatio || 1, [wide, high] = [line.clientWidth, line.clientHeight];
  [lineWidth, lineHeight] = [wide, high - FOOT_PX];
  line.width = wide * ratio; line.height = high * ratio;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = D.colours.sea; pen.fillRect(LEFT_PX, 0, wide - LEFT_PX - RIGHT_PX, lineHeight);
  const [from, to] = times.map((t) => shareX(shareOf(t)));
  pen.fillStyle = "#ffffff"; pen.fillRect(from, 0, to - from, lineHeight);
  pen.font = "11px system-ui, sans-serif"; pen.strokeStyle = D.colours.grid; pen.lineWidth = 1;
  pen.fillStyle = D.colours.faint; pen.textBaseline = "middle"; pen.textAlign = "right";
  pen.beginPath();
  for (const [km, name] of LENGTHS) {
    pen.moveTo(LEFT_PX, radiusY(km)); pen.lineTo(wide - RIGHT_PX, radiusY(km)); pen.fillText(name, LEFT_PX - 5, radiusY(km));
  }
  pen.textAlign = "left";
  let free = LEFT_PX, before = "";
  if (timed > first) for (const t of [range[0], ...moments]) {
    if (t < range[0] || t > range[1]) continue;
    const x = shareX(shareOf(t));
    if (x < free) continue;
    const text = tick(t, before), end = x + pen.measureText(text).width;
    if (end > wide) break;
    pen.moveTo(x, 0); pen.lineTo(x, lineHeight);
    pen.fillText(text, x, high - FOOT_PX / 2);
    [free, before] = [end + 24, tick(t, "")];
  }
  pen.stroke();
  pen.save();
  pen.beginPath(); pen.rect(LEFT_PX - 6, 0, wide - LEFT_PX - RIGHT_PX + 12, lineHeight); pen.clip();
  const drawn = new Set();  // the same mark at the same pixel is drawn once
  for (let i = first; i < timed; i++) {
    if (i === selected || C.utc[i] < range[0] || C.utc[i] > range[1]) continue;
    const [x, y] = lineMark(i), pixel = Math.round(2 * x) * 1e5 + 10 * Math.round(2 * y) + C.standing[i];
    if (Number.isNaN(y) || drawn.has(pixel)) continue;
    drawn.add(pixel);
    drawLineMark(i, x, y, 3);
  }
  if (selected >= 0 && selected < timed) drawLineMark(selected, ...lineMark(selected), 6);
  pen.restore();
}
function drawLineMark(i, x, y, size) {
  if (Number.isNaN(y)) return;
  pen.globalAlpha = inWindow(i) ? 1 : 0.35;
  pen.fillStyle = colourOf(i); pen.beginPath();
  if (C.standing[i] === ANCHOR) diamond(pen, x, y, size + 1); else pen.arc(x, y, size, 0, 7);
  pen.fill();
  if (size > 3) { pen.strokeStyle = INK; pen.lineWidth = 1.5; pen.stroke(); }
  if (C.standing[i] === CONTRADICTS) {
    pen.strokeStyle = D.colours.warning; pen.lineWidth = 2; pen.beginPath(); cross(pen, x, y, 5); pen.stroke();
  }
  pen.globalAlpha = 1;
}
function tick(seconds, before) {  // the day of a time, or its hour where the day was written before
  const part = (options) => new Date(1000 * seconds).toLocaleString("en-GB", { timeZone: "UTC", ...options });
  const day = part({ day: "numeric", month: "short", year: "numeric" });
  return day === before ? part({ hour: "2-digit", minute: "2-digit" }) : day;
}
line.addEventListener("click", (event) => {
  const box = line.getBoundingClientRect(), [px, py] = [event.clientX - box.left, event.clientY - box.top];
  let best = -1, closest = 18;
  for (let i = first; i < timed; i++) {
    const [x, y] = lineMark(i), d = Math.hypot(x - px, y - py);
    if (d < closest) { closest = d; best = i; }
  }
  if (best >= 0) select(best);
});

// ---- the card of a photo or of a group ------------------------------------------------------------
const length = (value) => value < 1 ? `${Math.round(1000 * value)} m` : km(value);
const span = (hours) => Number.isNaN(hours) ? "none" : hours < 1.5 ? `${Math.round(60 * hours)} min` : hours < 48 ? `${hours.toFixed(1)} h` : `${(hours / 24).toFixed(1)} days`;
function facts(i) {
  const rows = [];
  if (at(C.captured_at, i) === at(C.captured_at, i)) rows.push(["taken", clock(i)]);
  if (placedAt(i)) rows.push(["latitude, longitude", degrees(C.latitude[i], C.longitude[i])]);
  if (C.country[i]) rows.push(["country", countryName(D.countries[C.country[i] - 1])]);
  if (radius(i) > 0) rows.push(["50 % radius (solid)", length(C.radius_50_km[i])], ["90 % radius (dashed)", length(radius(i))]);
  if (at(C.alone_radius_90_km, i) > 0) rows.push(["alone (grey)", `${length(C.alone_radius_50_km[i])}, ${length(C.alone_radius_90_km[i])}`]);
  if (C.standing[i] === PLACED || C.standing[i] === CONTRADICTS) rows.push(["anchors before, after", `${span(at(C.hours_before, i))}, ${span(at(C.hours_after, i))}`]);
  if (C.known_kind[i] && C.standing[i] !== ANCHOR) {
    const own = [C.known_latitude[i], C.known_longitude[i]];
    rows.push([C.standing[i] === CONTRADICTS ? "its own position (cross)" : "known position (cross)", degrees(...own)]);
    if (placedAt(i)) rows.push(["from there to the answer", length(distanceKm(...own, C.latitude[i], C.longitude[i]))]);
  }
  return rows;
}
function select(i) {
  if (i < first || i >= last) return;
  selected = i;
  openCard(D.key[i], `${D.albums[album]}; ${SAYS[D.standings[C.standing[i]]]}`);
  addTable("", facts(i));
  const shares = ["share_anchors", "share_neighbours", "share_own"].map((name) => at(C[name], i));
  if (C.standing[i] === PLACED && !Number.isNaN(shares[0])) {
    addTable("What the answer is made of", ["anchors", "neighbours", "the photo"].map((name, row) => [name, shares[row], percent(shares[row])]));
  }
  $("steps").hidden = false;
  if (!inWindow(i)) setTimes(Math.min(times[0], C.utc[i]), Math.max(times[1], C.utc[i]));
  redraw();
}
function close() { selected = -1; $("detail").hidden = true; redraw(); }
function open({ rows }) {
  if (rows.length === 1) return select(rows[0]);
  selected = -1;
  openCard(`${photos(rows.length)} at this place`, rows.length > LISTED ? `the first ${LISTED}` : "the earliest first");
  $("steps").hidden = true;
  for (const i of rows.slice(0, LISTED)) {
    const button = document.createElement("button"), dot = document.createElement("i");
    dot.style.background = colourOf(i);
    button.append(dot, visible(D.key[i]));
    button.onclick = () => select(i);
    $("list").append(button);
  }
  redraw();
}
function find(wanted) {
  const whole = D.key.indexOf(wanted), i = whole >= 0 ? whole : D.key.findIndex((key) => key.includes(wanted));
  $("found").textContent = i < 0 ? "no key like that is shown here" : "";
  if (i < 0) return;
  const number = D.first.findLastIndex((row) => row <= i);
  if (number !== album) { $("album").value = `${number}`; choose(number); }
  select(i);
}

// ---- hands ----------------------------------------------------------------------------------------
let played = 0;  // the time of the last picture while it plays
function play(now) {
  if (!played) return;
  const [from, to] = times.map(shareOf), step = Math.min(1 - to, Math.min(100, now - played) / 12000);
  played = now;
  if (to + step >= 1 - 1e-9) stop();
  setTimes(timeAt(from + step), played ? timeAt(to + step) : range[1]);
  requestAnimationFrame(play);
}
function stop() { played = 0; $("play").textContent = "\u25b6 play"; }
$("play").onclick = () => {
  if (played) return stop();
  const [from, to] = times.map(shareOf);
  if (to > 1 - 1 / STEPS) setTimes(range[0], timeAt(Math.min(to - from, 1 / 8)));
  $("play").textContent = "\u25a0 stop";
  played = performance.now();
  requestAnimationFrame(play);
};
for (const id of ["from", "to"]) $(id).addEventListener("input", () => {
  stop();
  setTimes(...["from", "to"].map((one) => timeAt(Number($(one).value) / STEPS)));
});
$("closer").onclick = () => {
  stop();
  if (times[1] - times[0] < 60) return;
  setRange(...times);
};
$("whole").onclick = () => { stop(); allTimes(); };
$("earlier").onclick = () => select(selected - 1);
$("later").onclick = () => select(selected + 1);
$("album").addEventListener("change", () => { stop(); choose(Number($("album").value)); });
D.albums.forEach((name, number) => {
  const anchors = D.anchors[number], told = `${anchors.toLocaleString("en")} anchor${anchors === 1 ? "" : "s"}`;
  $("album").add(new Option(`${visible(name) || "(no name)"}: ${photos(D.photos[number])}, ${told}`, number));
});
$("album").hidden = !D.albums.length;

showTitle();
if (D.subtitle) $("subtitle").append("; ");
$("beside").hidden = !D.geotagged;
resize();
choose(0);
