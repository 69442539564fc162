"use strict";
// Every article gets a stage: the source, over it the chosen JPEG or its error, clipped at a line. Both sides lie in panes that
// read the same zoom and position, so they cannot be out of step. Without this script the pictures stay side by side.
const STEP = 32; // CSS pixels that an arrow key moves a picture
const form = document.querySelector(".bar");
const AMPLIFIED = Number(form.dataset.amplified);
const chosen = (name) => form.elements[name].value;
const stages = [];

function element(tag, name, attributes = {}) {
  const node = document.createElement(tag);
  node.className = name;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function build(article) {
  const title = article.querySelector("h3").textContent;
  const stage = element("div", "stage", { tabindex: "0", role: "group", "aria-label": title });
  const left = element("div", "pane left"), right = element("div", "pane right");
  const shots = article.querySelector(".shots");
  const images = [...shots.querySelectorAll("img")];
  left.append(images[0]);
  right.append(...images.slice(1));
  const canvas = element("canvas", "", { role: "img" });
  canvas.hidden = true;
  right.append(canvas);
  const divider = element("div", "divider", { role: "slider", tabindex: "0", "aria-label": `divider of ${title}`,
    "aria-orientation": "horizontal", "aria-valuemin": "0", "aria-valuemax": "100" });
  const tag = element("span", "tag right"), own = element("span", "tag left");
  own.textContent = "source";
  stage.append(left, right, own, tag, divider);
  shots.replaceWith(stage);
  const view = { article, stage, images, canvas, divider, tag, at: 50, x: 0, y: 0, zoom: 1, half: null, drawn: "", near: false };
  stage.addEventListener("pointerdown", (event) => grab(view, event));
  divider.addEventListener("keydown", (event) => slide(view, event));
  stage.addEventListener("keydown", (event) => event.target === stage && pan(view, event));
  return view;
}

// ---- the divider and the position

function place(view) {
  view.stage.style.setProperty("--at", `${view.at}%`);
  view.divider.setAttribute("aria-valuenow", String(Math.round(view.at)));
  view.divider.setAttribute("aria-valuetext", `source on the left ${Math.round(view.at)} %`);
}

function move(view, x, y) {
  const { stage, zoom } = view;
  view.half = [stage.clientWidth / 2, stage.clientHeight / 2];
  view.x = Math.round(Math.min(0, Math.max(stage.clientWidth - view.w * zoom, x)));
  view.y = Math.round(Math.min(0, Math.max(stage.clientHeight - view.h * zoom, y)));
  stage.style.setProperty("--x", `${view.x}px`);
  stage.style.setProperty("--y", `${view.y}px`);
  const wide = view.w * zoom > stage.clientWidth + 1, tall = view.h * zoom > stage.clientHeight + 1;
  stage.classList.toggle("pans", wide || tall);
  stage.classList.toggle("pans-down", tall); // else a finger that moves up or down scrolls the page
}

function grab(view, event) {
  if (event.button) return;
  const { stage } = view;
  const box = stage.getBoundingClientRect();
  const pans = stage.classList.contains("pans") && event.target !== view.divider;
  const from = { x: view.x - event.clientX, y: view.y - event.clientY };
  const drag = (now) => {
    if (pans) return move(view, from.x + now.clientX, from.y + now.clientY);
    view.at = Math.min(100, Math.max(0, (100 * (now.clientX - box.left)) / box.width));
    place(view);
  };
  const end = () => {
    stage.removeEventListener("pointermove", drag);
    for (const name of ["pointerup", "pointercancel"]) stage.removeEventListener(name, end);
  };
  stage.setPointerCapture(event.pointerId);
  stage.addEventListener("pointermove", drag);
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, end);
  if (!pans && event.pointerType === "mouse") drag(event);
}

function slide(view, event) {
  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
  if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  view.at = Math.min(100, Math.max(0, view.at + steps[event.key]));
  place(view);
}

function pan(view, event) {
  const steps = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  if (!(event.key in steps) || !view.stage.classList.contains("pans")) return;
  event.preventDefault();
  const [x, y] = steps[event.key];
  move(view, view.x + STEP * x, view.y + STEP * y);
}

// ---- what the right side shows

function show(view) {
  const quality = chosen("quality"), error = chosen("view") === "error";
  for (const image of view.images.slice(1)) image.hidden = error || image.dataset.quality !== quality;
  view.canvas.hidden = !error;
  view.tag.textContent = error ? `error ×${AMPLIFIED} at ${quality}` : quality;
  for (const row of view.article.querySelectorAll("tr[data-quality]")) row.classList.toggle("now", row.dataset.quality === quality);
  if (error && view.near) draw(view, quality);
}

async function draw(view, quality) {
  if (view.drawn === quality) return;
  view.drawn = quality;
  const second = view.images.find((image) => image.dataset.quality === quality);
  const [before, after] = await Promise.all([view.images[0], second].map(pixels));
  if (view.drawn !== quality) return; // another one was chosen meanwhile
  const levels = before.data;
  for (let place = 0; place < levels.length; place += 4) {
    for (let channel = place; channel < place + 3; channel += 1) {
      levels[channel] = 128 + AMPLIFIED * (after.data[channel] - levels[channel]); // the array clips it
    }
  }
  view.canvas.width = before.width;
  view.canvas.height = before.height;
  view.canvas.getContext("2d").putImageData(before, 0, 0);
  view.canvas.setAttribute("aria-label", `error of quality ${quality}`);
  view.canvas.dataset.quality = quality;
}

async function pixels(image) {
  const copy = new Image(); // one that is not shown: what is shown may not be loaded yet
  copy.src = image.src;
  await copy.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [copy.naturalWidth, copy.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(copy, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function zoom(view) {
  const now = Number(chosen("zoom")), by = now / view.zoom;
  const [across, down] = view.half ?? [view.w / 2, view.h / 2]; // at first the picture's middle is in the stage's
  const [x, y] = [(across - view.x) * by, (down - view.y) * by]; // and what is in the middle stays there
  view.zoom = now;
  move(view, view.stage.clientWidth / 2 - x, view.stage.clientHeight / 2 - y);
}

function refresh(view) {
  show(view);
  zoom(view);
}

function choose() {
  document.getElementById("pictures").style.setProperty("--zoom", chosen("zoom"));
  stages.filter(({ near }) => near).forEach(refresh); // the others when they come near
}

for (const article of document.querySelectorAll("article")) {
  const view = build(article);
  [view.w, view.h] = ["--w", "--h"].map((name) => Number(article.style.getPropertyValue(name)));
  stages.push(view);
  place(view);
}
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const view = stages.find(({ stage }) => stage === entry.target);
    view.near = entry.isIntersecting;
    if (view.near) refresh(view);
  }
}, { rootMargin: "300px" });
for (const { stage } of stages) observer.observe(stage);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", choose);
addEventListener("resize", () => stages.filter(({ near }) => near).forEach((view) => move(view, view.x, view.y)));
addEventListener("beforeprint", () => stages.forEach(refresh));
for (const control of document.querySelectorAll(".control")) control.hidden = !stages.length;
for (const view of stages) show(view);
choose();
