/* Brush, eraser, polygon and fill. A tool: { name, key_, words, title, hint, fits, down, move, up, cancel, draw, and where it needs them enter, key, relabel }. */
import { make } from "./dom.js";
import { polygon, region, stroke } from "./shapes.js";

const snapped = ([x, y]) => [Math.floor(x) + 0.5, Math.floor(y) + 0.5];
const paintable = ({ info }) => info.planes.some((plane) => plane.mask) && info.classes.some((cls) => info.instances || cls.kind !== "object");

function strokes(editor, erases, tool) {
  let last = null, erase = erases;
  return {
    ...tool, fits: paintable(editor),
    down(point, event) {
      erase = erases || Boolean(event.buttons & 32); // the pen's other end
      last = snapped(point);
      editor.begin();
      editor.paint(stroke(last, last, editor.size / 2), erase);
    },
    move(point) {
      const now = snapped(point);
      if (!last || (now[0] === last[0] && now[1] === last[1])) return;
      editor.paint(stroke(last, now, editor.size / 2), erase);
      last = now;
    },
    up() { if (last) editor.commit(tool.name); last = null; },
    cancel() {
      if (!last) return false;
      editor.rewind();
      editor.before = null;
      last = null;
      return true;
    },
    draw() {
      if (!editor.pointer) return [];
      const [cx, cy] = snapped(editor.pointer);
      return ["review-cursor under", "review-cursor"].map((name) => make("svg:circle", { class: name, cx, cy, r: editor.size / 2 }));
    },
  };
}
export const brushTool = (editor) => strokes(editor, false, { name: "brush", key_: "b", words: "Brush", title: "Brush", hint: "Draw to add to the chosen class; [ and ] change the size, the right button moves the picture." });
export const eraserTool = (editor) => strokes(editor, true, { name: "eraser", key_: "e", words: "Eraser", title: "Eraser", hint: "Draw to take away from the chosen class; [ and ] change the size." });

export function polygonTool(editor) {
  let points = [];
  const close = (erase) => {
    if (points.length > 2) { editor.begin(); editor.paint(polygon(points), erase); editor.commit("polygon"); }
    points = [];
  };
  return {
    name: "polygon", key_: "p", words: "Polygon", title: "Polygon", fits: paintable(editor),
    hint: "Click the corners; Enter or a click on the first corner closes it and adds what is inside, Shift + Enter takes it away; Backspace goes back one corner.",
    down(point, event) {
      const [first] = points, near = 9 * editor.stage.perPixel;
      if (points.length > 2 && Math.hypot(point[0] - first[0], point[1] - first[1]) < near) close(event.shiftKey); else points.push(point);
    },
    move() {},
    up() {},
    cancel() { const open = points.length > 0; points = []; return open; },
    key(event) {
      if (event.key === "Enter" && points.length) { close(event.shiftKey); return true; }
      if (event.key === "Backspace" && points.length) { points.pop(); return true; }
      return false;
    },
    draw() {
      if (!points.length) return [];
      const shown = [...points, ...(editor.pointer ? [editor.pointer] : [])].map((point) => point.join(" ")).join(" ");
      return [...["review-path under", "review-path"].map((name) => make("svg:polygon", { class: name, points: shown })),
        ...points.map(([cx, cy], k) => make("svg:ellipse", { class: "review-handle", cx, cy, rx: (k ? 3 : 6) * editor.stage.across, ry: (k ? 3 : 6) * editor.stage.perPixel }))];
    },
  };
}

export function fillTool(editor) {
  return {
    name: "fill", key_: "f", words: "Fill", title: "Fill an enclosed region", fits: paintable(editor),
    hint: "Click inside a closed outline to fill it with the chosen class; Shift + click takes a whole connected part of it away.",
    down(point, event) {
      const [x, y] = point.map(Math.floor), { target: mask, label } = editor;
      if (x < 0 || y < 0 || x >= mask.width || y >= mask.height) return;
      const having = mask.has(x, y, label);
      if (having !== event.shiftKey) { editor.say(having ? "This is filled already; Shift + click takes the part away." : "There is nothing of the chosen class to take away here.", true); return; }
      const { spans, open } = region(mask, x, y, label, having);
      if (open && !having) { editor.say("This region is not enclosed: it reaches the picture's edge. Close its outline with the brush first.", true); return; }
      editor.begin();
      editor.paint(spans, having);
      editor.commit("fill");
    },
    move() {},
    up() {},
    cancel: () => false,
    draw: () => [],
  };
}
