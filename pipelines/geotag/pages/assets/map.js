// The photos of map.html, on the map of earth.js.
const N = D.key.length, MAX_SCALE = 4e6, LISTED = 100, NEAR_PX = 30;
let selected = -1;

// ---- data -----------------------------------------------------------------------------------
const thumbnails = new Map(D.thumbnails);
const xs = Float64Array.from(C.longitude, mercatorX), ys = Float64Array.from(C.latitude, mercatorY);
const firstMode = new Uint32Array(N + 1);
for (let i = 0; i < N; i++) firstMode[i + 1] = firstMode[i] + C.mode_count[i];

const doubt = Float32Array.from(C.radius_90_km, (km) => Math.log(Math.max(km, 1e-6) / lowKm) / Math.log(highKm / lowKm));
const strange = (i) => C.unfamiliar[i] === 1;  // unlike the photos that the checkpoint is for
const colourOf = (i) => strange(i) ? D.colours.strange : colourAt(doubt[i]);
const bySurety = Uint32Array.from(doubt.keys()).sort((a, b) => doubt[a] - doubt[b] || a - b);

// ---- groups: per zoom level, photos nearer than NEAR_PX to a more certain one join it ----------
let most = Infinity;  // only photos with at most this doubt are shown
let period = null;  // and, of a period, those with a time within it: seconds of wall clocks
const timed = Float64Array.from(C.captured_at).filter((t) => !Number.isNaN(t)).sort();
const inPeriod = (i) => !period || (C.captured_at[i] >= period[0] && C.captured_at[i] <= period[1]);
const levels = new Map();
const levelAt = (scale) => Math.floor(2 * Math.log2(scale / 256));
function groupsAt(level) {
  if (!levels.has(level)) levels.set(level, grouped(NEAR_PX / (256 * 2 ** (level / 2))));
  return levels.get(level);
}
function grouped(radius) {
  const across = Math.max(3, Math.floor(1 / radius)), mask = 2 ** Math.ceil(Math.log2(N + 2)) - 1;
  // Cells share buckets by their hash: what comes from elsewhere is too far away to matter.
  const buckets = new Int32Array(mask + 1).fill(-1), later = new Int32Array(N);
  const level = {
    size: 0, owner: new Int32Array(N).fill(-1), lead: new Int32Array(N), count: new Int32Array(N),
    x: new Float64Array(N), y: new Float64Array(N), doubt: new Float64Array(N),
    strange: new Float64Array(N),
  };
  for (const i of bySurety) {
    if (doubt[i] > most) break;
    if (!inPeriod(i)) continue;
    const x = xs[i], y = ys[i], column = Math.floor(x * across), row = Math.floor(y * across);
    let best = -1, closest = radius * radius;
    for (let dr = -1; dr <= 1; dr++) for (let dc = -1; dc <= 1; dc++) {
      for (let g = buckets[bucket(row + dr, (column + dc + across) % across, mask)]; g >= 0; g = later[g]) {
        const dx = apart(x, xs[level.lead[g]]), dy = y - ys[level.lead[g]], d = dx * dx + dy * dy;
        if (d < closest) { closest = d; best = g; }
      }
    }
    if (best < 0) {
      best = level.size++;
      const cell = bucket(row, column % across, mask);
      level.lead[best] = i; later[best] = buckets[cell]; buckets[cell] = best;
    }
    level.owner[i] = best;
    level.count[best]++;  // sums here, means below
    level.x[best] += apart(x, xs[level.lead[best]]); level.y[best] += y; level.doubt[best] += within01(doubt[i]);
    level.strange[best] += strange(i);
  }
  for (let g = 0; g < level.size; g++) {
    level.x[g] = xs[level.lead[g]] + level.x[g] / level.count[g];
    level.y[g] /= level.count[g]; level.doubt[g] /= level.count[g]; level.strange[g] /= level.count[g];
  }
  return level;
}
const bucket = (row, column, mask) => (Math.imul(row, 73856093) ^ Math.imul(column, 19349663)) & mask;
const groupSize = (count) => 9 + 4 * Math.log10(count);

