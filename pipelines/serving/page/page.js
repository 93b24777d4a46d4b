"use strict";
// Two files and options to POST /upscale; the answer is a form with image, record and trust map.

const about = JSON.parse(byId("about").textContent);
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const OVERLAY_ALPHA = 170;
const CELL_PX = 4;
const files = { wide: null, tele: null };
const previews = { wide: null, tele: null };
const urls = [];
let request = null;

// ---- choosing files ----------------------------------------------------------------------------

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function choose(name, file) {
  const drop = document.querySelector(`[data-drop="${name}"]`);
  const image = drop.querySelector("img");
  if (previews[name]) URL.revokeObjectURL(previews[name]);
  files[name] = file;
  previews[name] = URL.createObjectURL(file);
  drop.classList.add("chosen");
  image.hidden = true;
  image.src = previews[name];
  ready();
  let what = "this browser cannot show its format, which does not matter";
  try {
    await image.decode();
    if (files[name] !== file) return;
    image.hidden = false;
    what = `${image.naturalWidth} × ${image.naturalHeight}`;
  } catch {
    if (files[name] !== file) return;
    URL.revokeObjectURL(previews[name]);
    previews[name] = null; // the server makes one
  }
  drop.querySelector(".name").textContent = `${file.name}, ${what}, ${size(file.size)}`;
}

function ready() {
  byId("upscale").disabled = !(files.wide && files.tele) || request !== null;
}

for (const drop of document.querySelectorAll("[data-drop]")) {
  const name = drop.dataset.drop;
  drop.querySelector("input").addEventListener("change", (event) => {
    if (event.target.files[0]) choose(name, event.target.files[0]);
  });
  for (const type of ["dragenter", "dragover"]) {
    drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    drop.classList.remove("over");
    const dropped = [...event.dataTransfer.files];
    if (dropped.length === 2) [choose("wide", dropped[0]), choose("tele", dropped[1])];
    else if (dropped.length) choose(name, dropped[0]);
  });
}
// A file that misses the targets would replace the page.
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());

// ---- sending -----------------------------------------------------------------------------------

function body() {
  const form = new FormData();
  form.append("wide", files.wide, files.wide.name);
  form.append("tele", files.tele, files.tele.name);
  form.append("trust", byId("trust").value);
  form.append("format", byId("format").value);
  form.append("quality", byId("quality").value);
  form.append("strip_metadata", byId("strip").checked);
  if (byId("place").value === "centered") form.append("centered", "true");
  if (byId("place").value === "box") form.append("box", byId("box").value);
  if (!previews.wide) form.append("preview", "true");
  return form;
}

function complain(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = !message;
}

async function send() {
  const started = performance.now();
  const headers = { Accept: "multipart/form-data" };
  if (about.needs_token) headers.Authorization = `Bearer ${byId("token").value.trim()}`;
  request = new AbortController();
  const showProgress = () => {
    const seconds = Math.round((performance.now() - started) / 1000);
    byId("status").textContent = `Working, ${seconds} s …`;
  };
  const clock = setInterval(showProgress, 1000);
  showProgress();
  complain("");
  byId("cancel").hidden = false;
  ready();
  try {
    if (files.wide.size + files.tele.size > about.max_mb * 1e6) {
      throw new Error(`the images have ${size(files.wide.size + files.tele.size)}, this server takes `
        + `${about.max_mb} MB; choose smaller ones`);
    }
    const response = await fetch("upscale", {
      method: "POST", body: body(), headers, signal: request.signal,
    });
    if (!response.ok) throw new Error(await reason(response));
    await show(await response.formData());
    byId("status").textContent = `Done in ${((performance.now() - started) / 1000).toFixed(1)} s.`;
  } catch (error) {
    byId("status").textContent = "";
    complain(error.name === "AbortError" ? "Cancelled; the server has stopped, too."
      : error instanceof TypeError ? "The server cannot be reached, or ended the connection; is it running?"
        : error.message);
  } finally {
    clearInterval(clock);
    request = null;
    byId("cancel").hidden = true;
    ready();
  }
}

