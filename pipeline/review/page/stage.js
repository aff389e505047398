/* What lies over the picture while a case is corrected, or once it was: the mask's pixels on a canvas of the scan's own resolution, and lines
   and handles above it. Both follow the viewer's window; its own contours are hidden meanwhile. */
import { make } from "./dom.js";

const FAINT = 0.3;

export class Stage {
  /* ``editing``: an area is always filled a little, so that one sees what one paints. */
  constructor(info, editing = false) {
    this.least = editing ? FAINT : 0;
    const pane = document.getElementById("pane-overlay");
    this.svg = pane.querySelector(".view");
    this.overlay = document.getElementById("overlay");
    this.info = info;
    const { width, height } = info.planes[0];
    this.canvas = make("canvas", { class: "review-mask", width, height, "aria-hidden": "true" });
    this.shapes = make("svg:svg", { class: "review-shapes", "aria-hidden": "true" });
    this.svg.after(this.canvas, this.shapes);
    this.context = this.canvas.getContext("2d");
    this.over = new AbortController();
    this.following = [];
    const signal = { signal: this.over.signal };
    this.overlay.classList.add("under-review");
    document.addEventListener("ocuseg-view", () => this.follow(), signal);
    for (const box of document.querySelectorAll("input[data-class], #fill, #show-overlay")) {
      for (const kind of ["change", "input"]) box.addEventListener(kind, () => this.restyle(), signal);
    }
    document.addEventListener("keydown", (event) => this.peek(event, true), signal);
    document.addEventListener("keyup", (event) => this.peek(event, false), signal);
    this.reach = 1;
    this.restyle();
    this.follow();
  }
  peek(event, on) {
    if (event.key === " ") for (const part of [this.canvas, this.shapes]) part.classList.toggle("review-hidden", on && this.overlay.classList.contains("peek"));
    else if (on) queueMicrotask(() => this.restyle()); // a key of the viewer may have changed what is shown
  }
  show(on) {
    this.overlay.classList.toggle("under-review", on);
    for (const part of [this.canvas, this.shapes]) part.toggleAttribute("hidden", !on);
  }
  close() {
    this.over.abort();
    this.overlay.classList.remove("under-review");
    this.canvas.remove();
    this.shapes.remove();
  }

  /* Nothing, until a mask is drawn: that of one slice on the picture of another would be a lie. */
  clear() {
    this.mask = null;
    delete this.canvas.dataset.slice;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.shapes.replaceChildren();
  }

  /* ---- the window ---- */
  follow() {
    const at = window.ocusegCase.view.place();
    this.perPixel = at.perPixel;
    this.across = at.across;
    this.canvas.style.transform = `matrix(${1 / at.across}, 0, 0, ${1 / at.perPixel}, ${-at.x / at.across}, ${-at.y / at.perPixel})`;
    this.canvas.style.imageRendering = at.perPixel < 0.8 ? "pixelated" : "auto";
    for (const name of ["viewBox", "preserveAspectRatio"]) this.shapes.setAttribute(name, this.svg.getAttribute(name));
    const reach = Math.min(Math.max(Math.round(1.2 * at.perPixel), 1), 6);
    if (reach !== this.reach) {
      this.reach = reach;
      if (this.mask) this.draw(this.mask);
    }
    this.following.forEach((run) => run());
  }
  point(event) { return window.ocusegCase.view.scanPoint(event); }

  /* ---- colours ---- */
  visible(k) {
    const box = document.querySelector(`input[data-class="${k - 1}"]`), all = document.getElementById("show-overlay");
    return (!box || box.checked) && (!all || all.checked);
  }
  restyle() {
    const fill = Math.max(Number((document.getElementById("fill") || { value: 0 }).value) / 100, this.least);
    const look = this.info.classes.map((cls) => `${cls.index} ${this.visible(cls.index)}`).join() + fill;
    if (look === this.look) return;
    this.look = look;
    const pixels = (cls) => !this.info.instances || cls.kind !== "object"; // objects with a mask each are drawn as such
    this.inks = new Map(this.info.classes.filter((cls) => this.visible(cls.index) && pixels(cls)).map((cls) => {
      const rgb = Number.parseInt(cls.colour.slice(1), 16), bgr = ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16);
      return [cls.index, { edge: (0xff000000 | bgr) >>> 0, area: ((Math.round(255 * fill) << 24) | bgr) >>> 0 }];
    }));
    if (this.mask) this.draw(this.mask);
    this.following.forEach((run) => run());
  }

  /* Draw a mask, or the rectangle of it that changed: the border of a class in its colour, ``reach`` pixels wide so that it is seen from afar,
     its area fainter; of several classes the last. */
  draw(mask, box = [0, 0, mask.width, mask.height]) {
    this.mask = mask;
    this.canvas.dataset.slice = window.ocusegCase.slice();
    const { width, height, values, encoding } = mask, { reach, inks } = this;
    const [x0, y0, x1, y1] = [Math.max(box[0] - reach, 0), Math.max(box[1] - reach, 0), Math.min(box[2] + reach, width), Math.min(box[3] + reach, height)];
    if (x0 >= x1 || y0 >= y1) return;
    const picture = new ImageData(x1 - x0, y1 - y0), out = new Uint32Array(picture.data.buffer);
    const ranks = [...inks.keys()].sort((a, b) => b - a), tops = new Map();
    const topOf = (value) => {
      if (!tops.has(value)) tops.set(value, ranks.find((k) => encoding.has(value, k)) || 0);
      return tops.get(value);
    };
    /* What all pixels have that lie ``step`` beside this one: bits of overlapping classes; of exclusive ones the value itself, or 0. */
    const shared = (at, x, y, step, value) => {
      const left = x >= step ? values[at - step] : value, right = x + step < width ? values[at + step] : value;
      const above = y >= step ? values[at - step * width] : value, below = y + step < height ? values[at + step * width] : value;
      if (encoding.overlapping) return left & right & above & below;
      return left === value && right === value && above === value && below === value ? value : 0;
    };
    for (let y = y0; y < y1; y += 1) {
      for (let x = x0; x < x1; x += 1) {
        const at = y * width + x, value = values[at];
        if (!value) continue;
        let inner = shared(at, x, y, 1, value);
        if (reach > 1) inner &= shared(at, x, y, reach, value);
        const border = topOf(encoding.overlapping ? value & ~inner : inner === value ? 0 : value), top = border || topOf(value);
        out[(y - y0) * (x1 - x0) + x - x0] = !top ? 0 : border ? inks.get(border).edge : inks.get(top).area;
      }
    }
    this.context.putImageData(picture, x0, y0);
  }

  /* ---- lines and boxes that nobody drags ---- */
  line(rows, colour, more = {}) {
    let path = "", on = false;
    rows.forEach((row, x) => {
      if (row === null) { on = false; return; }
      path += `${on ? "L" : "M"}${x + 0.5} ${row}`;
      on = true;
    });
    return make("svg:path", { class: "review-line", d: path, stroke: colour, ...more });
  }
  box([x0, y0, x1, y1], colour, more = {}) {
    return make("svg:rect", { class: "review-box", x: x0, y: y0, width: x1 - x0, height: y1 - y0, stroke: colour, ...more });
  }
}
