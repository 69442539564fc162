// The page's state (kept after the # of its address), its controls, the table of classes, and the cards of the images.

const DATA = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const SIDE = 224; // pixels of a drawn map
const DEFAULTS = { left: "0", right: String(DATA.opening), scale: "pair", colours: "viridis", show: "over", opacity: "75",
  text: "", flip: "all", rule: "all", sort: "change", table: String(DATA.opening), by: "", order: "ascending", image: "" };
let state = { ...DEFAULTS };

function make(tag, { text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}
const options = (select, entries) => select.append(...entries.map(([value, text]) => make("option", { value, text })));
const plain = name => name?.replace(/^n\d{8} (?=.)/, "") ?? ""; // without WordNet's number, where a readable name follows
const fixed = (value, digits = 2) => Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "undefined";
function signed(value, digits = 2) {
  if (!Number.isFinite(value)) return "undefined";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) > 0 ? "−" : "+") + text;
}
const short = value => value === 0 ? "0" : value >= 1e4 || value < 1e-2 ? value.toExponential(1) : value.toPrecision(3);

const byName = (a, b) => a < b ? -1 : a > b ? 1 : 0;

// ---- the address

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = Object.keys(DEFAULTS).filter(key => given.has(key) && isAllowed(key, given.get(key)));
  state = { ...DEFAULTS, ...Object.fromEntries(known.map(key => [key, given.get(key)])) };
}
function isAllowed(key, value) {
  if (["left", "right", "table"].includes(key)) return /^\d+$/.test(value) && Number(value) < DATA.views.length;
  if (key === "image") return /^\d+$/.test(value) && Number(value) < DATA.examples.length;
  if (key === "opacity") return /^\d+$/.test(value) && Number(value) <= 100;
  if (key === "order") return ["ascending", "descending"].includes(value);
  if (key === "by") return [...document.querySelectorAll("#classes [data-key]")].some(head => head.dataset.key === value);
  const control = at(key);
  return !(control instanceof HTMLSelectElement) || [...control.options].some(option => option.value === value);
}
function writeAddress() {
  const changed = new URLSearchParams(Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key])).toString();
  try {
    history.replaceState(null, "", "#" + changed);
  } catch {
    location.hash = changed; // some browsers forbid the former for files
  }
}

// ---- views: a run at a quality

const runOf = view => DATA.runs.findIndex(run => run.views.includes(view));
const qualityOf = view => DATA.runs[runOf(view)].views.indexOf(view);
function choose(side) {
  const run = DATA.runs[Number(at(side + "-run").value)], view = run.views[Number(at(side + "-quality").value)];
  change({ [side]: String(view >= 0 ? view : run.views.find(other => other >= 0)) });
}
function prepareViews() {
  for (const side of ["left", "right"]) {
    options(at(side + "-run"), DATA.runs.map((run, k) => [k, run.name]));
    options(at(side + "-quality"), DATA.qualities.map((quality, k) => [k, quality]));
    at(side + "-run").hidden = DATA.runs.length < 2;
    at(side + "-run").onchange = at(side + "-quality").onchange = () => choose(side);
  }
}

// ---- the table of classes

