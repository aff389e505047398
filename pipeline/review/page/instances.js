/* Objects that have a mask each. A mask is held as the rectangle around its pixels, { x, y, width, height, bits }, which is never changed: a step
   puts another one in its place. While it is painted it is a plane of its own, on which all tools work as on a class. */
import { make } from "./dom.js";
import { Mask, joined } from "./mask.js";

const ONE = { overlapping: false, has: (value) => value === 1, add: () => 1, remove: () => 0 };

/* The lengths of stretches outside and inside by turns, row by row, as bits. */
export function unpack({ x, y, width, height, runs }) {
  const bits = new Uint8Array(width * height);
  let at = 0;
  runs.forEach((length, k) => { if (k % 2) bits.fill(1, at, at + length); at += length; });
  return { x, y, width, height, bits };
}
export function pack({ x, y, width, height, bits }) {
  const runs = [];
  let from = 0, inside = 0;
  for (let at = 0; at <= bits.length; at += 1) {
    if (at < bits.length && bits[at] === inside) continue;
    runs.push(at - from);
    from = at;
    inside = 1 - inside;
  }
  return { x, y, width, height, runs };
}
const around = (cut) => (cut ? [cut.x, cut.y, cut.x + cut.width, cut.y + cut.height] : null);
export const boxOf = around;

/* What a plane holds within a rectangle, or null where that is nothing. */
function cutOf(mask, within) {
  let box = null;
  const [x0, y0, x1, y1] = within || [0, 0, 0, 0];
  for (let y = y0; y < y1; y += 1) for (let x = x0; x < x1; x += 1) if (mask.values[y * mask.width + x]) box = joined(box, [x, y, x + 1, y + 1]);
  return box && { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], bits: mask.cut(box) };
}

/* Outline and area of a mask as SVG paths, made once. */
const paths = new WeakMap();
function pathsOf(cut) {
  if (!paths.has(cut)) paths.set(cut, { edge: edge(cut), area: area(cut), made: new Map() });
  return paths.get(cut);
}
function edge({ x, y, width, height, bits }) {
  const at = (column, row) => (column >= 0 && row >= 0 && column < width && row < height ? bits[row * width + column] : 0);
  let path = "";
  for (let row = 0; row <= height; row += 1) {
    for (let start = 0, column = 0; column <= width; column += 1) {
      if (column < width && at(column, row) !== at(column, row - 1)) continue;
      if (column > start) path += `M${x + start} ${y + row}H${x + column}`;
      start = column + 1;
    }
  }
  for (let column = 0; column <= width; column += 1) {
    for (let start = 0, row = 0; row <= height; row += 1) {
      if (row < height && at(column, row) !== at(column - 1, row)) continue;
      if (row > start) path += `M${x + column} ${y + start}V${y + row}`;
      start = row + 1;
    }
  }
  return path;
}
function area({ x, y, width, height, bits }) {
  let path = "";
  for (let row = 0; row < height; row += 1) {
    for (let start = 0, column = 0; column <= width; column += 1) {
      if (column < width && bits[row * width + column]) continue;
      if (column > start) path += `M${x + start} ${y + row}H${x + column}v1H${x + start}z`;
      start = column + 1;
    }
  }
  return path;
}
/* One object as it is drawn over the picture: elements that are made once for each mask and look, however often they are put there. */
export function drawn(cut, colour, held, filled) {
  const own = pathsOf(cut), look = `${colour} ${held} ${filled}`;
  if (!own.made.has(look)) own.made.set(look, elements(own, colour, held, filled));
  return own.made.get(look);
}
function elements({ edge: line, area: inside }, colour, held, filled) {
  return [filled ? make("svg:path", { class: "review-area", d: inside, color: colour }) : null,
    make("svg:path", { class: "review-instance under", d: line }), make("svg:path", { class: held ? "review-instance held" : "review-instance", d: line, stroke: colour })].filter(Boolean);
}

/* The masks of an editor's objects; every class of objects is painted object by object. */
export class Instances {
  constructor(editor) { Object.assign(this, { editor, open: null }); }
  /* The plane that is painted while class k is chosen: that of the chosen object, or an empty one for a new object; null where k is no such class. */
  of(k) {
    const { editor } = this, cls = editor.info.classes.find((one) => one.index === k);
    if (!editor.info.instances || !cls || cls.kind !== "object" || !editor.mask) return null;
    const cut = editor.chosen ? editor.chosen.cut : null;
    if (!this.open || this.open.cut !== cut || this.open.plane !== editor.index) {
      const { width, height } = editor.mask, mask = new Mask({ width, height, depth: 8, values: new Uint8Array(width * height) }, ONE);
      if (cut) mask.paste(around(cut), cut.bits);
      this.open = { mask, cut, plane: editor.index };
    }
    return this.open.mask;
  }
  /* What was painted becomes the chosen object's, or a new object; without a pixel it is none. Returns a step, or null where nothing changed. */
  commit(mask, touched) {
    const { editor } = this, { planes, chosen } = editor, before = planes.objects;
    const cut = cutOf(mask, joined(around(chosen && chosen.cut), touched));
    this.open = null;
    if (!chosen && !cut) { editor.say("Choose an object first: O and a click, or Tab.", true); return null; }
    const next = cut && { id: null, score: null, plane: editor.index, class: editor.label, ...chosen, key: chosen ? chosen.key : planes.key(), cut, box: around(cut), painted: true };
    planes.objects = chosen ? before.flatMap((one) => (one !== chosen ? [one] : next ? [next] : [])) : [...before, next];
    editor.chosen = next;
    return editor.listStep(before, cut ? cut.bits.length : 0);
  }
  /* All objects but the one that is held, into a group of their own: it is touched only where one of them changed, and not at each move of a pointer. */
  drawInto(group) {
    const { editor } = this, { planes, stage, chosen } = editor;
    if (!editor.info.instances) return;
    const seen = new Set(editor.info.classes.map((cls) => cls.index).filter((k) => stage.visible(k)));
    const shown = planes.objectsOf(editor.index).filter((one) => one !== chosen && one.cut && seen.has(one.class));
    const now = shown.map((one) => [one.cut, planes.colour(one.class)]);
    if (this.drawn && now.length === this.drawn.length && group.childElementCount && now.every(([cut, colour], k) => cut === this.drawn[k][0] && colour === this.drawn[k][1])) return;
    this.drawn = now;
    group.replaceChildren(...now.flatMap(([cut, colour]) => drawn(cut, colour, false, true)));
  }
  /* The object that is held or painted. */
  held() {
    const { editor } = this, { planes, chosen } = editor;
    if (!editor.info.instances) return [];
    const live = editor.before && this.open && editor.target === this.open.mask ? cutOf(this.open.mask, joined(around(this.open.cut), editor.touched)) : null;
    const cut = live || (!editor.before && chosen && chosen.plane === editor.index && chosen.cut);
    return cut ? drawn(cut, planes.colour(chosen ? chosen.class : editor.label), true, true) : [];
  }
}
