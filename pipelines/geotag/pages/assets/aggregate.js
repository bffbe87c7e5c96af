// The areas of aggregate.html, on the map of earth.js.
const N = D.areas.length, MAX_SCALE = 4e6, LISTED = 30;
let selected = -1, chosen = -1;  // an area, and a class of photos; -1 for none, and for all

// ---- data -----------------------------------------------------------------------------------
const [low, high] = D.range;
const expectedOf = (i) => chosen < 0 ? C.expected[i] : C.class_expected[chosen * N + i];
const errorOf = (i) => chosen < 0 ? C.error[i] : C.class_error[chosen * N + i];
const densityOf = (i) => D.per_km2 * expectedOf(i) / C.area_km2[i];
const shade = (i) => within01(Math.log(densityOf(i) / low) / Math.log(high / low));
const paths = Array.from({ length: N }, () => new Path2D());
const boxes = Array.from({ length: N }, () => [Infinity, Infinity, -Infinity, -Infinity]);
const rings = Array.from({ length: N }, () => []);
for (let r = 0, at = 0; r < C.ring_area.length; r++) {
  const i = C.ring_area[r], end = at + C.ring_length[r], box = boxes[i], ring = [];
  for (let first = true; at < end; at++, first = false) {
    const x = mercatorX(C.longitude[at]), y = mercatorY(C.latitude[at]);
    paths[i][first ? "moveTo" : "lineTo"](x, y);
    ring.push([x, y]);
    box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
  }
  paths[i].closePath();
  rings[i].push(ring);
}
let order = [];  // the fullest areas first
function sortAreas() {
  order = Array.from({ length: N }, (_, i) => i).filter((i) => expectedOf(i) > 0);
  order.sort((a, b) => expectedOf(b) - expectedOf(a) || a - b);
}

// ---- drawing ------------------------------------------------------------------------------------
function findMarks() { return []; }
const visibleIn = (i, k) => {
  const [left, top] = toScreen(boxes[i][0] + k, boxes[i][1]), [right, bottom] = toScreen(boxes[i][2] + k, boxes[i][3]);
  return right > 0 && left < width && bottom > 0 && top < height;
};
function drawAnswers() {
  const ratio = window.devicePixelRatio || 1, s = view.scale;
  for (const k of worlds()) {
    const [left, top] = toScreen(k, 0);
    paint.setTransform(ratio * s, 0, 0, ratio * s, ratio * left, ratio * top);
    for (const i of order) {
      if (!visibleIn(i, k)) continue;
      // What holds next to nothing is hardly seen, or the far ends of all photos would colour the seas.
      paint.globalAlpha = 0.1 + 0.7 * Math.sqrt(shade(i));
      paint.fillStyle = colourAt(shade(i));
      paint.fill(paths[i], "evenodd");
    }
    paint.globalAlpha = 1;
    if (selected >= 0) {
      paint.strokeStyle = INK; paint.lineWidth = 2 / s;
      paint.stroke(paths[selected]);
    }
  }
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
}

// ---- the card of an area ---------------------------------------------------------------------------
const count = (value) => value >= 99.95 ? Math.round(value).toLocaleString("en") : value.toPrecision(value >= 1 ? 3 : 2);
function close() { selected = -1; $("detail").hidden = true; redraw(); }
function select(i) {
  selected = i;
  openCard(D.areas[i], `${Math.round(C.area_km2[i]).toLocaleString("en")} km²`);
  addTable("", [
    ["photos expected", count(expectedOf(i))],
    ["standard error", `± ${count(errorOf(i))}`],
    [`per ${D.per_km2.toLocaleString("en")} km²`, count(densityOf(i))],
  ]);
  if (D.classes.length) {
    const most = Math.max(...D.classes.map((_, c) => C.class_expected[c * N + i]));
    addTable(`By ${D.by}`, D.classes.map((name, c) => {
      const value = C.class_expected[c * N + i];
      return [name, most > 0 ? value / most : 0, `${count(value)} ± ${count(C.class_error[c * N + i])}`];
    }).filter((row) => row[1] > 0).slice(0, LISTED));
  }
  redraw();
}
function open({ area }) { select(area); }
function holds(i, x, y) {
  if (x < boxes[i][0] || x > boxes[i][2] || y < boxes[i][1] || y > boxes[i][3]) return false;
  let inside = false;
  for (const ring of rings[i]) for (let a = 0, b = ring.length - 1; a < ring.length; b = a++) {
    const [ax, ay] = ring[a], [bx, by] = ring[b];
    if ((ay > y) !== (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}
function areaAt(px, py) {
  const x = (px - width / 2) / view.scale + view.x, y = (py - height / 2) / view.scale + view.y;
  const found = order.find((i) => holds(i, x - Math.floor(x), y));
  return found === undefined ? null : { area: found };
}
nearest = areaAt;  // of earth.js: areas are clicked, not marks
function show(i) {
  const [west, north, east, south] = boxes[i], span = Math.max((east - west) / width, (south - north) / height, 1e-9);
  Object.assign(view, { x: (west + east) / 2, y: (north + south) / 2, scale: 0.3 / span });
  select(i);
}
function find(wanted) {
  const low = wanted.toLowerCase(), whole = D.areas.findIndex((name) => name.toLowerCase() === low);
  const i = whole >= 0 ? whole : D.areas.findIndex((name) => name.toLowerCase().includes(low));
  $("found").textContent = i < 0 ? "no area like that is drawn here" : "";
  if (i >= 0) show(i);
}
function home() { Object.assign(view, { x: 0.5, y: 0.43, scale: smallest() }); redraw(); }

// ---- hands ----------------------------------------------------------------------------------------
function listAreas() {
  $("largest").replaceChildren();
  for (const i of order.slice(0, LISTED)) {
    const button = document.createElement("button"), dot = document.createElement("i");
    dot.style.background = colourAt(shade(i));
    button.append(dot, `${visible(D.areas[i])}: ${count(expectedOf(i))} ± ${count(errorOf(i))}`);
    button.onclick = () => show(i);
    $("largest").append(button);
  }
}
function choose() {
  chosen = Number($("class").value);
  sortAreas(); listAreas();
  if (selected >= 0) select(selected);
  redraw();
}
showTitle();
document.querySelectorAll("#ends span").forEach((end, i) => { end.textContent = `${i ? "" : "≤ "}${count(D.range[i])}`; });
$("unit").textContent = `Photos expected per ${D.per_km2.toLocaleString("en")} km²`;
[`all photos`, ...D.classes.map((name, c) => `${visible(name)} (${photos(D.photos[c])})`)].forEach((name, c) => {
  const option = document.createElement("option");
  option.value = c - 1; option.textContent = name;
  $("class").append(option);
});
$("class").hidden = !D.classes.length;
$("class").addEventListener("change", choose);
choose();
resize();
home();
