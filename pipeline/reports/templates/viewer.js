"use strict";
/* The case page: two views that move as one, classes that come and go, slices of a volume. Works from file://, fetches nothing.
   window.ocusegCase is the page on show; a page that puts another case in its place stops it and calls ocusegViewer again. */
window.ocusegViewer = () => {
  document.documentElement.classList.add("js"); // controls are shown from here on
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("case-data").textContent);
  const views = [...document.querySelectorAll(".view")];
  const overlay = byId("overlay");
  const layers = [...overlay.querySelectorAll(".layer")], halos = [...overlay.querySelectorAll("use.halo")];
  const SVG = "http://www.w3.org/2000/svg";
  /* What a detector found is drawn by objects.js; elsewhere there is nothing to draw. */
  const objects = data.objects ? window.ocusegObjects(data.objects, { overlay, layers, look: (...to) => view.look(...to), redraw: () => drawStrip() }) : null;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const over = new AbortController(), whileShown = { signal: over.signal };
  const view = window.ocusegView(data, views, overlay, () => objects, over.signal);

  /* ---- classes ---- */
  const toggles = [...document.querySelectorAll("input[data-class]")];
  const showOverlay = byId("show-overlay"), fill = byId("fill"), rings = byId("show-rings"), redFree = byId("red-free");
  let fills = layers.map((layer) => Number(layer.dataset.fill)); // in %, of each class
  let lastFills = fills.some((value) => value > 0) ? fills : fills.map(() => 35);
  function applyClasses() {
    toggles.forEach((box) => document.querySelectorAll(`.layer[data-class="${box.dataset.class}"], .halo[data-class="${box.dataset.class}"], #profile path[data-class="${box.dataset.class}"]`)
      .forEach((part) => part.classList.toggle("off", !box.checked)));
    overlay.classList.toggle("off", !showOverlay.checked);
    overlay.classList.toggle("no-rings", !rings.checked);
    if (objects) objects.update();
    layers.forEach((layer, k) => { layer.style.fillOpacity = fills[k] / 100; });
    const equal = fills.every((value) => value === fills[0]);
    fill.value = equal ? fills[0] || 0 : Math.max(...fills);
    byId("fill-value").textContent = equal ? fill.value + " %" : "by class";
    remember();
  }
  [...toggles, showOverlay, rings].forEach((box) => box.addEventListener("change", applyClasses));
  fill.addEventListener("input", () => { fills = fills.map(() => Number(fill.value)); applyClasses(); });
  document.querySelectorAll("input[data-opacity]").forEach((slider) => slider.addEventListener("input", () => {
    [layers, halos].forEach((parts) => { parts[Number(slider.dataset.opacity)].style.opacity = slider.value / 100; });
    slider.nextElementSibling.textContent = slider.value + " %";
  }));
  document.querySelectorAll("input[data-attention]").forEach((box) => {
    const seen = overlay.querySelector(`.attention[data-answer="${box.dataset.attention}"]`);
    const apply = () => seen.toggleAttribute("hidden", !box.checked);
    box.addEventListener("change", apply);
    apply();
  });
  const showUncertainty = byId("show-uncertainty");
  if (showUncertainty) showUncertainty.addEventListener("change", () => {
    overlay.querySelector(".uncertainty").toggleAttribute("hidden", !showUncertainty.checked);
  });
  const deviceLines = byId("device-lines"), showDevice = byId("show-device");
  if (showDevice) {
    const applyDevice = () => deviceLines.classList.toggle("off", !showDevice.checked);
    showDevice.addEventListener("change", applyDevice);
    applyDevice();
  }
  function applyPicture() {
    const filter = `${redFree && redFree.checked ? "url(#green) " : ""}brightness(${byId("brightness").value}%)`;
    document.querySelectorAll(".scan").forEach((image) => { image.style.filter = filter; });
    remember();
  }
  byId("brightness").addEventListener("input", applyPicture);
  if (redFree) redFree.addEventListener("change", applyPicture);
  const main = document.querySelector(".case-view"), single = byId("single"), oneToOne = byId("one-to-one");
  single.addEventListener("change", applyPanes);
  function applyPanes() { main.classList.toggle("single", single.checked); view.show(); remember(); }
  if (oneToOne) oneToOne.addEventListener("change", () => { view.setStretch(oneToOne.checked ? data.spacing[1] / data.spacing[0] : 1); remember(); });

  /* ---- the view stands in the address, beside the worklist's order and filters, so that it is kept from case to case ---- */
  let recalled = false;
  const VIEW = { panes: ["one", single], overlay: ["off", showOverlay], redfree: ["on", redFree], scale: ["um", oneToOne] };
  function remember() {
    if (!recalled) return;
    const stated = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const [key, [word, box]] of Object.entries(VIEW)) {
      if (!box) continue; // another kind of scan: the setting stays for the next
      if (box.checked !== (word === "off")) stated.set(key, word); else stated.delete(key);
    }
    history.replaceState(null, "", String(stated) ? "#" + stated : location.pathname + location.search);
  }
  function recall() {
    const stated = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const [key, [word, box]] of Object.entries(VIEW)) if (box && stated.get(key) === word) box.checked = word !== "off";
    recalled = true;
    if (single.checked) applyPanes();
    if (oneToOne && oneToOne.checked) oneToOne.dispatchEvent(new Event("change"));
  }
  for (const id of ["fellow", "visit", "patient"]) {
    const link = byId(id);
    if (link) link.addEventListener("click", () => { link.href = link.href.split("#")[0] + location.hash; });
  }
  const ringsExist = () => overlay.querySelector(".rings circle") !== null;
  byId("rings-control").hidden = !ringsExist();

  /* ---- slices ---- */
  const slider = byId("slice");
  const outlines = new Map();
  const asked = new Set();
  let slice = data.start;
  window.ocusegSlices = (part) => {
    if (!asked.has(document.currentScript.getAttribute("src"))) return; // it was asked for by a case that is no longer shown
    for (const [index, drawn] of Object.entries(part)) outlines.set(Number(index), drawn);
    if (part[slice]) drawSlice();
  };
  function drawSlice() {
    const drawn = outlines.get(slice);
    layers.forEach((layer, k) => {
      const surface = drawn && drawn.lines && drawn.lines[k];
      const area = layer.querySelector(".area");
      if (area) area.setAttribute("d", drawn ? drawn.paths[k] : "");
      layer.querySelector(".outline").setAttribute("d", !drawn ? "" : surface === undefined ? drawn.paths[k] : surface);
      layer.querySelector(".rings").replaceChildren(...(drawn ? drawn.rings[k] : []).map(([x, y, radius]) => {
        const ring = document.createElementNS(SVG, "circle");
        ring.setAttribute("cx", x); ring.setAttribute("cy", y); ring.setAttribute("r", radius);
        return ring;
      }));
    });
    const thick = [...document.querySelectorAll("#profile g path")];
    thick.forEach((path, k) => path.setAttribute("d", drawn && drawn.profile && drawn.profile[k] || ""));
    if (deviceLines) for (const line of deviceLines.children) line.setAttribute("d", drawn && drawn.device || "");
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
    const doubt = overlay.querySelector(".uncertainty image");
    if (doubt) doubt.setAttribute("href", data.uncertainty[slice]);
    document.dispatchEvent(new CustomEvent("ocuseg-slice", { detail: slice }));
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
      const colour = layers[k].getAttribute("color");
      Object.entries({ x: index, width: 0.92, y: row, height: 0.8, fill: colour, "fill-opacity": 0.25 + 0.75 * counts[k] / most[k] })
        .forEach(([name, value]) => bar.setAttribute(name, value));
    }));
  }

  /* ---- keys ---- */
  const help = byId("help");
  byId("help-button").onclick = () => help.showModal();
  const flip = (box) => { if (box) { box.checked = !box.checked; box.dispatchEvent(new Event("change")); } };
  const follow = (id) => { const link = byId(id); if (link) link.click(); };
  const letters = {
    o: () => flip(showOverlay),
    r: () => flip(rings),
    g: () => flip(redFree),
    u: () => flip(showUncertainty),
    d: () => flip(showDevice),
    f: () => { if (fills.some((value) => value > 0)) { lastFills = fills; fills = fills.map(() => 0); } else fills = lastFills; applyClasses(); },
    s: () => flip(single), m: () => flip(oneToOne),
    a: () => { const on = !toggles.every((box) => box.checked); toggles.forEach((box) => { box.checked = on; }); applyClasses(); },
    p: () => follow("previous"), n: () => follow("next"), w: () => follow("worklist-link"),
    e: () => follow("fellow"), v: () => follow("visit"), y: () => follow("patient"),
    "+": () => view.zoom(1.25), "=": () => view.zoom(1.25), "-": () => view.zoom(0.8), "0": view.fit,
    "?": () => (help.open ? help.close() : help.showModal()),
    ...(objects ? objects.keys : {}),
  };
  const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || (help.open && event.key !== "?")) return;
    const inSlider = event.target.type === "range";
    let used = true;
    if (event.key === " ") { // a button or link that has the focus keeps its key
      if (event.target.closest && event.target.closest("button, a, input, summary, select")) return;
      overlay.classList.add("peek");
      event.preventDefault();
      return;
    }
    if (event.key in steps && !inSlider) {
      const [dx, dy] = steps[event.key];
      if (slider) goTo(slice + dx + dy); else view.move(60 * dx, 60 * dy);
    } else if (slider && !inSlider && event.key === "PageUp") goTo(slice - 10);
    else if (slider && !inSlider && event.key === "PageDown") goTo(slice + 10);
    else if (slider && !inSlider && event.key === "Home") goTo(0);
    else if (slider && !inSlider && event.key === "End") goTo(data.images.length - 1);
    else if (/^[1-9]$/.test(event.key)) flip(toggles[Number(event.key) - 1]);
    else if (letters[event.key.toLowerCase()]) letters[event.key.toLowerCase()]();
    else used = false;
    if (used) event.preventDefault();
  }, whileShown);

  const unpeek = () => overlay.classList.remove("peek");
  document.addEventListener("keyup", (event) => { if (event.key === " ") unpeek(); }, whileShown);
  window.addEventListener("blur", unpeek, whileShown);

  /* A browser may restore boxes and sliders of an earlier visit; the page must show what they say. */
  recall();
  applyClasses();
  applyPicture();
  if (objects) { objects.start(); if (!slider) objects.drawSlice(slice, data.objects.outlines); }
  document.querySelectorAll("input[data-opacity]").forEach((slider) => slider.dispatchEvent(new Event("input")));
  if (slider && Number(slider.value) !== slice) goTo(Number(slider.value));
  view.show();
  return { view, goTo, slice: () => slice, stop: () => over.abort() };
};
window.ocusegCase = window.ocusegViewer();
