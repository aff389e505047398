/* A detector's objects: choose, delete, change the class; those that are boxes alone are drawn, moved and resized here, those with a mask painted. */
import { make } from "./dom.js";

const CORNERS = { nw: [0, 1], n: [null, 1], ne: [2, 1], e: [2, null], se: [2, 3], s: [null, 3], sw: [0, 3], w: [0, null] };

export function boxTool(editor) {
  const classes = editor.info.classes.filter((cls) => cls.kind === "object");
  const painted = Boolean(editor.info.instances);
  let drag = null;
  const here = () => editor.planes.objectsOf(editor.index).filter((one) => editor.stage.visible(one.class));
  const copied = (list) => list.map((one) => ({ ...one, box: [...one.box] }));
  const spots = ({ box }) => Object.entries(CORNERS).map(([name, [x, y]]) => [name, [x === null ? (box[0] + box[2]) / 2 : box[x], y === null ? (box[1] + box[3]) / 2 : box[y]]]);
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  /* One step: undo puts the old list back. */
  function step(before) {
    const also = editor.listStep(before);
    editor.touched = null;
    editor.commit("boxes", also);
  }
  const inside = ({ cut }, x, y) => !cut || cut.bits[(Math.floor(y) - cut.y) * cut.width + Math.floor(x) - cut.x] === 1;
  function at([x, y]) {
    const hits = here().filter((one) => x >= one.box[0] && x <= one.box[2] && y >= one.box[1] && y <= one.box[3] && inside(one, x, y));
    return hits.reduce((best, one) => (best && area(best) <= area(one) ? best : one), null);
  }
  const held = ([x, y], low, high) => [Math.min(Math.max(x, 0), low), Math.min(Math.max(y, 0), high)];
  return {
    name: "boxes", key_: "o", words: "Objects", title: painted ? "Choose an object" : "Boxes of objects", fits: classes.length > 0,
    hint: painted ? "Click an object to choose it, Tab goes to the next; then B, E, P and F paint on it alone. A number changes its class, Delete removes it. A click beside them, then B or P, begins a new one." : "Drag on the picture for a new box of the chosen class; click one to choose it, drag it or its corners; a number changes its class, Delete removes it, Tab goes to the next.",
    enter() {
      if (!classes.some((cls) => cls.index === editor.label)) editor.chooseClass(editor.chosen ? editor.chosen.class : classes[0].index); // another class would become the chosen object's
    },
    relabel(k) {
      const { chosen } = editor;
      if (!chosen || chosen.class === k || !classes.some((cls) => cls.index === k)) return;
      const { planes } = editor, before = planes.objects;
      editor.chosen = { ...chosen, class: k }; // another one in its place: steps before this hold the old one
      planes.objects = before.map((one) => (one === chosen ? editor.chosen : one));
      step(before);
    },
    down(point) {
      const { chosen } = editor;
      if (painted) {
        editor.chosen = at(point);
        if (editor.chosen) { editor.label = editor.chosen.class; editor.toolbar.update(); }
        return;
      }
      const near = 8 * editor.stage.perPixel, grip = chosen && spots(chosen).find(([, [x, y]]) => Math.hypot(x - point[0], y - point[1]) < near);
      const hit = grip ? chosen : at(point);
      const before = copied(editor.planes.objects);
      drag = { before, from: point, grip: grip ? grip[0] : null, start: hit ? [...hit.box] : null, moved: false };
      editor.chosen = hit;
      if (hit) { editor.label = hit.class; editor.toolbar.update(); }
    },
    move(point) {
      if (!drag) return;
      const { from, grip, start } = drag, { width, height } = editor.mask, [x, y] = held(point, width, height);
      if (!drag.moved && Math.hypot(point[0] - from[0], point[1] - from[1]) < 3 * editor.stage.perPixel) return;
      if (!drag.moved && !start) {
        editor.chosen = { plane: editor.index, class: editor.label, box: [], score: null, key: editor.planes.key() };
        editor.planes.objects.push(editor.chosen);
      }
      drag.moved = true;
      const { chosen } = editor;
      if (!start) {
        const [ox, oy] = held(from, width, height);
        chosen.box = [Math.min(ox, x), Math.min(oy, y), Math.max(ox, x), Math.max(oy, y)];
      } else if (grip) {
        const box = [...start], [column, row] = CORNERS[grip];
        if (column !== null) box[column] = x;
        if (row !== null) box[row] = y;
        chosen.box = [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])];
      } else {
        const dx = Math.min(Math.max(point[0] - from[0], -start[0]), width - start[2]), dy = Math.min(Math.max(point[1] - from[1], -start[1]), height - start[3]);
        chosen.box = [start[0] + dx, start[1] + dy, start[2] + dx, start[3] + dy];
      }
    },
    up() {
      if (!drag) return;
      const { moved, before } = drag;
      drag = null;
      if (!moved) return;
      const { chosen } = editor;
      chosen.box = chosen.box.map((value) => Math.round(10 * value) / 10);
      if (chosen.box[2] - chosen.box[0] < 1 || chosen.box[3] - chosen.box[1] < 1) { editor.planes.objects = before; editor.chosen = null; return; }
      step(before);
    },
    cancel() {
      const open = Boolean(drag || (!painted && editor.chosen));
      if (drag && drag.moved) editor.planes.objects = drag.before;
      if (!painted) editor.chosen = null;
      drag = null;
      return open;
    },
    key(event) {
      const { chosen } = editor;
      if ((event.key === "Delete" || event.key === "Backspace") && chosen) {
        const before = copied(editor.planes.objects);
        editor.planes.objects = editor.planes.objects.filter((one) => one !== chosen);
        step(before);
        editor.chosen = null;
        return true;
      }
      if (event.key === "Tab" && (event.target.contains(editor.stage.svg) || editor.stage.svg.contains(event.target)) && here().length) {
        const all = here();
        editor.chosen = all[(all.indexOf(chosen) + (event.shiftKey ? all.length - (chosen ? 1 : 0) : 1)) % all.length];
        editor.label = editor.chosen.class;
        editor.toolbar.update();
        editor.say(`Object ${all.indexOf(editor.chosen) + 1} of ${all.length}.`);
        return true;
      }
      return false;
    },
    draw() {
      if (painted) return [];
      const { stage, planes, chosen } = editor;
      const all = here().flatMap((one) => [stage.box(one.box, "#000", { class: "review-box under" }), stage.box(one.box, planes.colour(one.class), { class: one === chosen ? "review-box held" : "review-box" })]);
      const grips = chosen ? spots(chosen).map(([, [x, y]]) => make("svg:rect", { class: "review-handle", x: x - 4 * stage.across, y: y - 4 * stage.perPixel, width: 8 * stage.across, height: 8 * stage.perPixel })) : [];
      return [...all, ...grips];
    },
  };
}
