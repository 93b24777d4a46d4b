"use strict";
// Layers of the slider (slider.js), sorting and theme. Plain script: the page is opened from a file, or in
// MLflow's frame, which allows scripts and neither storage nor navigation.

const views = JSON.parse(byId("views").textContent);
const ids = Object.keys(views);

// ---- theme -------------------------------------------------------------------------------------

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").textContent = dark ? "Light" : "Dark";
  byId("theme").setAttribute("aria-pressed", String(dark));
}
setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
byId("theme").addEventListener("click", () =>
  setTheme(document.documentElement.dataset.theme !== "dark"));

// ---- tables ------------------------------------------------------------------------------------

const tables = [...document.querySelectorAll("[data-metric]")];

function showTable(name) {
  for (const table of tables) table.hidden = table.dataset.metric !== name;
}

function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return a.localeCompare(b, "en", { numeric: true });
  return x === y ? 0 : x - y;
}

function sortBy(head) {
  const table = head.closest("table");
  const falls = head.getAttribute("aria-sort") !== "descending";
  const column = [...head.parentNode.children].indexOf(head);
  for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const value = (row) => row.children[column].dataset.value;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const missing = (value(a) === "nan") - (value(b) === "nan"); // last, either way
    return missing || (falls ? -1 : 1) * compare(value(a), value(b));
  });
  table.tBodies[0].append(...rows);
}