const COLUMNS = {
  name: row => row.name, images: row => row.images, before: row => row.right[0] / row.images,
  after: (row, view) => row.right[view] / row.images, difference: (row, view) => (row.right[view] - row.right[0]) / row.images,
  flips: (row, view) => row.flips[view], pearson: (row, view) => row.pearson[view] ?? NaN,
};
const PRINTED = {
  name: name => name, images: String, flips: String, before: share => fixed(100 * share, 1), after: share => fixed(100 * share, 1),
  difference: share => signed(100 * share, 1), pearson: mean => Number.isFinite(mean) ? mean.toFixed(2) : "–",
};
// Undefined values come last, in either order.
function compare(a, b, descending) {
  const [x, y] = [a, b].map(value => typeof value === "number" && Number.isNaN(value));
  if (x || y) return x - y;
  return (typeof a === "string" ? byName(a, b) : a - b) * (descending ? -1 : 1);
}
function prepareTable() {
  if (!at("classes")) return;
  at("classes-control").hidden = DATA.views.length < 2;
  options(at("table-view"), DATA.views.map((name, view) => [view, name]).slice(1));
  at("table-view").onchange = event => change({ table: event.target.value });
  for (const head of document.querySelectorAll("#classes [data-key]")) {
    const button = make("button", { type: "button", text: head.textContent });
    button.onclick = () => {
      const again = state.by === head.dataset.key && state.order === "ascending";
      change({ by: head.dataset.key, order: again ? "descending" : "ascending" });
    };
    head.replaceChildren(button);
  }
}
function showTable() {
  if (!at("classes")) return;
  if (state.by || state.table !== DEFAULTS.table) at("classes-fold").open = true; // a link may lead to it
  const view = Number(state.table), heads = [...document.querySelectorAll("#classes [data-key]")];
  at("table-view").value = state.table;
  at("table-name").textContent = DATA.views[view];
  for (const head of heads) head.setAttribute("aria-sort", head.dataset.key === state.by ? state.order : "none");
  const value = (row, key) => COLUMNS[key](row, view), rows = [...DATA.rows];
  if (state.by) rows.sort((a, b) => compare(value(a, state.by), value(b, state.by), state.order === "descending") || byName(a.name, b.name));
  at("classes").tBodies[0].replaceChildren(...rows.map(row => make("tr", {}, ...heads.map(({ dataset: { key } }) =>
    make(key === "name" ? "th" : "td", { ...(key === "name" && { scope: "row" }), text: PRINTED[key](value(row, key)) })))));
}

// ---- cards

const cards = DATA.examples.map((example, index) => prepareCard(example, index));
let shown = cards;

function prepareCard(example, index) {
  const element = at("image-" + index), panels = element.querySelector(".panels"), left = panels.firstElementChild;
  const card = { element, example, index, image: left.querySelector("img"), maps: [], canvases: {}, captions: {}, changes: new Map(), turn: 0, near: false };
  for (const name of ["left", "right", "error", "left-map", "right-map", "difference"]) {
    const canvas = make("canvas", { width: 0, height: 0 });
    canvas.setAttribute("role", "img");
    card.canvases[name] = canvas;
    if (name === "left") { left.firstElementChild.append(canvas); card.captions.left = left.querySelector("figcaption"); continue; }
    card.captions[name] = make("figcaption");
    panels.append(make("figure", { className: name }, make("div", { className: "stack" }, canvas), card.captions[name]));
  }
  element.tabIndex = index === 0 ? 0 : -1;
  element.addEventListener("focus", () => makeCurrent(card));
  return card;
}
const mapOf = (card, view) => card.maps[view] ??= unpackMap(card.example.predictions[view].cam, card.example.predictions[view].peak);
const likeliest = (card, view) => card.example.predictions[view].top[0]?.[0];
const pair = () => [Number(state.left), Number(state.right)];
function outcome(card) {
  const [left, right] = pair().map(view => likeliest(card, view)), truth = card.example.truth;
  return { changed: left !== right, lost: truth >= 0 && left === truth && right !== truth, gained: truth >= 0 && left !== truth && right === truth };
}
const correlationOf = card => correlation(...pair().map(view => mapOf(card, view)));
// As ``example_selection.changes``: -1 if just one of the maps is zero everywhere, 1 if both are or a map is constant.
function similarity(card) {
  const r = correlationOf(card), [left, right] = pair().map(view => card.example.predictions[view].peak > 0);
  return Number.isNaN(r) ? (left === right ? 1 : -1) : r;
}

// A bar of a table's colours between the values at its ends.
const bar = (low, table, high) => make("div", { className: "range soft" }, make("span", { text: low }),
  make("i", { style: `background: linear-gradient(90deg, ${colourStops(table)})` }), make("span", { text: high }));
