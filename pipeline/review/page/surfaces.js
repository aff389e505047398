/* Surfaces of a B-scan as lines that are dragged: the neighbourhood follows, less with distance, and no line crosses another. */
import { joined } from "./mask.js";

const REACH = 12; // CSS pixels from a line at which it is taken hold of

export function surfaceTool(editor) {
  let drag = null;
  const lines = () => editor.planes.surfacesOf(editor.index);
  const layers = editor.info.classes.filter((cls) => cls.kind === "surface").map((cls) => cls.index);
  const width = () => editor.size * Math.max(editor.mask.width / 200, 1); // columns: the falloff's standard deviation
  function nearest([x, y]) {
    const column = Math.floor(x), found = lines().map((line, place) => ({ line, place, off: Math.abs((line.rows[column] ?? Infinity) - y) }));
    const best = found.reduce((a, b) => (b.off < a.off ? b : a), { off: Infinity });
    return best.off <= REACH * editor.stage.perPixel ? best : null;
  }
  function pull(dy) {
    const { column, place, line, start } = drag, all = lines(), reach = Math.ceil(3 * width());
    const above = all[place - 1], below = all[place + 1], height = editor.mask.height;
    editor.rewind();
    line.rows = [...start];
    for (let x = Math.max(column - reach, 0); x <= Math.min(column + reach, start.length - 1); x += 1) {
      if (start[x] === null) continue;
      const low = above ? above.rows[x] ?? 0 : 0, high = below ? below.rows[x] ?? height : height;
      const wanted = start[x] + dy * Math.exp(-0.5 * ((x - column) / width()) ** 2);
      line.rows[x] = Math.round(100 * Math.min(Math.max(wanted, low), high)) / 100;
      recolour(x, start[x], line.rows[x], all);
    }
  }
  /* Pixels between where the line was and where it is change their layer; fluid between layers stays. */
  function recolour(x, was, is, all) {
    const { mask } = editor, from = Math.max(Math.ceil(Math.min(was, is) - 0.5), 0), to = Math.min(Math.ceil(Math.max(was, is) - 0.5), mask.height);
    let box = null;
    for (let row = from; row < to; row += 1) {
      const at = row * mask.width + x, value = mask.values[at];
      if (value !== 0 && !layers.includes(value)) continue;
      mask.values[at] = layerAt(all, x, row + 0.5);
      box = joined(box, [x, row, x + 1, row + 1]);
    }
    editor.mark(box);
  }
  function layerAt(all, x, depth) {
    const known = all.map((line, place) => ({ place, row: line.rows[x] })).filter((one) => one.row !== null);
    const over = known.filter((one) => one.row <= depth).at(-1);
    return over && over.place < layers.length && known.some((one) => one.row > depth) ? layers[over.place] : 0;
  }
  return {
    name: "surface", key_: "l", words: "Line", title: "Line of a surface", fits: editor.planes.surfaces.length > 0,
    hint: "Drag a line: its neighbourhood follows, [ and ] make that narrower or wider. Lines do not cross.",
    down(point) {
      const found = nearest(point);
      if (!found) { editor.say("Take hold of a line.", true); return; }
      editor.begin();
      drag = { ...found, column: Math.floor(point[0]), from: point[1], start: [...found.line.rows] };
      editor.say(found.line.name);
    },
    move(point) { if (drag) pull(point[1] - drag.from); },
    up() {
      if (!drag) return;
      const { line, start } = drag, { index } = editor;
      drag = null;
      if (line.rows.every((row, x) => row === start[x])) { editor.before = null; return; }
      editor.surfacesChanged.add(index);
      let other = start;
      editor.commit("surface", { bytes: 8 * start.length, swap: () => { [line.rows, other] = [other, line.rows]; } });
    },
    cancel() {
      if (!drag) return false;
      editor.rewind();
      editor.before = null;
      drag.line.rows = drag.start;
      drag = null;
      return true;
    },
    draw() {
      const hover = drag || (editor.pointer && nearest(editor.pointer));
      return lines().flatMap((line, place) => {
        const held = hover && hover.line === line;
        return [editor.stage.line(line.rows, "#000", { class: "review-line under" }), editor.stage.line(line.rows, editor.planes.surfaceColour(place), { class: held ? "review-line held" : "review-line" })];
      });
    },
  };
}