byId("metric").addEventListener("change", (event) => showTable(event.target.value));
showTable(byId("metric").value);
for (const button of document.querySelectorAll(".pictures thead button, .summary thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// ---- before and after --------------------------------------------------------------------------

Object.assign(state, { id: ids[0], frame: 0, left: "", right: "" });
const MAX_STRIPS = 8;

function frame() {
  return views[state.id].frames[state.frame];
}

/** Fill a select; keep what was chosen where that is still there. */
function offer(select, names, wanted) {
  select.replaceChildren(...names.map((name, index) => new Option(name, index)));
  select.value = String(Math.max(0, names.indexOf(wanted)));
}

function choosePicture(id) {
  state.id = id;
  byId("picture").value = id;
  const names = views[id].frames.map((each) => each.name);
  offer(byId("frame"), names, names[state.frame]);
  byId("frame-label").hidden = names.length < 2;
  chooseFrame(Number(byId("frame").value));
}

function chooseFrame(index) {
  state.frame = index;
  const names = Object.keys(frame().layers);
  const method = names.find((name) => !["bicubic", "Ref (tele)", "HR (truth)"].includes(name));
  offer(byId("left"), names, state.left || "bicubic");
  offer(byId("right"), names, state.right || method || "HR (truth)");
  offerOverlays();
  chooseLayers();
  fit();
}

function offerOverlays() {
  const on = new Set([...byId("overlays").querySelectorAll(":checked")].map((each) => each.name));
  byId("overlays").replaceChildren(...Object.keys(frame().overlays).map((name) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", name });
    box.checked = on.has(name);
    box.addEventListener("change", drawOverlays);
    const label = document.createElement("label");
    label.append(box, name);
    return label;
  }));
  drawOverlays();
}

function drawOverlays() {
  const chosen = [...byId("overlays").querySelectorAll(":checked")];
  byId("overlay-images").replaceChildren(...chosen.map((box) =>
    Object.assign(document.createElement("img"), { src: frame().overlays[box.name], alt: "" })));
}

function chooseLayers() {
  const names = Object.keys(frame().layers);
  state.left = names[byId("left").value];
  state.right = names[byId("right").value];
  for (const side of ["left", "right"]) {
    const image = byId(`${side}-image`);
    image.src = frame().layers[state[side]];
    image.alt = `${state.id}: ${state[side]}`;
    byId(`${side}-tag`).textContent = [state[side], views[state.id].told[state[side]]]
      .filter(Boolean).join(", ");
  }
  const [top, left, height, width] = frame().center.map((share) => `${100 * share}%`);
  Object.assign(byId("center-box").style, { top, left, height, width });
  const { height: rows, width: columns } = views[state.id];
  const scale = Math.round(100 * frame().scale);
  byId("told").textContent = `${state.id}, ${columns} × ${rows} pixels: ${state.left} on the left, `
    + `${state.right} on the right.`;
  byId("scale-note").textContent = scale < 100
    ? `this one is shrunk to ${scale} %, details are shown pixel for pixel.`
    : "pixels are shown one for one.";
}

function step(by) {
  choosePicture(ids[(ids.indexOf(state.id) + by + ids.length) % ids.length]);
}

function toggleBox() {
  byId("box").checked = !byId("box").checked;
  byId("box").dispatchEvent(new Event("change"));
}

function toggleOverlays() {
  const boxes = [...byId("overlays").querySelectorAll("input")];
  const none = !boxes.some((box) => box.checked);
  boxes.forEach((box, index) => { box.checked = none && index === 0; });
  drawOverlays();
}

/** A square of a layer, cut out by the style, since a page holds each picture once. */
function cropOf(view, crop, name) {
  const [top, left, height, width] = crop.share;
  const image = Object.assign(document.createElement("img"), {
    src: view.frames[crop.frame].layers[name], alt: `${name}: ${crop.name}`, loading: "lazy",
  });
  Object.assign(image.style, {
    width: `${100 / width}%`, height: `${100 / height}%`,
    left: `${(-100 * left) / width}%`, top: `${(-100 * top) / height}%`,
  });
  const hole = document.createElement("div");
  hole.append(image);
  const told = document.createElement("figcaption");
  told.textContent = [name, view.told[name]].filter(Boolean).join(", ");
  const figure = document.createElement("figure");
  figure.append(hole, told);
  return figure;
}

function drawCrops() {
  const ends = [...document.querySelectorAll("[data-thumbnail]")].map((each) => each.dataset.thumbnail);
  for (const id of (ends.length ? ends : ids).slice(0, MAX_STRIPS)) {
    for (const crop of views[id].crops || []) {
      const head = document.createElement("h3");
      head.textContent = `${id}, ${crop.name}`;
      const strip = Object.assign(document.createElement("div"), { className: "strip" });
      const names = Object.keys(views[id].frames[crop.frame].layers)
        .filter((name) => name !== "Ref (tele)" || !crop.name.includes("outside"));
      strip.append(...names.map((name) => cropOf(views[id], crop, name)));
      byId("crops").append(head, strip);
    }
  }
}

function showFromElsewhere(id) {
  if (!(id in views)) return;
  choosePicture(id);
  byId("viewer").scrollIntoView({ block: "start" });
  byId("stage").focus({ preventScroll: true });
}

function startViewer() {
  byId("picture").addEventListener("change", (event) => choosePicture(event.target.value));
  byId("frame").addEventListener("change", (event) => chooseFrame(Number(event.target.value)));
  byId("left").addEventListener("change", chooseLayers);
  byId("right").addEventListener("change", chooseLayers);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("box").addEventListener("change", (event) => { byId("center-box").hidden = !event.target.checked; });
  startSlider({ b: toggleBox, m: toggleOverlays, n: () => step(1), p: () => step(-1) });
  for (const image of document.querySelectorAll("[data-thumbnail]")) {
    const { layers } = views[image.dataset.thumbnail].frames[0];
    image.src = layers["HR (truth)"];
  }
  document.addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-picture]");
    const point = event.target.closest("svg a");
    if (chosen) showFromElsewhere(chosen.dataset.picture);
    else if (point) {
      event.preventDefault();
      const link = point.getAttribute("xlink:href") || point.getAttribute("href");
      showFromElsewhere(link.replace("#picture=", ""));
    }
  });
  choosePicture(state.id);
}

if (ids.length) {
  startViewer();
  drawCrops();
}
