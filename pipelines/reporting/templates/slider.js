"use strict";
// A slider over two images: divider, zoom, panning, keys. The evaluation's page and the server's use it
// on #stage > #canvas > #left-image, #right-image; the element around #stage bounds its width.

const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

const MAX_ZOOM = 16;
const state = { split: 0.5, zoom: 1, x: 0, y: 0 };

/** As wide as there is room and as high as the window allows. */
function fit() {
  Object.assign(state, { zoom: 1, x: 0, y: 0 });
  resize();
}

function resize() {
  const [image, stage] = [byId("right-image"), byId("stage")];
  const place = () => {
    if (!image.naturalWidth) return;
    const ratio = image.naturalWidth / image.naturalHeight;
    const room = stage.parentElement.clientWidth;
    const width = Math.min(room, 0.75 * innerHeight * ratio, 2 * image.naturalWidth);
    Object.assign(stage.style, { width: `${width}px`, height: `${width / ratio}px` });
    draw();
  };
  image.decode().then(place, place);
}

function draw() {
  const stage = byId("stage");
  const [width, height] = [stage.clientWidth, stage.clientHeight];
  state.x = clamp(state.x, width * (1 - state.zoom), 0);
  state.y = clamp(state.y, height * (1 - state.zoom), 0);
  const canvas = byId("canvas");
  canvas.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
  canvas.style.setProperty("--zoom", state.zoom);
  const shown = (width * state.zoom) / (byId("right-image").naturalWidth || 1);
  canvas.classList.toggle("pixels", shown >= 2);
  const seam = clamp((state.split * width - state.x) / (state.zoom * width), 0, 1);
  byId("left-image").style.clipPath = `inset(0 ${100 * (1 - seam)}% 0 0)`;
  byId("handle").style.left = `${100 * state.split}%`;
  byId("divider").value = 100 * state.split;
  byId("zoom").textContent = `${Number(state.zoom.toFixed(1))}×`;
  stage.classList.toggle("zoomed", state.zoom > 1);
}

function moveDivider(split) {
  state.split = clamp(split, 0, 1);
  draw();
}

/** Zoom by a factor; the point of the stage under `x`, `y` (its middle by default) stays. */
function zoomBy(factor, x = byId("stage").clientWidth / 2, y = byId("stage").clientHeight / 2) {
  const zoom = clamp(state.zoom * factor, 1, MAX_ZOOM);
  state.x = x - ((x - state.x) * zoom) / state.zoom;
  state.y = y - ((y - state.y) * zoom) / state.zoom;
  state.zoom = zoom;
  draw();
}

function pan(x, y) {
  state.x += x;
  state.y += y;
  draw();
}

function onKey(event, moreKeys) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const act = {
    "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), "0": fit, ...moreKeys,
  }[event.key.toLowerCase()];
  if (move && event.shiftKey) pan(-40 * move[0], -40 * move[1]);
  else if (move && move[0]) moveDivider(state.split + 0.02 * move[0]);
  else if (act) act();
  else return;
  event.preventDefault();
}

/** Dragging moves the divider; in a zoomed image only its handle does, and the rest pans. */
function onDrag(down) {
  const stage = byId("stage");
  const slides = down.target === byId("handle") || state.zoom === 1;
  const slide = (event) => {
    const area = stage.getBoundingClientRect();
    moveDivider((event.clientX - area.left) / area.width);
  };
  const move = slides ? slide : (event) => pan(event.movementX, event.movementY);
  if (slides) slide(down);
  stage.setPointerCapture(down.pointerId);
  stage.addEventListener("pointermove", move);
  const stop = () => stage.removeEventListener("pointermove", move);
  stage.addEventListener("pointerup", stop, { once: true });
  stage.addEventListener("pointercancel", stop, { once: true });
}

function onWheel(event) {
  if (!event.ctrlKey && state.zoom === 1) return; // leave scrolling alone
  const area = byId("stage").getBoundingClientRect();
  zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - area.left, event.clientY - area.top);
  event.preventDefault();
}

/** `moreKeys`: key -> what the page itself does on it. */
function startSlider(moreKeys = {}) {
  byId("zoom-in").addEventListener("click", () => zoomBy(1.5));
  byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  byId("fit").addEventListener("click", fit);
  byId("divider").addEventListener("input", (event) => moveDivider(event.target.value / 100));
  byId("stage").addEventListener("keydown", (event) => onKey(event, moreKeys));
  byId("stage").addEventListener("pointerdown", onDrag);
  byId("stage").addEventListener("wheel", onWheel, { passive: false });
  addEventListener("resize", resize);
}