async function reason(response) {
  const text = await response.text();
  try {
    return `${JSON.parse(text).error} (${response.status})`;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

byId("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
byId("cancel").addEventListener("click", () => request && request.abort());
byId("trust").addEventListener("input", () => { byId("trust-value").textContent = byId("trust").value; });
byId("place").addEventListener("change", () => { byId("box-label").hidden = byId("place").value !== "box"; });
byId("format").addEventListener("change", () => { byId("quality-label").hidden = byId("format").value === "png"; });

// ---- showing -----------------------------------------------------------------------------------

function link(blob) {
  const url = URL.createObjectURL(blob);
  urls.push(url);
  return url;
}

async function show(parts) {
  while (urls.length) URL.revokeObjectURL(urls.pop());
  const record = JSON.parse(await parts.get("record").text());
  const [image, trust, preview] = ["image", "trust", "preview"].map((name) => parts.get(name));
  byId("result").hidden = false;
  byId("right-image").src = link(image);
  const wide = preview || files.wide;
  byId("left-image").src = link(wide);
  await byId("right-image").decode();
  const [height, width] = record.result.size;
  const [y0, y1, x0, x1] = record.result.box;
  Object.assign(byId("center-box").style, {
    top: `${100 * y0 / height}%`, height: `${100 * (y1 - y0) / height}%`,
    left: `${100 * x0 / width}%`, width: `${100 * (x1 - x0) / width}%`,
  });
  const name = files.wide.name.replace(/\.[^.]*$/, "");
  const ending = { "image/png": "png", "image/webp": "webp" }[image.type] || "jpg";
  Object.assign(byId("save-image"), { href: byId("right-image").src, download: `${name}-x2.${ending}` });
  const json = JSON.stringify(record, null, 1);
  byId("save-record").href = link(new Blob([json], { type: "application/json" }));
  byId("save-record").download = `${name}-x2.json`;
  byId("record").textContent = json;
  byId("save-trust").hidden = byId("show-trust-label").hidden = !trust;
  if (trust) {
    byId("save-trust").href = link(trust);
    await drawTrust(trust, height, width);
  }
  showTrust();
  showRecord(record);
  fit();
  byId("result-title").focus({ preventScroll: true });
  byId("result").scrollIntoView({ block: "start" });
}

function color(share) {
  const at = share * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((value, c) => value + (VIRIDIS[low + 1][c] - value) * (at - low));
}

async function drawTrust(png, height, width) {
  const bitmap = await createImageBitmap(png);
  const map = byId("trust-map");
  Object.assign(map, { width: bitmap.width, height: bitmap.height });
  const context = map.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, map.width, map.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data.set([...color(pixels.data[at] / 255), OVERLAY_ALPHA], at);
  }
  context.putImageData(pixels, 0, 0);
  map.style.width = `${100 * CELL_PX * map.width / width}%`;
  map.style.height = `${100 * CELL_PX * map.height / height}%`;
}

function showTrust() {
  const shown = byId("show-trust").checked && !byId("show-trust-label").hidden;
  byId("trust-map").hidden = byId("legend").hidden = !shown;
}

/** What people want to know of a record. */
function showRecord(record) {
  const { registration, ref, matching, result, memory } = record;
  const percent = (share) => `${Math.round(100 * share)} %`;
  const seconds = Object.entries(record.seconds).map(([phase, took]) => `${phase} ${took.toFixed(1)} s`);
  const found = registration.zoom === undefined ? registration.decision
    : `${registration.decision}; zoom ${registration.zoom.toFixed(2)}, `
      + `turned by ${registration.rotation_deg.toFixed(1)}°, `
      + `${registration.num_inliers} of ${registration.num_matches} matches agree`;
  const facts = {
    "Result": `${result.size[1]} × ${result.size[0]} pixels, ${result.bits} bits`,
    "Tele image": found,
    "Tele detail that was taken": ref.taken_share === null ? "this network has no detail skip"
      : percent(ref.taken_share),
    "Search": `${percent(matching.query_share)} of the cells, ${matching.mode}`,
    "Time": seconds.join(", "),
    "Memory": `${(memory.peak_bytes / 1e9).toFixed(1)} GB on ${record.device}`
      + (memory.limit_bytes ? `, limit ${(memory.limit_bytes / 1e9).toFixed(1)} GB` : ""),
    "Network": record.checkpoint,
  };
  byId("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const row = document.createElement("div");
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, text.textContent] = [name, value];
    row.append(term, text);
    return row;
  }));
  byId("warning").textContent = ref.reasons.join("; ");
  byId("warning").hidden = !ref.reasons.length;
}

byId("show-trust").addEventListener("change", showTrust);
byId("show-box").addEventListener("change", (event) => { byId("center-box").hidden = !event.target.checked; });

// ---- this server -------------------------------------------------------------------------------

byId("token-label").hidden = !about.needs_token;
byId("about-line").textContent = `Network ${about.network}. This server takes images of up to `
  + `${about.max_megapixels} megapixels, ${about.max_mb} MB together, and deletes them once it has answered.`;
const sample = document.querySelector("#legend canvas").getContext("2d");
for (let at = 0; at < 96; at += 1) {
  sample.fillStyle = `rgb(${color(at / 95).map(Math.round).join(" ")})`;
  sample.fillRect(at, 0, 1, 1);
}

startSlider();