function caption(card, view) {
  const prediction = card.example.predictions[view];
  const lines = [make("b", { text: DATA.views[view] }), make("div", { className: "soft", text: "logit " + signed(prediction.logit ?? NaN) })];
  if (card.example.converted && DATA.qualities[qualityOf(view)] === "source") lines.push(make("div", { className: "soft", text: DATA.converted }));
  if (DATA.own) lines.push(make("div", { className: "soft", text: "explains " + plain(DATA.classes[prediction.target]) }));
  lines.push(make("ol", { className: "likeliest" }, ...prediction.top.map(([name, share]) => make("li", {},
    make("span", { text: plain(DATA.classes[name]), title: DATA.classes[name] }), " ", make("span", { text: fixed(100 * share, 1) + " %" })))));
  return lines;
}
function describe(card) {
  const [left, right] = pair(), { example, captions, canvases } = card, { predictions } = example, r = correlationOf(card), end = scaleOf(card);
  const { changed, lost, gained } = outcome(card), names = [left, right].map(view => DATA.views[view]), known = example.truth >= 0;
  const line = card.element.querySelector(".pair");
  line.replaceChildren(make("span", { className: "soft", text: `maps r ${fixed(r)}, logit ${signed(predictions[right].logit - predictions[left].logit)} ` }));
  const kept = !known ? "prediction kept" : likeliest(card, left) === example.truth ? "right in both" : "wrong in both";
  if (left !== right) line.append(make("span", { className: "tag" + (gained ? " gained" : changed ? " changed" : ""),
    text: lost ? "lost" : gained ? "gained" : changed ? "prediction changes" : kept }));
  captions.left.replaceChildren(...caption(card, left));
  captions.right.replaceChildren(...caption(card, right));
  const [first, second] = [left, right].map(qualityOf), rms = example.rms[Math.max(first, second)][Math.min(first, second)];
  captions.error.replaceChildren(make("b", { text: "error ×8" }), make("div", { className: "soft", text: first === second
    ? "the same quality: none" : `${DATA.qualities[second]} − ${DATA.qualities[first]}, rms ${fixed(rms, 1)} levels` }), bar("−16", "grey", "+16 levels"));
  for (const [name, k] of [["left-map", 0], ["right-map", 1]]) {
    captions[name].replaceChildren(make("b", { text: `map, ${names[k]}` }), make("div", { className: "soft", text: `0 to ${short(end[k])}, peak ${short(predictions[pair()[k]].peak)}` }), bar("0", state.colours, short(end[k])));
    canvases[name].setAttribute("aria-label", `Grad-CAM map of ${example.name} in ${names[k]}, colours from 0 to ${short(end[k])}`);
  }
  const peak = Math.max(...[left, right].map(view => predictions[view].peak)), largest = Math.max(...differenceOf(card).map(Math.abs));
  captions.difference.replaceChildren(make("b", { text: "right − left map" }), make("div", { className: "soft", text: largest === 0
    ? "none: the maps are equal" : `on ${differenceScale()}, largest ${short(largest)}: ${fixed(100 * largest / peak, largest < peak / 10 ? 1 : 0)} % of the peak` }),
  bar("−" + short(end[2]), "signed", "+" + short(end[2])));
  canvases.left.setAttribute("aria-label", `${example.name} in ${names[0]}`);
  canvases.right.setAttribute("aria-label", `${example.name} in ${names[1]}`);
  canvases.error.setAttribute("aria-label", `eight times the difference between the two pictures of ${example.name}`);
  canvases.difference.setAttribute("aria-label", `difference of the two maps of ${example.name}, correlation ${fixed(r)}`);
}

// The ends of the colours for the left map, the right one and their difference, which is mostly much smaller than the maps.
function scaleOf(card) {
  if (state.scale === "gallery") return galleryScale();
  const peaks = pair().map(view => card.example.predictions[view].peak), own = Math.max(...differenceOf(card).map(Math.abs));
  return state.scale === "own" ? [...peaks, own] : [Math.max(...peaks), Math.max(...peaks), own];
}
let ofGallery = { views: "", ends: [] };
function galleryScale() {
  const views = pair().join(" ");
  if (ofGallery.views !== views) {
    const peaks = cards.flatMap(card => pair().map(view => card.example.predictions[view].peak));
    const end = Math.max(...peaks), own = Math.max(...cards.map(card => Math.max(...differenceOf(card).map(Math.abs))));
    ofGallery = { views, ends: [end, end, own] };
  }
  return ofGallery.ends;
}
const differenceScale = () => state.scale === "gallery" ? "one scale for all images" : "its own scale";
function differenceOf(card) {
  const [left, right] = pair().map(view => mapOf(card, view));
  return right.map((cell, k) => cell - left[k]);
}

