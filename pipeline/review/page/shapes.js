/* Shapes as spans [y, first x, x after the last] of the pixels whose centre lies inside; coordinates in pixels from the picture's top left corner. */

/* Pixels within ``radius`` of the line from a to b: the stroke of a round brush. */
export function* stroke(a, b, radius) {
  const [ax, ay] = a, [bx, by] = b, dx = bx - ax, dy = by - ay, long = dx * dx + dy * dy, most = radius * radius;
  const near = (x, y) => {
    const t = long ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / long, 0), 1) : 0;
    return (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2 <= most;
  };
  const left = Math.floor(Math.min(ax, bx) - radius), right = Math.ceil(Math.max(ax, bx) + radius);
  for (let y = Math.floor(Math.min(ay, by) - radius); y <= Math.max(ay, by) + radius; y += 1) {
    let start = left, stop = right;
    while (start < stop && !near(start + 0.5, y + 0.5)) start += 1;
    while (stop > start && !near(stop - 0.5, y + 0.5)) stop -= 1;
    if (start < stop) yield [y, start, stop];
  }
}

/* Inside a closed polygon of points [x, y]; where it crosses itself, by the even-odd rule. */
export function* polygon(points) {
  const rows = points.map(([, y]) => y);
  for (let y = Math.floor(Math.min(...rows)); y <= Math.max(...rows); y += 1) {
    const crossings = [];
    points.forEach(([x1, y1], k) => {
      const [x2, y2] = points[(k + 1) % points.length], centre = y + 0.5;
      if ((y1 <= centre) !== (y2 <= centre)) crossings.push(x1 + (centre - y1) / (y2 - y1) * (x2 - x1));
    });
    crossings.sort((a, b) => a - b);
    for (let k = 0; k + 1 < crossings.length; k += 2) {
      const start = Math.ceil(crossings[k] - 0.5), stop = Math.ceil(crossings[k + 1] - 0.5);
      if (start < stop) yield [y, start, stop];
    }
  }
}

/* Inside an ellipse: centre x, y, half axes a and b, the first turned by ``angle`` from the rows. */
export function* ellipse({ x, y, a, b, angle }) {
  const cos = Math.cos(angle), sin = Math.sin(angle);
  const p = (cos / a) ** 2 + (sin / b) ** 2, q = cos * sin * (1 / a ** 2 - 1 / b ** 2), r = (sin / a) ** 2 + (cos / b) ** 2;
  const high = Math.sqrt((a * sin) ** 2 + (b * cos) ** 2);
  for (let row = Math.floor(y - high); row <= y + high; row += 1) {
    const dy = row + 0.5 - y, root = q * q * dy * dy - p * (r * dy * dy - 1);
    if (root < 0) continue;
    const start = Math.ceil(x + (-q * dy - Math.sqrt(root)) / p - 0.5), stop = Math.floor(x + (-q * dy + Math.sqrt(root)) / p - 0.5) + 1;
    if (start < stop) yield [row, start, stop];
  }
}

/* The ellipse of the same centre and second moments as the pixels of class k, or null where there are none. */
export function fitted(mask, k) {
  let n = 0, sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0;
  for (let y = 0; y < mask.height; y += 1) {
    for (let x = 0; x < mask.width; x += 1) {
      if (!mask.has(x, y, k)) continue;
      n += 1; sx += x; sy += y; sxx += x * x; syy += y * y; sxy += x * y;
    }
  }
  if (!n) return null;
  const mx = sx / n, my = sy / n, xx = sxx / n - mx * mx + 1 / 12, yy = syy / n - my * my + 1 / 12, xy = sxy / n - mx * my; // a pixel is a square
  const middle = (xx + yy) / 2, apart = Math.hypot((xx - yy) / 2, xy);
  const half = (moment) => 2 * Math.sqrt(Math.max(moment, 0.0625));
  return { x: mx + 0.5, y: my + 0.5, a: half(middle + apart), b: half(middle - apart), angle: 0.5 * Math.atan2(2 * xy, xx - yy) };
}

/* The connected region of (x, y): of pixels with class k (``having``; also over corners) or without it. ``open``: it reaches the picture's edge. */
export function region(mask, x, y, k, having) {
  const { width, height } = mask, seen = new Uint8Array(width * height), spans = [], stack = [[x, y]], reach = having ? 1 : 0;
  const free = (column, row) => !seen[row * width + column] && mask.has(column, row, k) === having;
  let open = false;
  while (stack.length) {
    const [column, row] = stack.pop();
    if (!free(column, row)) continue;
    let start = column, stop = column + 1;
    while (start > 0 && free(start - 1, row)) start -= 1;
    while (stop < width && free(stop, row)) stop += 1;
    seen.fill(1, row * width + start, row * width + stop);
    spans.push([row, start, stop]);
    open ||= start === 0 || stop === width || row === 0 || row === height - 1;
    for (const next of [row - 1, row + 1]) {
      if (next < 0 || next >= height) continue;
      for (let at = Math.max(start - reach, 0); at < Math.min(stop + reach, width); at += 1) {
        if (free(at, next)) { stack.push([at, next]); while (at + 1 < stop + reach && at + 1 < width && free(at + 1, next)) at += 1; }
      }
    }
  }
  return { spans, open };
}
