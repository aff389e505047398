/* A long outline in pieces. A browser draws a page tile by tile, and of a path it strokes all points for each tile that the path touches; of pieces
   it strokes those that lie there. A vessel tree of a photograph takes a third of the time so; the area stays one path. */
const LONG = 4000; // characters
const PIECE = 100; // points

export function inPieces(page) {
  for (const path of page.querySelectorAll("path.outline[id]")) {
    const data = path.getAttribute("d");
    if (data.length < LONG) continue;
    const group = page.createElementNS("http://www.w3.org/2000/svg", "g");
    for (const { name, value } of path.attributes) if (name !== "d") group.setAttribute(name, value);
    const add = (shape, part) => { const made = group.appendChild(page.createElementNS(group.namespaceURI, "path")); made.setAttribute("d", shape); made.setAttribute("class", part); };
    add(data, "whole");
    for (const piece of pieces(data)) add(piece, "piece");
    path.replaceWith(group);
  }
}

/* Loops "Mx yldx dy dx dy ...z" as open lines that together cover the same border. */
export function* pieces(data) {
  for (const loop of data.split("z")) {
    const [x, y, ...steps] = (loop.match(/-?\d+/g) || []).map(Number);
    if (steps.length < 2) continue;
    let [px, py] = [x, y];
    for (let at = 0; at < steps.length; at += 2 * PIECE) {
      const part = steps.slice(at, at + 2 * PIECE), last = at + 2 * PIECE >= steps.length;
      yield `M${px} ${py}l${part.join(" ")}${last ? `L${x} ${y}` : ""}`;
      for (let k = 0; k < part.length; k += 2) { px += part[k]; py += part[k + 1]; }
    }
  }
}