// ---- drawing: only the cards near the visible part of the page hold pixels

async function changeAt(card, quality) {
  if (quality === 0) return null;
  if (!card.changes.has(quality)) card.changes.set(quality, changeOf(card.example.changes[quality - 1]));
  return card.changes.get(quality);
}
function put(canvas, pixels) {
  canvas.width = pixels.width; canvas.height = pixels.height;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
const layer = document.createElement("canvas");
function putMap(canvas, picture, cells, end, table, isSigned) {
  const over = state.show === "over", context = canvas.getContext("2d");
  canvas.width = canvas.height = SIDE;
  put(layer, grey(picture));
  if (over) context.drawImage(layer, 0, 0, SIDE, SIDE);
  put(layer, paintMap(cells, DATA.grid, SIDE, end, TABLES[table], isSigned, over));
  context.globalAlpha = over ? Number(state.opacity) / 100 : 1;
  context.drawImage(layer, 0, 0);
}
async function draw(card) {
  const turn = ++card.turn, views = pair(), [first, second] = views.map(qualityOf), { canvases } = card;
  card.image.loading = "eager";
  card.clean ??= pixelsOf(card.image);
  const [clean, left, right] = await Promise.all([card.clean, changeAt(card, first), changeAt(card, second)]);
  if (turn !== card.turn) return;
  const ends = scaleOf(card);
  const pictures = [plus(clean, left), plus(clean, right)];
  put(canvases.left, pictures[0]);
  put(canvases.right, pictures[1]);
  put(canvases.error, errorPicture(left, right, clean.width, clean.height));
  putMap(canvases["left-map"], pictures[0], mapOf(card, views[0]), ends[0], state.colours, false);
  putMap(canvases["right-map"], pictures[1], mapOf(card, views[1]), ends[1], state.colours, false);
  putMap(canvases.difference, pictures[0], differenceOf(card), ends[2], "signed", true);
  card.element.dataset.drawn = views.join(" ");
}
function release(card) {
  card.turn++; card.clean = undefined; card.changes.clear();
  delete card.element.dataset.drawn;
  for (const canvas of Object.values(card.canvases)) canvas.width = canvas.height = 0;
}
const watcher = new IntersectionObserver(entries => entries.forEach(entry => {
  const card = cards[Number(entry.target.id.slice("image-".length))];
  card.near = entry.isIntersecting;
  if (card.near) draw(card); else release(card);
}), { rootMargin: "600px" });

// ---- filters, order, and the current card, from which the keys move

function isShown(card) {
  const { example } = card, wanted = state.text.trim().toLowerCase();
  const texts = () => [example.name, ...[example.truth, example.predictions[0].target, ...pair().map(view => likeliest(card, view))].map(label => DATA.classes[label] ?? "")];
  return (state.flip === "all" || outcome(card)[state.flip]) && (state.rule === "all" || example.rules.includes(state.rule)) &&
    (!wanted || texts().some(text => text.toLowerCase().includes(wanted)));
}
function ordered(kept) {
  const name = card => card.example.name, label = card => DATA.classes[card.example.truth >= 0 ? card.example.truth : card.example.predictions[0].target] ?? "";
  const similarities = new Map(kept.map(card => [card, similarity(card)]));
  const orders = {
    change: (a, b) => similarities.get(a) - similarities.get(b),
    name: () => 0,
    class: (a, b) => byName(label(a), label(b)),
  };
  return [...kept].sort((a, b) => orders[state.sort](a, b) || byName(name(a), name(b)));
}
function showCards() {
  const kept = new Set(cards.filter(isShown)), focused = document.activeElement;
  shown = ordered([...kept]);
  for (const card of cards) card.element.hidden = !kept.has(card);
  at("gallery").append(...shown.map(card => card.element)); // the hidden ones come before them
  if (focused !== document.body) focused.focus({ preventScroll: true });
  at("count").textContent = `${shown.length} of ${cards.length} shown`;
  const current = shown.find(card => String(card.index) === state.image) ?? shown[0];
  if (current) makeCurrent(current, false);
}
function makeCurrent(card, inAddress = true) {
  for (const other of cards) other.element.tabIndex = other === card ? 0 : -1;
  if (inAddress && state.image !== String(card.index)) { state.image = String(card.index); writeAddress(); }
}
function go(step) {
  if (!shown.length) return;
  const inside = document.activeElement.closest?.("article"), place = shown.findIndex(card => card.element === inside);
  const current = place >= 0 ? place + step : shown.findIndex(card => card.element.tabIndex === 0);
  const { element } = shown[Math.min(shown.length - 1, Math.max(0, current))];
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "start" });
}
document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, .scroll")) return;
  const letters = { j: 1, k: -1 }, arrows = event.target.closest("article") ? { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 } : {};
  const step = letters[event.key] ?? arrows[event.key];
  if (step) { event.preventDefault(); go(step); }
});

