/* Grey PNG files, 8 or 16 bits a sample, as numbers. A canvas would pass a mask through colour management, premultiply it, and has no 16 bits. */
const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

/* { width, height, depth, values }: values row by row, Uint8Array or Uint16Array. Throws where it is another kind of file. */
export async function decodeGrey(bytes) {
  const file = new Uint8Array(bytes), view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (!SIGNATURE.every((byte, k) => file[k] === byte)) throw new Error("the mask is no PNG file");
  const parts = [];
  let at = 8;
  while (at + 8 <= file.length) {
    const length = view.getUint32(at), name = String.fromCharCode(...file.subarray(at + 4, at + 8));
    if (name === "IDAT") parts.push(file.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const width = view.getUint32(16), height = view.getUint32(20), [depth, kind, , , interlaced] = file.subarray(24, 29);
  if (kind !== 0 || interlaced || (depth !== 8 && depth !== 16)) throw new Error("the mask is no grey PNG file of 8 or 16 bits");
  const lines = await through(new DecompressionStream("deflate"), await new Blob(parts).arrayBuffer());
  const raw = unfiltered(lines, height, width * depth / 8, depth / 8);
  return { width, height, depth, values: depth === 8 ? raw : fromBigEndian(raw) };
}

/* Undo the filter of each line (PNG specification, section 9): a sample is stored as its difference from a, left of it, b, above, and c. */
function unfiltered(lines, height, length, step) {
  const out = new Uint8Array(height * length);
  for (let y = 0; y < height; y += 1) {
    const filter = lines[y * (length + 1)], from = y * (length + 1) + 1, to = y * length;
    for (let x = 0; x < length; x += 1) {
      const a = x >= step ? out[to + x - step] : 0, b = y ? out[to + x - length] : 0, c = x >= step && y ? out[to + x - length - step] : 0;
      const guess = filter === 0 ? 0 : filter === 1 ? a : filter === 2 ? b : filter === 3 ? (a + b) >> 1 : paeth(a, b, c);
      out[to + x] = lines[from + x] + guess;
    }
  }
  return out;
}
function paeth(a, b, c) {
  const p = a + b - c, pa = Math.abs(p - a), pb = Math.abs(p - b), pc = Math.abs(p - c);
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}
function fromBigEndian(raw) {
  const view = new DataView(raw.buffer);
  return Uint16Array.from({ length: raw.length / 2 }, (_, k) => view.getUint16(2 * k));
}

/* The same values as a PNG file, Uint8Array; each line as its difference from the one above. */
export async function encodeGrey({ width, height, depth, values }) {
  const step = depth / 8, length = width * step, lines = new Uint8Array(height * (length + 1));
  const byteAt = step === 1 ? (k) => values[k] : (k) => (k & 1 ? values[k >> 1] & 255 : values[k >> 1] >> 8);
  for (let y = 0; y < height; y += 1) {
    const to = y * (length + 1), from = y * length;
    lines[to] = 2;
    for (let x = 0; x < length; x += 1) lines[to + 1 + x] = byteAt(from + x) - (y ? byteAt(from + x - length) : 0);
  }
  const header = new Uint8Array(13), view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = depth;
  const packed = await through(new CompressionStream("deflate"), lines);
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header), chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});
function chunk(name, data) {
  const out = new Uint8Array(12 + data.length), view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let k = 0; k < 4; k += 1) out[4 + k] = name.charCodeAt(k);
  out.set(data, 8);
  let crc = 0xffffffff;
  for (let k = 4; k < 8 + data.length; k += 1) crc = CRC[(crc ^ out[k]) & 255] ^ (crc >>> 8);
  view.setUint32(8 + data.length, ~crc >>> 0);
  return out;
}

export function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}