// ---- drawing ------------------------------------------------------------------------------------
function drawAnswers() {
  if (selected >= 0) for (const k of worlds(1)) drawRadii(selected, k);
  drawMarks();
  if (selected >= 0) for (const k of worlds(1)) drawSelected(selected, k);
}
function findMarks() {
  const found = [];
  const single = Math.max(4, Math.min(7, 3 + Math.log2(view.scale / 256) / 2));
  const level = groupsAt(levelAt(view.scale));
  for (const k of worlds()) for (let g = level.size - 1; g >= 0; g--) {
    const px = (level.x[g] + k - view.x) * view.scale + width / 2, py = (level.y[g] - view.y) * view.scale + height / 2;
    if (px < -30 || py < -30 || px > width + 30 || py > height + 30) continue;
    const count = level.count[g], size = count > 1 ? groupSize(count) : single;
    found.push({ level, g, px, py, size, count, lead: level.lead[g], doubt: level.doubt[g], grey: level.strange[g] > 0.5 });
  }
  return found;
}
function drawMarks() {
  paint.font = "600 11px system-ui, sans-serif"; paint.lineWidth = 1.2;
  for (const { px, py, size, count, doubt: mean, grey } of shown) {
    paint.fillStyle = grey ? D.colours.strange : colourAt(mean);
    if (count > 1) {
      paint.globalAlpha = 0.3; paint.beginPath(); paint.arc(px, py, size + 3, 0, 7); paint.fill();
    }
    paint.globalAlpha = 0.92; paint.strokeStyle = "#ffffff";
    paint.beginPath(); paint.arc(px, py, size, 0, 7); paint.fill(); paint.stroke();
    paint.globalAlpha = 1;
    if (count > 1) {
      paint.fillStyle = mean > 0.62 ? INK : "#ffffff";
      paint.fillText(brief(count), px, py + 0.5);
    }
  }
}
function drawRadii(i, k) {
  paint.strokeStyle = INK; paint.lineWidth = 1.5; paint.setLineDash([5, 4]);
  circle(C.latitude[i], C.longitude[i], C.radius_90_km[i], k, `${ANSWER}1f`);
  paint.setLineDash([]);
  circle(C.latitude[i], C.longitude[i], C.radius_50_km[i], k, `${ANSWER}2e`);
}
function drawSelected(i, k) {
  const [px, py] = toScreen(xs[i] + k, ys[i]);
  paint.strokeStyle = INK; paint.fillStyle = INK; paint.lineWidth = 1.5; paint.font = "600 11px system-ui, sans-serif";
  for (let m = firstMode[i] + 1; m < firstMode[i + 1]; m++) {  // the first is the point itself
    const [mx, my] = toScreen(mercatorX(C.mode_longitude[m]) + k, mercatorY(C.mode_latitude[m]));
    paint.fillStyle = "#ffffffd9"; paint.beginPath(); paint.arc(mx, my, 9, 0, 7); paint.fill(); paint.stroke();
    paint.fillStyle = INK; paint.fillText(`${m - firstMode[i] + 1}`, mx, my + 0.5);
  }
  if (C.known_kind[i]) {
    paint.strokeStyle = TRUE; paint.lineWidth = 2; paint.beginPath();
    const end = greatCircle(C.latitude[i], C.longitude[i], C.known_latitude[i], C.known_longitude[i], k);
    const [tx, ty] = toScreen(end + k, mercatorY(C.known_latitude[i]));
    for (const [dx, dy] of [[6, 6], [6, -6]]) { paint.moveTo(tx - dx, ty - dy); paint.lineTo(tx + dx, ty + dy); }
    paint.stroke();
  }
  paint.fillStyle = colourOf(i); paint.strokeStyle = "#ffffff"; paint.lineWidth = 2.5;
  paint.beginPath(); paint.arc(px, py, 8, 0, 7); paint.fill(); paint.stroke();
}