// ---- the page follows the state

function legend(canvas, table) {
  const row = new ImageData(256, 1);
  for (let k = 0; k < 256; k++) row.data.set([...TABLES[table].subarray(3 * k, 3 * k + 3), 255], 4 * k);
  canvas.getContext("2d").putImageData(row, 0, 0);
}
function showControls() {
  for (const side of ["left", "right"]) {
    at(side + "-run").value = runOf(Number(state[side]));
    at(side + "-quality").value = qualityOf(Number(state[side]));
  }
  for (const key of ["scale", "colours", "show", "opacity", "flip", "rule", "sort"]) at(key).value = state[key];
  if (at("text").value !== state.text) at("text").value = state.text;
  at("opacity").disabled = state.show === "alone";
  legend(at("heat"), state.colours);
  legend(at("signed"), "signed");
  legend(at("grey"), "grey");
  at("signed-scale").textContent = differenceScale();
  const ends = { pair: "largest of the pair", own: "largest of each map", gallery: () => short(galleryScale()[0]) }[state.scale];
  at("heat-high").textContent = typeof ends === "string" ? ends : cards.length ? ends() : "";
}
// Update the maps, and the table and the cards if they are affected.
function show(affected) {
  showControls();
  if (affected.table) showTable();
  if (affected.cards) showCards();
  cards.forEach(describe);
  cards.filter(card => card.near).forEach(draw);
}
const AFFECTS = { table: "table", by: "table", order: "table", text: "cards", flip: "cards", rule: "cards", sort: "cards", left: "cards", right: "cards" };
function change(changes) {
  state = { ...state, ...changes };
  writeAddress();
  const affected = new Set(Object.keys(changes).map(key => AFFECTS[key] ?? "maps"));
  if (affected.size === 1 && affected.has("table")) { showTable(); return; }
  show({ table: affected.has("table"), cards: affected.has("cards") });
}
function start() {
  readAddress();
  show({ table: true, cards: true });
  const card = cards[state.image === "" ? -1 : Number(state.image)];
  if (card && !card.element.hidden) { makeCurrent(card, false); card.element.scrollIntoView({ block: "start" }); }
}

prepareViews();
prepareTable();
const rules = [...new Set(DATA.examples.flatMap(example => example.rules))];
options(at("rule"), rules.map(rule => [rule, ["lost", "gained", "flipped"].includes(rule) ? rule + " in any view" : rule]));
options(at("class-names"), [...new Set(DATA.examples.map(example => DATA.classes[example.truth] ?? DATA.classes[example.predictions[0].target]))].sort().map(name => [name, name]));
for (const key of ["scale", "colours", "show", "flip", "rule", "sort"]) at(key).onchange = event => change({ [key]: event.target.value });
for (const key of ["opacity", "text"]) at(key).oninput = event => change({ [key]: event.target.value });
at("swap").onclick = () => change({ left: state.right, right: state.left });
at("reset").onclick = () => change({ ...DEFAULTS });
at("print").onclick = async () => { await Promise.all(shown.map(draw)); print(); };
at("controls").onsubmit = event => event.preventDefault();
at("controls").hidden = false;
addEventListener("hashchange", start);
start();
cards.forEach(card => watcher.observe(card.element));
