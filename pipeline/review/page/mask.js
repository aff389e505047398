/* One plane's mask in the case's own encoding, the steps that were taken on it, and the way back. */

/* What adding and taking away a class does to a mask's value. Exclusive: the value is the class. Overlapping: class k has bit k - 1; what
   lies inside another class is never there without it. */
export class Encoding {
  constructor(classes, overlapping) {
    this.overlapping = overlapping;
    const around = (cls) => { const outer = classes.find((one) => one.index === cls.inside); return outer ? [outer, ...around(outer)] : []; };
    const bits = (list) => list.reduce((sum, one) => sum | (1 << (one.index - 1)), 0);
    this.adds = new Map(classes.map((cls) => [cls.index, bits([cls, ...around(cls)])]));
    this.drops = new Map(classes.map((cls) => [cls.index, bits(classes.filter((one) => one === cls || around(one).includes(cls)))]));
  }
  has(value, k) { return this.overlapping ? ((value >> (k - 1)) & 1) === 1 : value === k; }
  add(value, k) { return this.overlapping ? value | this.adds.get(k) : k; }
  remove(value, k) { return this.overlapping ? value & ~this.drops.get(k) : value === k ? 0 : value; }
}

export class Mask {
  constructor({ width, height, depth, values }, encoding) {
    Object.assign(this, { width, height, depth, values, encoding, changed: false });
  }
  has(x, y, k) { return this.encoding.has(this.values[y * this.width + x], k); }

  /* Give class k to the pixels of the spans [y, first x, x after the last], or take it away; returns the rectangle they lie in, or null. */
  apply(spans, k, erase, from = this.values) {
    let box = null;
    for (const [y, start, stop] of spans) {
      const x0 = Math.max(start, 0), x1 = Math.min(stop, this.width);
      if (y < 0 || y >= this.height || x0 >= x1) continue;
      for (let at = y * this.width + x0; at < y * this.width + x1; at += 1) {
        this.values[at] = erase ? this.encoding.remove(from[at], k) : this.encoding.add(from[at], k);
      }
      box = joined(box, [x0, y, x1, y + 1]);
    }
    return box;
  }
  cut([x0, y0, x1, y1], values = this.values) {
    const out = new values.constructor((x1 - x0) * (y1 - y0));
    for (let y = y0; y < y1; y += 1) out.set(values.subarray(y * this.width + x0, y * this.width + x1), (y - y0) * (x1 - x0));
    return out;
  }
  paste([x0, y0, x1, y1], part) {
    for (let y = y0; y < y1; y += 1) this.values.set(part.subarray((y - y0) * (x1 - x0), (y - y0 + 1) * (x1 - x0)), y * this.width + x0);
  }
}

/* The rectangle around both, [x0, y0, x1, y1]; either may be null. */
export function joined(a, b) {
  if (!a || !b) return a || b;
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
}

/* Steps that can be undone. A step is { bytes, swap }: swap puts back what was before, and, called again, what came after. */
export class History {
  constructor(most = 64 << 20) { Object.assign(this, { most, done: [], undone: [] }); }
  add(step) {
    this.undone = [];
    this.done.push(step);
    let bytes = this.done.reduce((sum, one) => sum + one.bytes, 0);
    while (bytes > this.most && this.done.length > 1) bytes -= this.done.shift().bytes;
  }
  undo() { return this.move(this.done, this.undone); }
  redo() { return this.move(this.undone, this.done); }
  move(from, to) {
    const step = from.pop();
    if (!step) return false;
    step.swap();
    to.push(step);
    return true;
  }
}

/* A step on a mask: only the rectangle that changed is kept, once. */
export function maskStep(mask, before, box, shown) {
  let other = mask.cut(box, before);
  return {
    bytes: other.byteLength,
    swap() {
      const now = mask.cut(box);
      mask.paste(box, other);
      other = now;
      shown(mask, box);
    },
  };
}
