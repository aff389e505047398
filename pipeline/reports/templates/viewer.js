"use strict";
/* The case page: two views that move as one, classes that come and go, slices of a volume. Works from file://, fetches nothing. */
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("case-data").textContent);
  const views = [...document.querySelectorAll(".view")];
  const overlay = byId("overlay");
  const layers = [...overlay.querySelectorAll(".layer")];
  const SVG = "http://www.w3.org/2000/svg";
  /* What a detector found is drawn by objects.js; elsewhere there is nothing to draw. */
  const objects = window.ocusegObjects ? window.ocusegObjects(data.objects, { overlay, layers, look, redraw: () => drawStrip() }) : null;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /* ---- one window on the scan, in its pixels; both views show it ---- */
  let centre = [data.columns / 2, data.rows / 2];
  let perPixel = 1; // scan pixels per CSS pixel
  let fitted = true;
  let paper = null; // width and height of a view while the page is printed
  const pane = () => { const box = views[0].getBoundingClientRect(); return paper || [Math.max(box.width, 1), Math.max(box.height, 1)]; };
  const fitScale = () => { const [w, h] = pane(); return Math.max(data.columns / w, data.rows / h); };

  function show() {
    const [w, h] = pane();
    const limit = fitScale();
    if (fitted) { perPixel = limit; centre = [data.columns / 2, data.rows / 2]; }
    perPixel = clamp(perPixel, 1 / 24, limit * 2);
    centre = [clamp(centre[0], 0, data.columns), clamp(centre[1], 0, data.rows)];
    const box = [centre[0] - w * perPixel / 2, centre[1] - h * perPixel / 2, w * perPixel, h * perPixel];
    for (const view of views) {
      view.setAttribute("viewBox", box.map((n) => n.toFixed(3)).join(" "));
      view.querySelector(".scan").style.imageRendering = perPixel < 0.25 ? "pixelated" : "auto";
    }
    overlay.style.setProperty("--line", (perPixel < 0.5 ? 2 : 1.25) + "px"); // close up there is room for a bolder line
    byId("zoom").textContent = fitted ? "fit" : Math.round(100 / perPixel) + " %";
    drawScaleBar(box);
    if (objects) objects.place(box, [w, h], paper !== null);
  }
  /* Bring a box (x1, y1, x2, y2) into the middle, large enough to judge it: a fifth of the view. */
  function look([x1, y1, x2, y2], closer) {
    const [w, h] = pane();
    if (closer) perPixel = Math.min(perPixel, clamp(5 * Math.max((x2 - x1) / w, (y2 - y1) / h), 0.1, fitScale()));
    else if (fitted || Math.abs((x1 + x2) / 2 - centre[0]) < 0.45 * w * perPixel && Math.abs((y1 + y2) / 2 - centre[1]) < 0.45 * h * perPixel) return;
    centre = [(x1 + x2) / 2, (y1 + y2) / 2];
    fitted = false;
    show();
  }
  function zoom(factor, at) {
    const point = at || centre;
    const before = perPixel;
    perPixel = clamp(perPixel / factor, 1 / 24, fitScale() * 2);
    const grown = perPixel / before;
    centre = [point[0] + (centre[0] - point[0]) * grown, point[1] + (centre[1] - point[1]) * grown];
    fitted = false;
    show();
  }
  function move(dx, dy) { centre = [centre[0] + dx * perPixel, centre[1] + dy * perPixel]; fitted = false; show(); }
  function fit() { fitted = true; show(); }
  function scanPoint(view, event) {
    const box = view.getBoundingClientRect();
    return [centre[0] + (event.clientX - box.left - box.width / 2) * perPixel, centre[1] + (event.clientY - box.top - box.height / 2) * perPixel];
  }

  /* The bar lies in scan pixels inside the picture, so that a print, at whatever size, keeps it true. */
  function drawScaleBar(box) {
    for (const view of views) {
      const bar = view.querySelector(".scalebar");
      bar.replaceChildren();
      if (!data.spacing) continue;
      const [rowSpacing, columnSpacing] = data.spacing;
      const target = 110 * perPixel;
      const x = box[0] + 14 * perPixel, y = box[1] + box[3] - 26 * perPixel;
      if (columnSpacing) {
        const across = niceLength(target * columnSpacing);
        line(bar, x, y, x + across / columnSpacing, y);
        label(bar, x, y + 17 * perPixel, lengthText(across));
      }
      if (rowSpacing && !(columnSpacing && Math.abs(rowSpacing / columnSpacing - 1) <= 0.01)) {
        const down = niceLength(target * rowSpacing);
        line(bar, x, y, x, y - down / rowSpacing);
        label(bar, x + 7 * perPixel, y - down / rowSpacing + 10 * perPixel, lengthText(down));
      }
    }
  }
  function niceLength(longest) {
    const power = 10 ** Math.floor(Math.log10(longest));
    return [5, 2, 1].map((n) => n * power).find((n) => n <= longest) || power;
  }
  const lengthText = (mm) => mm < 1 ? Number((mm * 1000).toPrecision(3)) + " µm" : Number(mm.toPrecision(3)) + " mm";
  function line(parent, x1, y1, x2, y2) {
    for (const kind of ["edge", ""]) {
      const made = parent.appendChild(document.createElementNS(SVG, "line"));
      if (kind) made.setAttribute("class", kind);
      Object.entries({ x1, y1, x2, y2 }).forEach(([name, value]) => made.setAttribute(name, value));
    }
  }
  function label(parent, x, y, text) {
    const made = parent.appendChild(document.createElementNS(SVG, "text"));
    made.setAttribute("x", x); made.setAttribute("y", y); made.setAttribute("font-size", 12.5 * perPixel);
    made.textContent = text;
  }

  for (const view of views) {
    view.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-clamp(event.deltaY, -120, 120) / 400), scanPoint(view, event));
    }, { passive: false });
    let last = null, from = null;
    view.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      last = from = [event.clientX, event.clientY];
      view.setPointerCapture(event.pointerId);
      view.classList.add("moving");
    });
    view.addEventListener("pointermove", (event) => {
      if (last) { move(last[0] - event.clientX, last[1] - event.clientY); last = [event.clientX, event.clientY]; }
      const [x, y] = scanPoint(view, event);
      if (objects && !last) objects.point(x, y, perPixel);
      for (const other of views) {
        const cross = other.querySelector(".cross");
        cross.toggleAttribute("hidden", other === view);
        cross.style.display = other === view ? "none" : "";
        cross.setAttribute("transform", `translate(${x} ${y}) scale(${perPixel})`);
      }
    });
    const stop = () => { last = null; view.classList.remove("moving"); };
    view.addEventListener("pointerup", (event) => {
      if (objects && from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) < 4) objects.pick(...scanPoint(view, event), perPixel);
      stop();
    });
    view.addEventListener("pointercancel", stop);
    if (objects) view.addEventListener("pointerleave", () => objects.point());
    view.addEventListener("pointerleave", () => views.forEach((v) => { v.querySelector(".cross").style.display = "none"; }));
    view.addEventListener("dblclick", fit);
    view.querySelector(".cross").style.display = "none";
  }
  byId("zoom-in").onclick = () => zoom(1.4);
  byId("zoom-out").onclick = () => zoom(1 / 1.4);
  byId("fit").onclick = fit;
  new ResizeObserver(show).observe(views[0]);
  window.addEventListener("beforeprint", () => { paper = [510, objects ? 348 : 400]; show(); }); // A4 across, as report.css sets it
  window.addEventListener("afterprint", () => { paper = null; show(); });

  /* ---- classes ---- */
  const toggles = [...document.querySelectorAll("input[data-class]")];
  const showOverlay = byId("show-overlay"), fill = byId("fill"), rings = byId("show-rings"), redFree = byId("red-free");
  function applyClasses() {
    toggles.forEach((box) => layers[Number(box.dataset.class)].classList.toggle("off", !box.checked));
    overlay.classList.toggle("off", !showOverlay.checked);
    overlay.classList.toggle("no-rings", !rings.checked);
    if (objects) objects.update();
    overlay.style.setProperty("--fill", fill.value / 100);
    byId("fill-value").textContent = fill.value + " %";
  }
  [...toggles, showOverlay, rings].forEach((box) => box.addEventListener("change", applyClasses));
  fill.addEventListener("input", applyClasses);
  document.querySelectorAll("input[data-opacity]").forEach((slider) => slider.addEventListener("input", () => {
    layers[Number(slider.dataset.opacity)].style.opacity = slider.value / 100;
    slider.nextElementSibling.textContent = slider.value + " %";
  }));
  document.querySelectorAll("input[data-attention]").forEach((box) => {
    const seen = overlay.querySelector(`.attention[data-answer="${box.dataset.attention}"]`);
    const apply = () => seen.toggleAttribute("hidden", !box.checked);
    box.addEventListener("change", apply);
    apply();
  });
  function applyPicture() {
    const filter = `${redFree && redFree.checked ? "url(#green) " : ""}brightness(${byId("brightness").value}%)`;
    document.querySelectorAll(".scan").forEach((image) => { image.style.filter = filter; });
  }
  byId("brightness").addEventListener("input", applyPicture);
  if (redFree) redFree.addEventListener("change", applyPicture);
  const ringsExist = () => overlay.querySelector(".rings circle") !== null;
  byId("rings-control").hidden = !ringsExist();

  /* ---- slices ---- */
  const slider = byId("slice");
  const outlines = new Map();
  const asked = new Set();
  let slice = data.start;
  window.ocusegSlices = (part) => {
    for (const [index, drawn] of Object.entries(part)) outlines.set(Number(index), drawn);
    if (part[slice]) drawSlice();
  };
  function drawSlice() {
    const drawn = outlines.get(slice);
    layers.forEach((layer, k) => {
      layer.querySelector("path").setAttribute("d", drawn ? drawn.paths[k] : "");
      layer.querySelector(".rings").replaceChildren(...(drawn ? drawn.rings[k] : []).map(([x, y, radius]) => {
        const ring = document.createElementNS(SVG, "circle");
        ring.setAttribute("cx", x); ring.setAttribute("cy", y); ring.setAttribute("r", radius);
        return ring;
      }));
    });
    if (objects) objects.drawSlice(slice, drawn && drawn.outlines || {});
    overlay.dataset.slice = drawn ? slice : "loading";
    if (drawn && ringsExist()) byId("rings-control").hidden = false;
  }
  function askFor(index) {
    const source = data.scripts[index];
    if (!source || outlines.has(index) || asked.has(source)) return;
    asked.add(source);
    const script = document.createElement("script");
    script.src = source;
    script.onerror = () => { asked.delete(source); byId("slice-text").textContent = "contours of this slice are missing"; };
    document.head.append(script);
  }
  function goTo(index) {
    slice = clamp(index, 0, data.images.length - 1);
    slider.value = slice;
    byId("slice-text").textContent = `slice ${slice + 1} of ${data.images.length}`;
    // The old contours go at once: those of one slice on the picture of another would be a lie.
    drawSlice();
    askFor(slice);
    document.querySelectorAll(".scan").forEach((image) => image.setAttribute("href", data.images[slice]));
    document.querySelectorAll(".attention").forEach((seen) => {
      seen.querySelector("image").setAttribute("href", data.attention[Number(seen.dataset.answer)][slice]);
    });
    document.querySelectorAll("[data-slice-pixels]").forEach((cell) => {
      cell.textContent = data.pixels[slice][Number(cell.dataset.slicePixels)].toLocaleString("en").replaceAll(",", "\u202f");
    });
    for (const near of [slice + 1, slice - 1, slice + 2]) {
      if (data.images[near]) { new Image().src = data.images[near]; askFor(near); }
    }
  }
  if (slider) {
    slider.addEventListener("input", () => goTo(Number(slider.value)));
    byId("slice-back").onclick = () => goTo(slice - 1);
    byId("slice-on").onclick = () => goTo(slice + 1);
    drawStrip();
    askFor(slice);
  }
  /* Above the slider, a row for each class that was found: the fuller the colour, the more of it lies in that slice. */
  function drawStrip() {
    const strip = byId("strip");
    if (!strip) return;
    const amounts = objects ? objects.counts(data.images.length) : data.pixels;
    const most = layers.map((_, k) => Math.max(...amounts.map((counts) => counts[k])));
    const found = layers.map((_, k) => k).filter((k) => most[k] > 0);
    strip.replaceChildren();
    strip.setAttribute("viewBox", `0 0 ${amounts.length} ${Math.max(found.length, 1)}`);
    strip.style.height = 6 * found.length + "px";
    found.forEach((k, row) => amounts.forEach((counts, index) => {
      if (!counts[k]) return;
      const bar = strip.appendChild(document.createElementNS(SVG, "rect"));
      const colour = layers[k].style.getPropertyValue("--colour");
      Object.entries({ x: index, width: 0.92, y: row, height: 0.8, fill: colour, "fill-opacity": 0.25 + 0.75 * counts[k] / most[k] })
        .forEach(([name, value]) => bar.setAttribute(name, value));
    }));
  }

  /* ---- keys ---- */
  const help = byId("help");
  byId("help-button").onclick = () => help.showModal();
  const flip = (box) => { if (box) { box.checked = !box.checked; box.dispatchEvent(new Event("change")); } };
  const follow = (id) => { const link = byId(id); if (link) link.click(); };
  let lastFill = 35;
  const letters = {
    o: () => flip(showOverlay),
    r: () => flip(rings),
    g: () => flip(redFree),
    f: () => { if (fill.value > 0) { lastFill = fill.value; fill.value = 0; } else { fill.value = lastFill; } applyClasses(); },
    a: () => { const on = !toggles.every((box) => box.checked); toggles.forEach((box) => { box.checked = on; }); applyClasses(); },
    p: () => follow("previous"), n: () => follow("next"), w: () => follow("worklist-link"),
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": fit,
    "?": () => (help.open ? help.close() : help.showModal()),
    ...(objects ? objects.keys : {}),
  };
  const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || (help.open && event.key !== "?")) return;
    const inSlider = event.target.type === "range";
    let used = true;
    if (event.key in steps && !inSlider) {
      const [dx, dy] = steps[event.key];
      if (slider) goTo(slice + dx + dy); else move(60 * dx, 60 * dy);
    } else if (slider && !inSlider && event.key === "PageUp") goTo(slice - 10);
    else if (slider && !inSlider && event.key === "PageDown") goTo(slice + 10);
    else if (slider && !inSlider && event.key === "Home") goTo(0);
    else if (slider && !inSlider && event.key === "End") goTo(data.images.length - 1);
    else if (/^[1-9]$/.test(event.key)) flip(toggles[Number(event.key) - 1]);
    else if (letters[event.key.toLowerCase()]) letters[event.key.toLowerCase()]();
    else used = false;
    if (used) event.preventDefault();
  });

  /* A browser may restore boxes and sliders of an earlier visit; the page must show what they say. */
  applyClasses();
  applyPicture();
  if (objects) { objects.start(); if (!slider) objects.drawSlice(slice, data.objects.outlines); }
  document.querySelectorAll("input[data-opacity]").forEach((slider) => slider.dispatchEvent(new Event("input")));
  if (slider && Number(slider.value) !== slice) goTo(Number(slider.value));
  show();
})();
