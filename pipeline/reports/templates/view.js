"use strict";
/* The window on the scan of a case page: zoom, moving, the crosshair and the scale bar; both views show it. viewer.js calls it. */
window.ocusegView = (data, views, overlay, objects, signal) => {
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  /* ---- one window on the scan, in its pixels; both views show it ---- */
  let centre = [data.columns / 2, data.rows / 2];
  let perPixel = 1; // scan pixels per CSS pixel
  let fitted = true;
  let stretch = 1; // how much wider than high a scan pixel is shown
  let paper = null; // width and height of a view while the page is printed
  const front = views[views.length - 1]; // the other one may be hidden
  const pane = () => { const box = front.getBoundingClientRect(); return paper || [Math.max(box.width, 1), Math.max(box.height, 1)]; };
  const fitScale = () => { const [w, h] = pane(); return Math.max(data.columns * stretch / w, data.rows / h); };
  const across = () => perPixel / stretch; // scan columns per CSS pixel; perPixel counts rows

  function show() {
    const [w, h] = pane();
    const limit = fitScale();
    if (fitted) { perPixel = limit; centre = [data.columns / 2, data.rows / 2]; }
    perPixel = clamp(perPixel, 1 / 24, limit * 2);
    centre = [clamp(centre[0], 0, data.columns), clamp(centre[1], 0, data.rows)];
    const box = [centre[0] - w * across() / 2, centre[1] - h * perPixel / 2, w * across(), h * perPixel];
    for (const view of views) {
      view.setAttribute("viewBox", box.map((n) => n.toFixed(3)).join(" "));
      view.setAttribute("preserveAspectRatio", stretch === 1 ? "xMidYMid" : "none");
      view.querySelector(".scan").style.imageRendering = perPixel < 0.25 ? "pixelated" : "auto";
    }
    const close = perPixel < 0.5; // there is room for a bolder line
    for (const [name, width] of Object.entries({ line: close ? 2 : 1.25, halo: close ? 5 : 3.5, thin: close ? 2 : 1, "thin-halo": close ? 4.5 : 2.6 })) {
      overlay.style.setProperty("--" + name, width + "px");
    }
    byId("zoom").textContent = fitted ? "fit" : Math.round(100 / perPixel) + " %";
    drawScaleBar(box);
    if (objects()) objects().place(box, [w, h], paper !== null);
    document.dispatchEvent(new Event("ocuseg-view"));
  }
  /* Bring a box (x1, y1, x2, y2) into the middle, large enough to judge it: a fifth of the view. */
  function look([x1, y1, x2, y2], closer) {
    const [w, h] = pane();
    if (closer) perPixel = Math.min(perPixel, clamp(5 * Math.max((x2 - x1) * stretch / w, (y2 - y1) / h), 0.1, fitScale()));
    else if (fitted || Math.abs((x1 + x2) / 2 - centre[0]) < 0.45 * w * across() && Math.abs((y1 + y2) / 2 - centre[1]) < 0.45 * h * perPixel) return;
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
  function move(dx, dy) { centre = [centre[0] + dx * across(), centre[1] + dy * perPixel]; fitted = false; show(); }
  function fit() { fitted = true; show(); }
  function scanPoint(view, event) {
    const box = view.getBoundingClientRect();
    return [centre[0] + (event.clientX - box.left - box.width / 2) * across(), centre[1] + (event.clientY - box.top - box.height / 2) * perPixel];
  }

  /* The bar lies in scan pixels inside the picture, so that a print, at whatever size, keeps it true. */
  function drawScaleBar(box) {
    for (const view of views) {
      const bar = view.querySelector(".scalebar");
      bar.replaceChildren();
      if (!data.spacing) continue;
      const [rowSpacing, columnSpacing] = data.spacing;
      const target = 110 * perPixel;
      const x = box[0] + 14 * across(), y = box[1] + box[3] - 26 * perPixel;
      if (columnSpacing) {
        const length = niceLength(110 * across() * columnSpacing);
        line(bar, x, y, x + length / columnSpacing, y);
        label(bar, x, y + 17 * perPixel, lengthText(length));
      }
      if (rowSpacing && !(columnSpacing && Math.abs(rowSpacing / columnSpacing - 1) <= 0.01)) {
        const down = niceLength(target * rowSpacing);
        line(bar, x, y, x, y - down / rowSpacing);
        label(bar, x + 7 * across(), y - down / rowSpacing + 10 * perPixel, lengthText(down));
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
    made.setAttribute("transform", `translate(${x} ${y}) scale(${1 / stretch} 1)`); made.setAttribute("font-size", 12.5 * perPixel);
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
      if (objects() && !last) objects().point(x, y, perPixel);
      for (const other of views) {
        const cross = other.querySelector(".cross");
        cross.toggleAttribute("hidden", other === view);
        cross.style.display = other === view ? "none" : "";
        cross.setAttribute("transform", `translate(${x} ${y}) scale(${across()} ${perPixel})`);
      }
    });
    const stop = () => { last = null; view.classList.remove("moving"); };
    view.addEventListener("pointerup", (event) => {
      if (objects() && from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) < 4) objects().pick(...scanPoint(view, event), perPixel);
      stop();
    });
    view.addEventListener("pointercancel", stop);
    view.addEventListener("pointerleave", () => { if (objects()) objects().point(); });
    view.addEventListener("pointerleave", () => views.forEach((v) => { v.querySelector(".cross").style.display = "none"; }));
    view.addEventListener("dblclick", fit);
    view.querySelector(".cross").style.display = "none";
  }
  byId("zoom-in").onclick = () => zoom(1.4);
  byId("zoom-out").onclick = () => zoom(1 / 1.4);
  byId("fit").onclick = fit;
  const watched = new ResizeObserver(show);
  watched.observe(front);
  signal.addEventListener("abort", () => watched.disconnect());
  let unstretched = 1;
  window.addEventListener("beforeprint", () => { unstretched = stretch; stretch = 1; paper = [510, objects() ? 348 : 400]; show(); }, { signal }); // A4 across, as report.css sets it
  window.addEventListener("afterprint", () => { stretch = unstretched; paper = null; show(); }, { signal });
  function setStretch(wanted) { stretch = wanted; fitted = true; show(); }

  /* Where the window stands: its corner in scan pixels, and scan columns and rows per CSS pixel. */
  function place() {
    const [w, h] = pane();
    return { x: centre[0] - w * across() / 2, y: centre[1] - h * perPixel / 2, across: across(), perPixel };
  }

  return { show, look, zoom, move, fit, setStretch, place, scanPoint: (event) => scanPoint(front, event) };
};
