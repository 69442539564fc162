// The page of predictions: names of the points that are pointed at, cells of a large matrix, and sorting of the table of classes.

const MATRIX = JSON.parse(document.getElementById("data").textContent); // null where the matrix is a table
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const clamp = (value, count) => Math.min(count - 1, Math.max(0, value));

// ---- scatter charts: the nearest point to the pointer, or the next one in the order of the files

function prepareScatter(scatter) {
  const plot = scatter.querySelector(".plot"), svg = plot.querySelector("svg"), output = scatter.querySelector("output");
  const points = [...svg.querySelectorAll(".point")].map(element => {
    const [, x, y] = element.getAttribute("transform").match(/\(([-\d.]+) ([-\d.]+)\)/);
    return { element, x: Number(x), y: Number(y) };
  }).sort((a, b) => a.x - b.x || a.y - b.y);
  let chosen = null;
  const visible = () => points.filter(point => getComputedStyle(point.element.parentElement).display !== "none");
  function choose(point) {
    chosen?.element.classList.remove("chosen");
    chosen = point ?? null;
    chosen?.element.classList.add("chosen");
    output.textContent = chosen ? chosen.element.querySelector("title").textContent : "";
  }
  svg.addEventListener("pointermove", event => {
    const to = svg.getScreenCTM().inverse(), at = new DOMPoint(event.clientX, event.clientY).matrixTransform(to);
    let best = null, least = Infinity;
    for (const point of visible()) {
      const distance = (point.x - at.x) ** 2 + (point.y - at.y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    if (best && best !== chosen) choose(best);
  });
  plot.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, PageUp: -50, PageDown: 50, Home: -Infinity, End: Infinity }[event.key];
    const all = visible();
    if (step === undefined || !all.length || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const place = all.indexOf(chosen);
    choose(all[place < 0 && Number.isFinite(step) ? 0 : clamp(place + step, all.length)]);
  });
  scatter.addEventListener("change", () => { if (chosen && !visible().includes(chosen)) choose(null); });
  scatter.querySelector(".hint").hidden = false;
}

// ---- the picture of a large matrix

function prepareMatrix() {
  const box = document.getElementById("matrix"), output = document.getElementById("matrix-cell");
  if (!box || !MATRIX) return;
  const counts = new Map(), rows = MATRIX.images.length, columns = MATRIX.names.length;
  for (let k = 0; k < MATRIX.cells.length; k += 3) counts.set(MATRIX.cells[k] * columns + MATRIX.cells[k + 1], MATRIX.cells[k + 2]);
  const frame = document.createElement("i");
  frame.className = "cell";
  let at = [0, 0];
  function show(row, column) {
    at = [clamp(row, rows), clamp(column, columns)];
    [row, column] = at;
    const count = counts.get(row * columns + column) ?? 0, whole = MATRIX.images[row].toLocaleString("en");
    const number = count || !MATRIX.rest ? count.toLocaleString("en") : `at most ${MATRIX.rest.toLocaleString("en")}`;
    output.textContent = `is ${MATRIX.names[row]}, predicted ${MATRIX.names[column]}: ${number} of ${whole}`;
    Object.assign(frame.style, { left: `${100 * column / columns}%`, top: `${100 * row / rows}%`, width: `${100 / columns}%`, height: `${100 / rows}%` });
    if (!frame.isConnected) box.append(frame);
  }
  box.addEventListener("pointermove", event => {
    const { left, top, width, height } = box.querySelector("img").getBoundingClientRect();
    show(Math.floor((event.clientY - top) / height * rows), Math.floor((event.clientX - left) / width * columns));
  });
  box.addEventListener("keydown", event => {
    const step = ARROWS[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (frame.isConnected) show(at[0] + step[0], at[1] + step[1]); else show(0, 0);
  });
  document.getElementById("matrix-hint").hidden = false;
}

// ---- the table of classes; undefined values come last, in either order

function prepareTable() {
  const table = document.getElementById("classes");
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    return column ? (cell.dataset.value === undefined ? Number(cell.textContent.replaceAll(",", "")) : Number(cell.dataset.value)) : cell.textContent;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
      const keyed = [...body.rows].map(row => [value(row, column), row]);
      keyed.sort(([a], [b]) => {
        if (typeof a === "string") return down * (a < b ? -1 : a > b ? 1 : 0);
        return Number.isNaN(a) - Number.isNaN(b) || down * (a - b) || 0;
      });
      body.append(...keyed.map(([, row]) => row));
    };
  });
}

document.querySelectorAll(".scatter").forEach(prepareScatter);
prepareMatrix();
prepareTable();
