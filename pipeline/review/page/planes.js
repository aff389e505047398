/* The case's masks, surfaces and objects as the page holds them. */
import { unpack } from "./instances.js";
import { Encoding, Mask } from "./mask.js";
import { decodeGrey } from "./png.js";

export class Planes {
  constructor(info) {
    this.info = info;
    this.encoding = new Encoding(info.classes, info.overlapping);
    this.masks = new Map();
    this.asked = new Map();
    this.surfaces = (info.surfaces || []).map((one) => ({ ...one, rows: [...one.rows] }));
    this.keys = 0; // objects are told apart by their key; a new one has no id yet
    this.objects = (info.objects || []).map((one) => ({ ...one, box: [...one.box], key: this.key() }));
  }
  key() { return (this.keys += 1); }
  /* The masks of objects, where they have any, put to them once. */
  async instances() {
    if (!this.info.instances || this.withMasks) return;
    const found = JSON.parse(new TextDecoder().decode(await this.fetched(this.info.instances)));
    for (const one of this.objects) if (found[one.id]) one.cut = unpack(found[one.id]);
    this.withMasks = true;
  }
  /* The mask of a plane, the same for all who ask. Throws where it cannot be read; it is asked for anew the next time. */
  mask(index) {
    if (!this.asked.has(index)) this.asked.set(index, this.read(index).catch((error) => { this.asked.delete(index); throw error; }));
    return this.asked.get(index);
  }
  async read(index) {
    const plane = this.info.planes[index], read = plane.mask ? await decodeGrey(await this.fetched(plane.mask)) : { width: plane.width, height: plane.height, depth: 8, values: new Uint8Array(plane.width * plane.height) };
    if (read.width !== plane.width || read.height !== plane.height) throw new Error("the mask has another size than its picture");
    this.masks.set(index, new Mask(read, this.encoding));
    return this.masks.get(index);
  }
  async fetched(address) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`the mask cannot be read (${answer.status})`);
    return answer.arrayBuffer();
  }
  surfacesOf(index) { return this.surfaces.filter((one) => one.plane === index); }
  objectsOf(index) { return this.objects.filter((one) => one.plane === index); }
  colour(k) { return (this.info.classes.find((one) => one.index === k) || { colour: "#ffffff" }).colour; }
  /* A surface has the colour of the layer below it; the last one that of the layer above. */
  surfaceColour(place) {
    const layers = this.info.classes.filter((one) => one.kind === "surface");
    return (layers[Math.min(place, layers.length - 1)] || { colour: "#ffffff" }).colour;
  }
}