// ---- the card of a photo or of a group ------------------------------------------------------------
const decimals = (i) => decimalsFor(C.radius_50_km[i]);
const brief = (n) => n < 1000 ? `${n}` : `${(n / 1000).toFixed(n < 9950 ? 1 : 0)}k`;
function close() { selected = -1; $("detail").hidden = true; redraw(); }
function facts(i) {
  const rows = [
    ["latitude, longitude", degrees(C.latitude[i], C.longitude[i], decimals(i))],
    ["country", C.country[i] ? countryName(D.countries[C.country[i] - 1]) + (C.country_nearest[i] ? " (nearest coast)" : "") : "none"],
  ];
  if (C.unit[i]) rows.push(["unit", D.units[C.unit[i] - 1]]);
  if (C.land_probability.length) rows.push(["on land", percent(C.land_probability[i])]);
  if (C.information_nats.length) rows.push(["information", `${C.information_nats[i].toFixed(1)} nats`]);
  if (C.familiarity.length) rows.push(["familiarity", `${percent(C.familiarity[i])}${strange(i) ? ": unlike (grey)" : ""}`]);
  if (C.captured_at.length && !Number.isNaN(C.captured_at[i])) rows.push(["taken", clock(i)]);
  rows.push(["50 % radius (solid)", km(C.radius_50_km[i])], ["90 % radius (dashed)", km(C.radius_90_km[i])]);
  if (C.known_kind[i]) {
    const [latitude, longitude] = [C.known_latitude[i], C.known_longitude[i]];
    rows.push([C.known_kind[i] === 1 ? "truth (cross)" : "EXIF position (cross)", degrees(latitude, longitude)]);
    rows.push(["error", km(distanceKm(latitude, longitude, C.latitude[i], C.longitude[i]))]);
  }
  return rows;
}
function select(i) {
  selected = i;
  openCard(D.key[i], `shard ${D.shards[C.shard[i] - 1]}`);
  if (thumbnails.has(i)) {
    $("thumbnail").src = `data:image/jpeg;base64,${thumbnails.get(i)}`;
    $("thumbnail").alt = `small picture of ${visible(D.key[i])}`;
    $("thumbnail").hidden = false;
  }
  addTable("", facts(i));
  addTable("Probability of being within", D.thresholds_km.map((t) => {
    const p = C[`prob_${t}km`][i] / D.unit;
    return [`${t.toLocaleString("en")} km`, p, percent(p)];
  }));
  const modes = [];
  for (let m = firstMode[i]; m < firstMode[i + 1]; m++) modes.push([
    `${m - firstMode[i] + 1}.  ${degrees(C.mode_latitude[m], C.mode_longitude[m], decimals(i))}`,
    percent(C.mode_probability[m] / D.unit),
  ]);
  if (modes.length) addTable(`Probability of being within ${km(C.mode_radius_km[firstMode[i]])} of`, modes);
  uncover(i);
}
function uncover(i) {  // moves the map if the card lies on the photo's place
  const [px, py] = toScreen(xs[i] + Math.round(view.x - xs[i]), ys[i]), card = $("detail").getBoundingClientRect();
  if (px > card.left - 20 && py > card.top - 20) {
    if (card.left > 200) view.x += (px - card.left / 2) / view.scale;
    else view.y += (py - card.top / 2) / view.scale;
  }
  redraw();
}
function listGroup(members) {
  selected = -1;
  redraw();
  openCard(`${photos(members.length)} at this place`, members.length > LISTED ? `the ${LISTED} most certain` : "the most certain first");
  for (const i of members.slice(0, LISTED)) {
    const button = document.createElement("button"), dot = document.createElement("i");
    dot.style.background = colourOf(i);
    button.append(dot, visible(D.key[i]));
    button.onclick = () => select(i);
    $("list").append(button);
  }
}
function open({ level, g, count, lead }) {
  if (count === 1) return select(lead);
  const members = Array.from(bySurety.filter((i) => level.owner[i] === g));
  let spread = 0, dx = [0, 0], dy = [0, 0];
  for (const i of members) {
    const x = apart(xs[i], xs[lead]), y = ys[i] - ys[lead];
    dx = [Math.min(dx[0], x), Math.max(dx[1], x)]; dy = [Math.min(dy[0], y), Math.max(dy[1], y)];
    spread = Math.max(spread, Math.hypot(x, y));
  }
  if (spread * MAX_SCALE < NEAR_PX) return listGroup(members);
  // So near that the group splits, and no nearer than all of it can be seen if that is enough.
  const fit = Math.min(0.6 * width / (dx[1] - dx[0] || 1e-12), 0.6 * height / (dy[1] - dy[0] || 1e-12));
  Object.assign(view, { x: xs[lead] + (dx[0] + dx[1]) / 2, y: ys[lead] + (dy[0] + dy[1]) / 2 });
  view.scale = Math.max(2 * view.scale, fit);
  redraw();
}
function find(wanted) {
  const whole = D.key.indexOf(wanted), i = whole >= 0 ? whole : D.key.findIndex((key) => key.includes(wanted));
  $("found").textContent = i < 0 ? "no key like that is shown here" : "";
  if (i < 0) return;
  // So near that the 90 % radius fills a good part of the window.
  const worldKm = EQUATOR_KM * Math.cos(C.latitude[i] * RAD), radiusKm = Math.max(1, C.radius_90_km[i]);
  Object.assign(view, { x: xs[i], y: ys[i], scale: 0.25 * Math.min(width, height) * worldKm / radiusKm });
  select(i);
}
function home() { Object.assign(view, { x: 0.5, y: 0.43, scale: smallest() }); redraw(); }

// ---- hands ----------------------------------------------------------------------------------------
function filter() {
  const at = Number($("filter").value) / 100;
  most = at === 1 ? Infinity : at;
  period = chosenPeriod();
  levels.clear();
  let count = 0;
  for (const i of bySurety) { if (doubt[i] > most) break; count += inPeriod(i); }
  const taken = period ? `taken ${day(period[0])} to ${day(period[1])}` : "";
  $("filtered").textContent = at === 1 && !taken ? "slide to hide the uncertain" : [
    photos(count), at === 1 ? "" : `with at most ${km(lowKm * (highKm / lowKm) ** at)}`, taken,
  ].filter(Boolean).join(" ");
  redraw();
}
function chosenPeriod() {  // equal ways of a slider are equal numbers of photos; null is all of them
  const [a, b] = ["from", "to"].map((end) => Number($(end).value) / 1000), last = timed.length - 1;
  if (last < 1 || Math.abs(a - b) === 1) return null;
  return [timed[Math.floor(Math.min(a, b) * last)], timed[Math.ceil(Math.max(a, b) * last)]];
}
const day = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 10);
for (const slider of ["filter", "from", "to"]) $(slider).addEventListener("input", filter);
$("times").hidden = timed.length < 2 || timed[0] === timed[timed.length - 1];

showTitle();
$("purpose").textContent = D.purpose;
$("purpose").hidden = !D.purpose;
$("warning").textContent = D.warning;
$("warning").hidden = !D.warning;
filter();
resize();
home();
