// The photos of compare.html that moved the farthest, on the map of earth.js.
const N = D.key.length, MAX_SCALE = 4e6, LISTED = 200;
let selected = -1;

// ---- data -----------------------------------------------------------------------------------
const xs = Float64Array.from(C.longitude_after, mercatorX), ys = Float64Array.from(C.latitude_after, mercatorY);
const [low, high] = D.range;
const colourOf = (i) => colourAt(Math.log(Math.max(C.distance_in_radii[i], 1e-6) / low) / Math.log(high / low));
const radii = (value) => `${value.toPrecision(value < 10 ? 2 : 3)} \u00d7`;
const ways = { km: C.distance_km, radii: C.distance_in_radii };
let order = [];

// ---- drawing ------------------------------------------------------------------------------------
function findMarks() {
  const found = [];
  for (const k of worlds()) for (let i = N - 1; i >= 0; i--) {
    const [px, py] = toScreen(xs[i] + k, ys[i]);
    if (px > -30 && py > -30 && px < width + 30 && py < height + 30) found.push({ i, px, py, size: 5 });
  }
  return found;
}
function drawAnswers() {
  paint.lineWidth = 1.2;
  for (const k of worlds(1)) for (let n = order.length - 1; n >= 0; n--) drawWay(order[n], k);
  for (const { i, px, py, size } of shown) {
    paint.fillStyle = colourOf(i); paint.strokeStyle = "#ffffff"; paint.lineWidth = 1;
    paint.beginPath(); paint.arc(px, py, size, 0, 7); paint.fill(); paint.stroke();
  }
  if (selected >= 0) for (const k of worlds(1)) drawSelected(selected, k);
}
function drawWay(i, k) {  // from the place before, a ring, to the place after
  paint.strokeStyle = colourOf(i); paint.globalAlpha = selected < 0 || selected === i ? 0.6 : 0.15;
  paint.beginPath();
  greatCircle(C.latitude_before[i], C.longitude_before[i], C.latitude_after[i], C.longitude_after[i], k);
  paint.stroke();
  const [px, py] = toScreen(mercatorX(C.longitude_before[i]) + k, mercatorY(C.latitude_before[i]));
  paint.beginPath(); paint.arc(px, py, 3, 0, 7); paint.stroke();
  paint.globalAlpha = 1;
}
function drawSelected(i, k) {
  paint.strokeStyle = INK; paint.lineWidth = 1.5; paint.setLineDash([5, 4]);
  circle(C.latitude_before[i], C.longitude_before[i], C.radius_90_km_before[i], k, `${INK}10`);
  paint.setLineDash([]);
  circle(C.latitude_after[i], C.longitude_after[i], C.radius_90_km_after[i], k, `${ANSWER}2e`);
  drawWay(i, k);
}

// ---- the card of a photo ---------------------------------------------------------------------------
function close() { selected = -1; $("detail").hidden = true; redraw(); }
function select(i) {
  selected = i;
  openCard(D.key[i], `shard ${D.shards[i]}`);
  addTable("", [["moved by", km(C.distance_km[i])], ["in 90 % radii before", radii(C.distance_in_radii[i])]]);
  [["before", "ring, dashed"], ["after", "dot, solid"]].forEach(([side, drawn], n) => addTable(`${side} (${drawn})`, [
    ["latitude, longitude", degrees(C[`latitude_${side}`][i], C[`longitude_${side}`][i])],
    ["country", D.countries[n][i] === "none" ? "none" : countryName(D.countries[n][i])],
    ["50 % radius", km(C[`radius_50_km_${side}`][i])],
    ["90 % radius", km(C[`radius_90_km_${side}`][i])],
  ]));
  redraw();
}
function open({ i }) { select(i); }
function show(i) {
  const x = xs[i] + apart(mercatorX(C.longitude_before[i]), xs[i]) / 2, y = (ys[i] + mercatorY(C.latitude_before[i])) / 2;
  const worldKm = EQUATOR_KM * Math.cos(latitudeAt(y) * RAD);
  Object.assign(view, { x, y, scale: 0.35 * Math.min(width, height) * worldKm / Math.max(1, C.distance_km[i]) });
  select(i);
}
function find(wanted) {
  const whole = D.key.indexOf(wanted), i = whole >= 0 ? whole : D.key.findIndex((key) => key.includes(wanted));
  $("found").textContent = i < 0 ? "no key like that is shown here" : "";
  if (i >= 0) show(i);
}
function home() { Object.assign(view, { x: 0.5, y: 0.43, scale: smallest() }); redraw(); }

// ---- hands ----------------------------------------------------------------------------------------
function list() {
  const way = $("way").value;
  order = Array.from({ length: N }, (_, i) => i).sort((a, b) => ways[way][b] - ways[way][a] || a - b);
  $("largest").replaceChildren();
  for (const i of order.slice(0, LISTED)) {
    const button = document.createElement("button"), dot = document.createElement("i");
    dot.style.background = colourOf(i);
    button.append(dot, `${visible(D.key[i])}: ${km(C.distance_km[i])}, ${radii(C.distance_in_radii[i])}`);
    button.onclick = () => show(i);
    $("largest").append(button);
  }
  redraw();
}
showTitle();
document.querySelectorAll("#ends span").forEach((end, i) => { end.textContent = `${i ? "\u2265" : "\u2264"} ${D.range[i]} \u00d7`; });
const summary = document.createElement("table");
for (const [name, value] of D.lines) {
  const line = summary.insertRow();
  for (const cell of [name, value]) line.insertCell().textContent = visible(cell);
}
$("summary").append(summary);
$("way").addEventListener("change", list);
list();
resize();
home();
