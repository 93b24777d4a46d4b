"use strict";
// The slider over the wide image and the result: a line, zoom, panning, keys.

const byId = (id) => document.getElementById(id);

const state = { split: 0.5, zoom: 1, x: 0, y: 0 };
const MAX_ZOOM = 16;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function fit() {
  const { naturalWidth, naturalHeight } = byId("after");
  if (!naturalWidth) return;
  const ratio = naturalWidth / naturalHeight;
  const width = Math.min(byId("result").clientWidth, 0.78 * innerHeight * ratio, 2 * naturalWidth);
  Object.assign(byId("stage").style, { width: `${width}px`, height: `${width / ratio}px` });
  Object.assign(state, { zoom: 1, x: 0, y: 0 });
  draw();
}

function draw() {
  const [width, height] = [byId("stage").clientWidth, byId("stage").clientHeight];
  state.x = clamp(state.x, width * (1 - state.zoom), 0);
  state.y = clamp(state.y, height * (1 - state.zoom), 0);
  const canvas = byId("canvas");
  canvas.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
  canvas.style.setProperty("--zoom", state.zoom);
  canvas.classList.toggle("pixels", (width * state.zoom) / (byId("after").naturalWidth || 1) >= 3);
  const seam = clamp((state.split * width - state.x) / (state.zoom * width), 0, 1);
  byId("before").style.clipPath = `inset(0 ${100 * (1 - seam)}% 0 0)`;
  byId("handle").style.left = `${100 * state.split}%`;
  byId("divider").value = 100 * state.split;
  byId("zoom").textContent = `${Number(state.zoom.toFixed(1))}×`;
  byId("stage").classList.toggle("zoomed", state.zoom > 1);
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

byId("stage").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const does = { "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: fit }[event.key];
  if (move && event.shiftKey) pan(-40 * move[0], -40 * move[1]);
  else if (move && move[0]) moveDivider(state.split + 0.02 * move[0]);
  else if (does) does();
  else return;
  event.preventDefault();
});

// Dragging moves the divider; where the image is zoomed, only from its handle, and pans else.
byId("stage").addEventListener("pointerdown", (down) => {
  const stage = byId("stage");
  const slide = (event) => {
    const area = stage.getBoundingClientRect();
    moveDivider((event.clientX - area.left) / area.width);
  };
  const slides = down.target === byId("handle") || state.zoom === 1;
  const move = slides ? slide : (event) => pan(event.movementX, event.movementY);
  if (slides) slide(down);
  stage.setPointerCapture(down.pointerId);
  stage.addEventListener("pointermove", move);
  const stop = () => stage.removeEventListener("pointermove", move);
  stage.addEventListener("pointerup", stop, { once: true });
  stage.addEventListener("pointercancel", stop, { once: true });
});
byId("stage").addEventListener("wheel", (event) => {
  if (!event.ctrlKey && state.zoom === 1) return; // leave scrolling alone
  const area = byId("stage").getBoundingClientRect();
  zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - area.left, event.clientY - area.top);
  event.preventDefault();
}, { passive: false });
byId("zoom-in").addEventListener("click", () => zoomBy(1.5));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
byId("fit").addEventListener("click", fit);
byId("divider").addEventListener("input", (event) => moveDivider(event.target.value / 100));
addEventListener("resize", fit);
