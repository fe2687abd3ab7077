"use strict";
const all = (what, where = document) => Array.from(where.querySelectorAll(what));
const dialog = document.querySelector("dialog"), stage = document.getElementById("stage");
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

// clips play while they are in view
const view = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) isIntersecting && !still ? target.play().catch(() => {}) : target.pause();
});
all(".row video").forEach((video) => view.observe(video));

// one sample large; the next one takes its place, at the same moment of a clip
let shown = null, kept = null, turn = 0;
function place(step, side) { // the nearest sample in a direction, over gaps
  const row = shown.closest(".row"), rows = all(".row", row.closest(".gallery"));
  const cells = (of) => Array.from(of.children), at = cells(row).indexOf(shown.closest("figure"));
  const line = side ? rows.map((each) => cells(each)[at]) : cells(row);
  for (let n = (side ? rows.indexOf(row) : at) + step; line[n]; n += step) {
    const found = line[n].querySelector("button");
    if (found) return found;
  }
}
const ways = { left: [-1, false], right: [1, false], up: [-1, true], down: [1, true] };
const ready = (media) => (media.decode ? media.decode() : new Promise((done) => { media.onseeked = media.onerror = done; }));
async function large(cell) {
  const mine = ++turn, figure = document.createElement("figure"), media = cell.firstElementChild.cloneNode();
  shown = cell;
  media.removeAttribute("loading");
  if (media.play) {
    media.preload = "auto";
    media.controls = true;
    media.currentTime = stage.querySelector("figure:last-child video")?.currentTime || 0.001;
  }
  await Promise.race([ready(media).catch(() => {}), new Promise((late) => setTimeout(late, 1500))]);
  if (mine !== turn) return;
  figure.append(media, document.createElement("figcaption"));
  figure.lastChild.textContent = cell.dataset.column;
  figure.lastChild.appendChild(document.createElement("small")).textContent = cell.dataset.files;
  stage.replaceChildren(...(kept ? [kept] : []), figure);
  document.getElementById("prompt").textContent = cell.closest(".row").previousElementSibling.innerText;
  all("nav button", dialog).forEach((button) => { button.disabled = button.value in ways && !place(...ways[button.value]); });
  all("video", stage).forEach((video) => video.play().catch(() => {}));
}
function act(what) {
  if (what in ways) {
    const cell = place(...ways[what]);
    if (cell) large(cell);
  } else if (what === "beside") {
    kept = kept ? null : stage.lastElementChild?.cloneNode(true);
    dialog.querySelector("[value=beside]").setAttribute("aria-pressed", Boolean(kept));
    large((kept && (place(1, false) || place(-1, false))) || shown);
  } else if (what === "close") dialog.close();
}
for (const cell of all(".row button")) {
  cell.addEventListener("click", () => {
    dialog.showModal();
    large(cell);
  });
}
dialog.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) act(button.value);
  else if (event.target === stage || event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => {
  turn++;
  kept = null;
  stage.replaceChildren();
  dialog.querySelector("[value=beside]").setAttribute("aria-pressed", "false");
  shown.focus();
});
addEventListener("keydown", (event) => { // anywhere: a button that is disabled loses the focus
  const what = event.key === "b" || event.key === "B" ? "beside" : event.key.replace("Arrow", "").toLowerCase();
  if (!dialog.open || (!(what in ways) && what !== "beside")) return;
  event.preventDefault();
  act(what);
});
let finger = null;
stage.addEventListener("touchstart", (event) => { finger = event.touches.length === 1 ? event.touches[0].clientX : null; }, { passive: true });
stage.addEventListener("touchend", (event) => {
  const far = finger === null ? 0 : event.changedTouches[0].clientX - finger;
  if (Math.abs(far) > 50) act(far < 0 ? "right" : "left");
});

// what a curve is at the pointer
const points = new Map(all(".plot").map((plot) => [plot, JSON.parse(plot.dataset.points)]));
for (const figure of all(".charts figure")) {
  const words = figure.querySelector("output"), before = words.textContent, plots = all(".plot", figure);
  figure.addEventListener("pointermove", (event) => {
    const box = plots[0].getBoundingClientRect(), share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const told = [];
    let step = 0;
    for (const plot of plots) {
      const at = share * plot.dataset.end;
      const near = points.get(plot).reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      step = step || near[0];
      told.push(plot.dataset.label + " " + near[1] + (near[1] === near[2] ? "" : ", mean " + near[2]));
      const line = plot.querySelector("b") || plot.appendChild(document.createElement("b"));
      line.style.left = (100 * near[0]) / plot.dataset.end + "%";
    }
    const epoch = figure.dataset.epoch > 0 ? " (epoch " + Math.ceil(step / figure.dataset.epoch) + ")" : "";
    words.textContent = "step " + step + epoch + ": " + told.join("; ");
  });
  figure.addEventListener("pointerleave", () => {
    words.textContent = before;
    all("b", figure).forEach((line) => line.remove());
  });
}

// a run that goes on: the page is read anew, but not under anybody's hand or eye; what was scrolled and opened stays so
const IDLE = 120000; // milliseconds
let used = Date.now();
for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchmove", "scroll"]) {
  addEventListener(kind, () => { used = Date.now(); }, { capture: true, passive: true });
}
all(".gallery").forEach((node, n) => { node.scrollLeft = history.state?.left?.[n] || 0; });
all("details").forEach((node, n) => { node.open = Boolean(history.state?.open?.[n]); });
const STALE = 15 * 60000, made = Date.parse(document.body.dataset.live); // a run makes it every few minutes, until it is killed
if (Date.now() - made > STALE) {
  document.getElementById("renewed").textContent = "This page was not renewed since " + new Date(made).toLocaleString() + ": the run may have been killed.";
} else if (made) {
  setInterval(() => {
    if (dialog.open || Date.now() - used < IDLE) return;
    history.replaceState({ left: all(".gallery").map((node) => node.scrollLeft), open: all("details").map((node) => node.open) }, "");
    location.reload();
  }, 5000);
}
