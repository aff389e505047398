"use strict";
/* What a detector found on the case page: boxes, contours, labels, their list, and the scores they are shown from. viewer.js calls it. */
window.ocusegObjects = (found, { overlay, layers, look, redraw }) => {
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_LABELS = 150; // of more nobody reads any, and each is tried against every box
  const CROWD = 12; // from here on the class is told by colour and line alone, and by name where one points
  const ON_PAPER = 8; // rows of the list
  const TEXT = 11, HEIGHT = 14, GAP = 4; // CSS pixels
  const byId = (id) => document.getElementById(id);
  const all = found.rows.map(([id, slice, label, score, x1, y1, x2, y2, size, area]) => ({ id, slice, label, score, box: [x1, y1, x2, y2], size, area }));
  const thresholds = [...found.thresholds];
  const colours = layers.map((layer) => layer.getAttribute("color"));
  const swatches = [...document.querySelectorAll(".classes .swatch")];
  const sliders = [...document.querySelectorAll("input[data-score]")];
  const showBoxes = byId("show-boxes"), showContours = byId("show-contours"), showLabels = byId("show-labels");
  const body = byId("object-table").tBodies[0], list = body.closest(".object-list");
  const names = byId("object-labels"), together = byId("score-all");
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `600 ${TEXT}px system-ui, sans-serif`;
  const grouped = (number) => number.toLocaleString("en").replaceAll(",", "\u202f");
  /* A unit that all share stands in the heading, once. */
  const unitOf = (text) => text.slice(text.lastIndexOf(" "));
  const shared = (name) => {
    const units = new Set(all.filter((one) => one[name]).map((one) => unitOf(one[name])));
    if (units.size !== 1 || !byId(`unit-${name}`)) return "";
    const [unit] = units;
    byId(`unit-${name}`).textContent = `,${unit}`;
    return unit;
  };
  const common = { size: shared("size"), area: shared("area") };
  const cellText = (one, name) => (common[name] && one[name] ? one[name].slice(0, -common[name].length) : one[name] || "–");
  let items = []; // objects of the slice on show
  let view = null; // { box: x, y, width, height in scan pixels, pane: width, height in CSS pixels }
  let hovered = null, chosen = null, waiting = false, current = 0;

  const counted = (one) => !found.withheld[one.label];
  const above = (one) => one.score >= thresholds[one.label];
  const visible = (one) => above(one) && !layers[one.label].classList.contains("off");
  const lit = () => [hovered, chosen].find((one) => one && visible(one)) || null;

  /* ---- boxes, contours and rows of one slice ---- */
  function drawSlice(slice, outlines) {
    items = all.filter((one) => one.slice === slice);
    current = slice;
    hovered = chosen = null;
    for (const layer of layers) layer.querySelectorAll(".object").forEach((old) => old.remove());
    const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    for (const one of [...items].sort((a, b) => area(b.box) - area(a.box))) { // small ones on top
      one.drawn = make("g", { class: "object" });
      for (const kind of outlines[one.id] ? ["outline halo", "outline"] : []) {
        one.drawn.append(make("path", { class: kind, d: outlines[one.id], transform: "scale(.5)", "fill-rule": "evenodd" }));
      }
      const [x1, y1, x2, y2] = one.box;
      for (const kind of ["edge", "box"]) {
        one.drawn.append(make("rect", { class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1, ...(kind === "box" ? dashes(one) : {}) }));
      }
      layers[one.label].append(one.drawn);
    }
    body.replaceChildren(...items.map(row));
    update();
  }
  const dashes = (one) => (found.dashes[one.label] ? { "stroke-dasharray": found.dashes[one.label] } : {});
  function make(tag, attributes) {
    const made = document.createElementNS(SVG, tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    return made;
  }
  function row(one) {
    const made = document.createElement("tr");
    const head = document.createElement("th"), button = document.createElement("button");
    head.scope = "row";
    button.type = "button";
    button.tabIndex = -1;
    button.title = "Go to this object";
    button.append(swatches[one.label].cloneNode(true), found.names[one.label]);
    button.addEventListener("focus", () => { chosen = one; rove(one); look(one.box, false); relight(); });
    button.addEventListener("click", () => { chosen = one; look(one.box, true); relight(); });
    button.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation(); // the slice and the view stay
      const shown = items.filter(visible);
      const next = shown[shown.indexOf(one) + step];
      if (next) next.button.focus();
    });
    head.append(button);
    made.append(head);
    for (const text of [one.score.toFixed(2), cellText(one, "size"), ...(found.masks ? [cellText(one, "area")] : [])]) {
      const cell = made.appendChild(document.createElement("td"));
      cell.className = "number";
      cell.textContent = text;
    }
    made.addEventListener("pointerenter", () => { hovered = one; relight(); });
    made.addEventListener("pointerleave", () => { hovered = null; relight(); });
    Object.assign(one, { row: made, button });
    return made;
  }
  function rove(to) { // one of the rows is in the tab order, the arrows do the rest
    for (const one of items) one.button.tabIndex = one === to ? 0 : -1;
  }

  /* ---- scores ---- */
  function counts(slices) {
    const out = Array.from({ length: slices }, () => layers.map(() => 0));
    for (const one of all) if (above(one)) out[one.slice][one.label] += 1;
    return out;
  }
  function update() {
    let shown = 0;
    for (const one of items) {
      const seen = visible(one);
      one.drawn.classList.toggle("below", !seen);
      one.row.hidden = !seen;
      one.row.classList.toggle("late", seen && ++shown > ON_PAPER);
    }
    const told = all.filter(counted); // of a withheld class no number is shown
    byId("object-summary").textContent = told.length ? `${grouped(told.filter(above).length)} of ${grouped(told.length)} objects at these scores` : all.length ? "Numbers are withheld" : found.readable ? "No object was found" : "Objects unknown: their file cannot be read";
    const hidden = items.length - shown;
    byId("object-rest").textContent = !items.length ? (found.readable ? "No object was found." : "") : !items.every(counted) ? "Numbers of objects are withheld." : `${grouped(shown)} listed` + (hidden ? `, ${grouped(hidden)} below the score or switched off.` : ".");
    byId("object-paper").textContent = shown > ON_PAPER ? ` The ${ON_PAPER} highest-scoring ones are printed.` : "";
    for (const [name, pool] of [["objects", all], ["sliceObjects", items]]) {
      document.querySelectorAll(name === "objects" ? "[data-objects]" : "[data-slice-objects]").forEach((cell) => {
        if (!found.readable) return;
        const label = Number(cell.dataset[name]);
        cell.textContent = grouped(pool.filter((one) => one.label === label && above(one)).length);
      });
    }
    sliders.forEach((slider, label) => {
      if (Number(slider.value) !== thresholds[label]) slider.value = thresholds[label];
      slider.nextElementSibling.textContent = thresholds[label].toFixed(2);
    });
    const equal = thresholds.every((value) => value === thresholds[0]);
    together.value = Math.min(...thresholds);
    byId("score-all-value").textContent = equal ? thresholds[0].toFixed(2) : "by class";
    const changed = thresholds.some((value, label) => value !== found.thresholds[label]);
    byId("score-state").textContent = changed ? "changed from the bundle's thresholds" : "the bundle's thresholds";
    byId("score-state").classList.toggle("changed", changed);
    byId("score-reset").disabled = !changed;
    overlay.classList.toggle("no-boxes", !showBoxes.checked);
    overlay.classList.toggle("no-contours", !showContours.checked);
    if (!items.some((one) => one.button.tabIndex === 0 && visible(one))) rove(items.find(visible));
    relight();
  }
  function choose(change) {
    thresholds.forEach((value, label) => { thresholds[label] = change(value, label); });
    update();
    redraw();
  }
  const stepped = (step) => choose((value) => Math.min(Math.max(Math.round((value + step) * 100) / 100, 0), 1));
  const reset = () => choose((_, label) => found.thresholds[label]);
  sliders.forEach((slider, label) => slider.addEventListener("input", () => choose((value, other) => (other === label ? Number(slider.value) : value))));
  together.addEventListener("input", () => { const value = Number(together.value); choose(() => value); });
  byId("score-reset").addEventListener("click", () => { reset(); together.focus(); });
  [showBoxes, showContours, showLabels].forEach((box) => box.addEventListener("change", update));
  const flip = (box) => { box.checked = !box.checked; update(); };
  const keys = {
    b: () => flip(showBoxes), l: () => flip(showLabels), c: () => flip(showContours),
    ",": () => stepped(-0.05), ".": () => stepped(0.05), t: reset,
  };

  /* ---- the one that is pointed at, in the picture and in the list ---- */
  function relight() {
    const one = lit();
    for (const other of items) {
      other.drawn.classList.toggle("lit", other === one);
      other.row.classList.toggle("lit", other === one);
    }
    if (!waiting) { waiting = true; setTimeout(() => { waiting = false; layout(); }, 15); } // once a frame, however many events
  }
  function at(x, y, perPixel) { // the smallest box here; a tiny one may be missed by three pixels
    const slack = 3 * perPixel;
    const size = (one) => (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]);
    const hit = items.filter((one) => visible(one) && x > one.box[0] - slack && x < one.box[2] + slack && y > one.box[1] - slack && y < one.box[3] + slack);
    return hit.reduce((best, one) => (best && size(best) <= size(one) ? best : one), null);
  }
  function point(x, y, perPixel) {
    const one = x === undefined ? null : at(x, y, perPixel);
    if (one === hovered) return;
    hovered = one;
    if (one) list.scrollTop = one.row.offsetTop - list.clientHeight / 2;
    relight();
  }
  function pick(x, y, perPixel) {
    chosen = at(x, y, perPixel);
    if (chosen) { rove(chosen); list.scrollTop = chosen.row.offsetTop - list.clientHeight / 2; }
    relight();
  }

  /* ---- labels: beside their box, never on another box or label; highest-scoring first; where there is no room, none ---- */
  function place(box, pane, now) {
    view = { box, pane };
    if (now) layout(); else relight();
  }
  const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const holds = (a, b) => a !== b && a[0] <= b[0] && a[1] <= b[1] && a[2] >= b[2] && a[3] >= b[3];
  function around([x1, y1, x2, y2], width) {
    const middle = (y1 + y2 - HEIGHT) / 2;
    return [[x1, y1 - GAP - HEIGHT], [x1, y2 + GAP], [x2 + GAP, middle], [x1 - GAP - width, middle], [x2 - width, y1 - GAP - HEIGHT], [x2 - width, y2 + GAP]]
      .map(([x, y]) => [x, y, x + width, y + HEIGHT]);
  }
  /* What the pane itself writes: caption, eye, notice, scale bar, and the marks at the middle of each side. */
  const fixed = (w, h) => [[0, 0, 70, 26], [w - 70, 0, w, 36], [w - 190, h - 26, w, h], [0, h - 46, 140, h],
    [0, h / 2 - 11, 22, h / 2 + 11], [w - 22, h / 2 - 11, w, h / 2 + 11], [w / 2 - 11, 0, w / 2 + 11, 26], [w / 2 - 11, h - 26, w / 2 + 11, h]];
  function layout() {
    if (!view) return;
    const scale = view.box[2] / view.pane[0], [width, height] = view.pane;
    const onScreen = ([x1, y1, x2, y2]) => [(x1 - view.box[0]) / scale, (y1 - view.box[1]) / scale, (x2 - view.box[0]) / scale, (y2 - view.box[1]) / scale];
    const screen = [0, 0, width, height];
    const shown = items.filter(visible).map((one) => ({ one, rect: onScreen(one.box) })).filter(({ rect }) => overlap(rect, screen));
    const special = lit();
    const wanted = [...shown.filter(({ one }) => one === special), ...(showLabels.checked ? shown.filter(({ one }) => one !== special) : [])].slice(0, MOST_LABELS);
    const taken = fixed(width, height), made = [];
    for (const { one, rect } of wanted) {
      const score = one.score.toFixed(2), full = `${found.names[one.label]} ${score}`;
      const outer = shown.filter((other) => holds(other.rect, rect)).map((other) => other.rect);
      const room = (spot) => holds(screen, spot) && !taken.some((other) => overlap(other, spot)) && !shown.some((other) => overlap(other.rect, spot));
      const texts = one === special ? [[full, one.size].filter(Boolean).join(" · ")] : shown.length > CROWD ? [score] : [full, score];
      let best = null;
      for (const text of texts) {
        const wide = ruler.measureText(text).width + 2;
        const spots = [rect, ...outer].flatMap((box) => around(box, wide));
        let spot = spots.find(room);
        // What is pointed at is named in any case: outside its box if there is any side to it, else at the view's edge.
        if (!spot && one === special) spot = spots.find((other) => holds(screen, other)) || [8, 28, 8 + wide, 28 + HEIGHT];
        if (spot) { best = { text, spot }; break; }
      }
      if (!best) continue;
      const { text, spot } = best;
      taken.push([spot[0] - 3, spot[1] - 1, spot[2] + 3, spot[3] + 1]);
      const toScan = (x, y) => [view.box[0] + x * scale, view.box[1] + y * scale];
      if (outer.length) made.push(leader(rect, spot, toScan, one));
      const [x, y] = toScan(spot[0] + 1, spot[1] + TEXT);
      const label = make("text", { x, y, "font-size": TEXT * scale, fill: found.inks[one.label], class: one === special ? "lit" : "" });
      label.textContent = text;
      made.push(label);
    }
    names.replaceChildren(...made);
  }
  function leader(rect, spot, toScan, one) {
    const near = (value, low, high) => Math.min(Math.max(value, low), high);
    const middle = [(rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2];
    const start = [near(middle[0], spot[0], spot[2]), near(middle[1], spot[1], spot[3])];
    const [x1, y1] = toScan(...start), [x2, y2] = toScan(near(start[0], rect[0], rect[2]), near(start[1], rect[1], rect[3]));
    return make("line", { x1, y1, x2, y2, stroke: colours[one.label] });
  }

  return { place, point, pick, drawSlice, counts, update, keys, start: update };
};
