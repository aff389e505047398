/* Disc and cup as ellipses that are dragged: centre, ends of both axes, rotation. What is inside is the class, pixel by pixel, at every moment. */
import { make } from "./dom.js";
import { ellipse, fitted } from "./shapes.js";

export function ellipseTool(editor) {
  const classes = editor.info.classes.filter((cls) => cls.kind === "ellipse");
  let own = null, drag = null, before = []; // the last: the class as it was when the drag began
  const turned = ({ x, y, angle }, u, v) => [x + u * Math.cos(angle) - v * Math.sin(angle), y + u * Math.sin(angle) + v * Math.cos(angle)];
  const within = ({ x, y, angle }, [px, py]) => [(px - x) * Math.cos(angle) + (py - y) * Math.sin(angle), -(px - x) * Math.sin(angle) + (py - y) * Math.cos(angle)];
  const arm = () => own.a + 26 * editor.stage.perPixel;
  const handles = () => ({ a: turned(own, own.a, 0), "-a": turned(own, -own.a, 0), b: turned(own, 0, own.b), "-b": turned(own, 0, -own.b), turn: turned(own, arm(), 0), centre: [own.x, own.y] });
  /* The spans of the class as the mask holds it. */
  function held({ mask, label }) {
    const out = [];
    for (let y = 0; y < mask.height; y += 1) {
      for (let x = 0; x < mask.width; x += 1) {
        const start = x;
        while (x < mask.width && mask.has(x, y, label)) x += 1;
        if (x > start) out.push([y, start, x]);
      }
    }
    return out;
  }
  /* The class becomes what the ellipse holds; what lies inside it (the cup of a disc) stays where both hold it. */
  function put() {
    editor.rewind();
    const inside = [...ellipse(own)], rows = new Map();
    for (const [y, start, stop] of inside) rows.set(y, [start, stop]);
    const outside = before.flatMap(([y, start, stop]) => { const [a, b] = rows.get(y) || [stop, stop]; return [[y, start, Math.min(stop, a)], [y, Math.max(start, b), stop]].filter(([, from, to]) => from < to); });
    editor.paint(outside, true);
    editor.paint(inside);
  }
  function enter() { own = classes.some((cls) => cls.index === editor.label) ? fitted(editor.mask, editor.label) : null; drag = null; }
  function change(next) {
    own = { ...own, ...next };
    own.a = Math.max(own.a, 0.5);
    own.b = Math.max(own.b, 0.5);
    put();
  }
  return {
    name: "ellipse", key_: "d", words: "Ellipse", title: "Ellipse of the disc or cup", fits: classes.length > 0,
    hint: "Drag the ellipse, the ends of its axes or the handle that turns it; where there is none, drag one open. Arrows move it, Shift + arrows size it.",
    enter() { if (!classes.some((cls) => cls.index === editor.label)) editor.chooseClass(classes[0].index); enter(); },
    relabel() { enter(); if (!own) editor.say("This class is not in the picture: drag an ellipse open."); },
    down(point) {
      if (!classes.some((cls) => cls.index === editor.label)) { editor.say("Choose the disc or the cup first.", true); return; }
      const near = 10 * editor.stage.perPixel, spots = own ? handles() : {};
      const hit = Object.keys(spots).find((name) => name !== "centre" && Math.hypot(spots[name][0] - point[0], spots[name][1] - point[1]) < near);
      const [u, v] = own ? within(own, point) : [9, 9];
      const part = hit || (own && (u / own.a) ** 2 + (v / own.b) ** 2 <= 1 ? "centre" : own ? null : "new");
      if (!part) { editor.say("Drag the ellipse itself or one of its handles."); return; }
      editor.begin();
      before = held(editor);
      drag = { part, from: point, start: own };
    },
    move(point) {
      if (!drag) return;
      const { part, from, start } = drag;
      if (part === "new") {
        if (Math.hypot(point[0] - from[0], point[1] - from[1]) < 2) return;
        own = { x: 0, y: 0, a: 1, b: 1, angle: 0 };
        change({ x: (from[0] + point[0]) / 2, y: (from[1] + point[1]) / 2, a: Math.abs(point[0] - from[0]) / 2, b: Math.abs(point[1] - from[1]) / 2 });
      } else if (part === "centre") change({ x: start.x + point[0] - from[0], y: start.y + point[1] - from[1] });
      else if (part === "turn") change({ angle: Math.atan2(point[1] - own.y, point[0] - own.x) });
      else change({ [part.at(-1)]: Math.abs(within(own, point)[part.endsWith("a") ? 0 : 1]) });
    },
    up() { if (drag) editor.commit("ellipse"); drag = null; },
    cancel() {
      if (!drag) return false;
      editor.rewind();
      editor.before = null;
      own = drag.start;
      drag = null;
      return true;
    },
    key(event) {
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [];
      if (dx === undefined || !own || drag) return false;
      editor.begin();
      before = held(editor);
      if (event.shiftKey) {
        const level = Math.abs(Math.cos(own.angle)) >= Math.SQRT1_2; // the first axis lies nearer to the rows
        change({ a: own.a + (level ? dx : -dy), b: own.b + (level ? -dy : dx) });
      } else change({ x: own.x + dx, y: own.y + dy });
      editor.commit("ellipse");
      return true;
    },
    draw() {
      if (!own) return [];
      const { stage } = editor, spots = handles(), colour = editor.planes.colour(editor.label);
      const shape = { cx: own.x, cy: own.y, rx: own.a, ry: own.b, transform: `rotate(${own.angle * 180 / Math.PI} ${own.x} ${own.y})` };
      const spot = ([cx, cy], more = "") => make("svg:ellipse", { class: `review-handle ${more}`, cx, cy, rx: 5 * stage.across, ry: 5 * stage.perPixel });
      return [make("svg:ellipse", { class: "review-path under", ...shape }), make("svg:ellipse", { class: "review-path", stroke: colour, ...shape }),
        make("svg:path", { class: "review-path", d: `M${spots.a.join(" ")}L${spots.turn.join(" ")}` }),
        ...Object.entries(spots).map(([name, at]) => spot(at, name))];
    },
  };
}
