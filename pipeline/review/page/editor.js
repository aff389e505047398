/* The editor: tools on the planes of a case, what can be undone, and what is sent. Tools are in paint.js, ellipses.js, surfaces.js and boxes.js. */
import { boxTool } from "./boxes.js";
import { byId, make } from "./dom.js";
import { ellipseTool } from "./ellipses.js";
import { Instances, pack } from "./instances.js";
import { History, joined, maskStep } from "./mask.js";
import { brushTool, eraserTool, fillTool, polygonTool } from "./paint.js";
import { Planes } from "./planes.js";
import { encodeGrey, toBase64 } from "./png.js";
import { Stage } from "./stage.js";
import { surfaceTool } from "./surfaces.js";
import { makeToolbar } from "./toolbar.js";

const SIZES = [1, 3, 5, 7, 9, 13, 17, 23, 31, 41, 55, 75, 101, 151];
const TOOLS = [brushTool, eraserTool, polygonTool, fillTool, ellipseTool, surfaceTool, boxTool];

class Editor {
  constructor(info, { draft, say, keep, save, leave }) {
    Object.assign(this, { info, say, keep, saved: save, leave });
    this.planes = new Planes(info);
    this.stage = new Stage(info, true);
    this.history = new History();
    this.over = new AbortController();
    this.used = new Set(draft ? draft.tools : []);
    this.seconds = draft ? draft.seconds : 0;
    this.begun = Date.now();
    this.size = 9;
    this.keeping = 0;
    this.changed = Boolean(draft);
    this.surfacesChanged = new Set(draft ? draft.surfacePlanes : []);
    this.objectsChanged = Boolean(draft && draft.objects);
    this.chosen = null; // the object that is held
    this.instances = new Instances(this);
    [this.below, this.above] = [make("svg:g"), make("svg:g")]; // of the shapes over the picture
    this.tools = TOOLS.map((kind) => kind(this)).filter((tool) => tool.fits);
    this.pens = new Set();
  }
  async open(draft) {
    await this.planes.instances();
    if (draft) await this.restore(draft);
    await this.goTo(window.ocusegCase.slice());
    const kinds = this.info.classes.map((cls) => cls.kind);
    const first = kinds.every((kind) => kind === "ellipse") ? "ellipse" : kinds.every((kind) => kind === "object") ? "boxes" : "brush";
    this.toolbar = makeToolbar(this);
    this.chooseClass(this.info.classes[0].index);
    this.choose(this.tools.find((tool) => tool.name === first) || this.tools[0]);
    this.listen();
    this.stage.following.push(() => this.redraw());
    return this;
  }
  async restore(draft) {
    for (const { index, values } of draft.planes) {
      const mask = await this.planes.mask(index);
      mask.values.set(values);
      mask.changed = true;
    }
    const own = ({ plane }) => this.surfacesChanged.has(plane);
    if (draft.surfaces) this.planes.surfaces = [...this.planes.surfaces.filter((one) => !own(one)), ...draft.surfaces.filter(own)];
    const moved = draft.base !== this.info.correction; // what was not painted here would be sent as that one has it, and not as it is shown
    if (draft.objects) this.planes.objects = draft.objects.map((one) => ({ ...one, key: this.planes.key(), painted: one.painted || (moved && Boolean(one.cut)) }));
  }
  close() {
    this.over.abort();
    this.stage.close();
    this.toolbar.close();
    document.querySelector(".case-view").classList.remove("editing");
  }

  /* ---- where it is ---- */
  async goTo(index) {
    if (this.tool) this.tool.cancel();
    this.index = index;
    this.chosen = null;
    this.mask = null; // until the slice's own is there nothing can be drawn: it would go into another slice's
    this.stage.clear();
    const mask = await this.planes.mask(index);
    if (this.index !== index) return; // the person went on meanwhile
    this.mask = mask;
    this.stage.draw(this.mask);
    this.enter();
    this.redraw();
  }
  enter() { if (this.mask && this.tool && this.tool.enter) this.tool.enter(); }
  choose(tool) {
    if (this.tool) this.tool.cancel();
    this.tool = tool;
    this.enter();
    this.toolbar.update();
    this.redraw();
  }
  chooseClass(k) {
    this.label = k;
    if (this.chosen && this.chosen.class !== k && this.tool && this.tool.name !== "boxes") this.chosen = null; // a stroke begins a new one
    const box = document.querySelector(`input[data-class="${k - 1}"]`);
    if (box && !box.checked) { box.checked = true; box.dispatchEvent(new Event("change")); }
    if (this.mask && this.tool && this.tool.relabel) this.tool.relabel(k);
    this.toolbar.update();
    this.redraw();
  }
  resize(step) {
    this.size = SIZES[Math.min(Math.max(SIZES.indexOf(this.size) + step, 0), SIZES.length - 1)];
    this.toolbar.update();
    this.redraw();
  }
  redraw() {
    if (!this.tool || !this.mask) return;
    const { shapes } = this.stage;
    if (this.below.parentNode !== shapes) shapes.replaceChildren(this.below, this.above);
    this.instances.drawInto(this.below);
    this.above.replaceChildren(...this.instances.held(), ...this.tool.draw());
  }
  /* What tools paint on: the mask of the slice, or that of one object. */
  get target() { return (this.tool.name !== "surface" && this.instances.of(this.label)) || this.mask; }

  /* ---- steps: what a tool does between begin and commit is undone as one ---- */
  begin() {
    this.before = this.target.values.slice();
    this.touched = null;
  }
  paint(spans, erase = false, label = this.label, from = undefined) { this.mark(this.target.apply(spans, label, erase, from)); }
  mark(box) {
    if (!box) return;
    this.touched = joined(this.touched, box);
    if (this.target === this.mask) this.stage.draw(this.mask, box);
  }
  /* Take back what was done since begin, to do it anew from there. */
  rewind() {
    if (this.touched) {
      const { target } = this;
      target.paste(this.touched, target.cut(this.touched, this.before));
      if (target === this.mask) this.stage.draw(this.mask, this.touched);
    }
  }
  commit(tool, also = null) {
    const { index, mask, touched, target } = this;
    if (target !== mask && !also) {
      this.before = null;
      also = touched && this.instances.commit(target, touched);
    }
    const own = touched && target === mask && maskStep(mask, this.before, touched, (changed, box) => { if (changed === this.mask) this.stage.draw(changed, box); });
    this.before = null;
    if (!own && !also) { this.redraw(); return; }
    if (own) mask.changed = true;
    this.history.add({ index, bytes: (own ? own.bytes : 0) + (also ? also.bytes : 0), swap: () => { if (own) own.swap(); if (also) also.swap(); } });
    this.used.add(tool);
    this.after();
  }
  /* A step on the list of objects, whose former state is ``before``. */
  listStep(before, bytes = 0) {
    let other = before;
    this.objectsChanged = true;
    const swap = () => {
      [this.planes.objects, other] = [other, this.planes.objects];
      this.chosen = this.planes.objectsOf(this.index).find((one) => this.chosen && one.key === this.chosen.key) || null;
    };
    return { bytes: 200 * before.length + bytes, swap };
  }
  async step(back) {
    if (this.before || this.saving) return; // in the middle of a stroke
    if (this.tool) this.tool.cancel();
    const step = (back ? this.history.done : this.history.undone).at(-1);
    if (!step) { this.say(back ? "Nothing to undo." : "Nothing to redo."); return; }
    if (step.index !== this.index) window.ocusegCase.goTo(step.index); // one sees what changes
    if (back) this.history.undo(); else this.history.redo();
    this.enter();
    this.say(back ? "Undone." : "Done again.");
    this.after();
  }
  after() {
    this.changed = true;
    this.toolbar.update();
    this.redraw();
    this.keeping += 1; // while it is being kept the browser asks before it leaves the page
    this.kept = this.keep(this.unfinished()).catch(() => this.say("This browser cannot keep an unfinished edit: save before you leave the page.", true))
      .finally(() => { this.keeping -= 1; });
  }
  spent() { return Math.round(this.seconds + (Date.now() - this.begun) / 1000); }
  unfinished() {
    const planes = [...this.planes.masks].filter(([, mask]) => mask.changed).map(([index, { values }]) => ({ index, values }));
    return {
      base: this.info.correction, planes, tools: [...this.used], seconds: this.spent(), surfacePlanes: [...this.surfacesChanged],
      surfaces: this.surfacesChanged.size ? this.planes.surfaces : null, objects: this.objectsChanged ? this.planes.objects : null,
    };
  }
  async save() {
    if (this.saving) return;
    if (!this.changed) { this.say("Nothing is changed: A accepts the case as it is, Esc leaves the editor."); return; }
    if (this.tool) this.tool.cancel();
    this.saving = true; // what is drawn from here on would not be saved, and gone when the server answers
    this.redraw();
    try {
      await this.kept;
      await this.saved(await this.body());
    } finally { this.saving = false; }
  }
  async body() {
    const planes = [];
    for (const [index, mask] of this.planes.masks) if (mask.changed) planes.push({ index, mask: toBase64(await encodeGrey(mask)) });
    const body = { base: this.info.correction, planes, tools: [...this.used], seconds: this.spent() };
    if (this.surfacesChanged.size) body.surfaces = this.planes.surfaces.filter((one) => this.surfacesChanged.has(one.plane));
    if (this.objectsChanged) body.objects = this.planes.objects.map(({ id, plane, class: k, score, box, cut, painted }) => ({ id, plane, class: k, score, box, ...(painted ? { mask: pack(cut) } : {}) }));
    return body;
  }

  /* ---- pointer and keys ---- */
  listen() {
    const pane = byId("pane-overlay"), { signal } = this.over;
    const on = (kind, run) => pane.addEventListener(kind, run, { signal, capture: true });
    document.querySelector(".case-view").classList.add("editing");
    document.addEventListener("ocuseg-slice", (event) => this.goTo(event.detail).catch((error) => this.say(error.message, true)), { signal });
    window.addEventListener("beforeunload", (event) => { if (this.keeping) event.preventDefault(); }, { signal });
    let drawing = null, panning = null;
    on("contextmenu", (event) => event.preventDefault());
    on("dblclick", (event) => event.stopPropagation());
    on("pointerdown", (event) => {
      if (!this.stage.svg.contains(event.target)) return;
      if (!this.mask) { this.say("This slice is being loaded: nothing can be drawn on it yet.", true); return; }
      if (event.pointerType === "pen") this.pens.add("seen");
      if (drawing !== null) { event.stopPropagation(); return; } // a second finger
      if (event.pointerType === "touch" && this.pens.size) return; // the pen draws, a finger moves the view
      event.stopPropagation();
      this.stage.svg.setPointerCapture(event.pointerId);
      if (event.button === 1 || event.button === 2) { panning = [event.clientX, event.clientY]; event.preventDefault(); return; }
      if (this.saving) { this.say("It is being saved: nothing can be drawn until the server has answered.", true); return; }
      drawing = event.pointerId;
      this.tool.down(this.stage.point(event), event);
      this.redraw();
    });
    on("pointermove", (event) => {
      this.pointer = this.stage.point(event);
      if (panning) {
        window.ocusegCase.view.move(panning[0] - event.clientX, panning[1] - event.clientY);
        panning = [event.clientX, event.clientY];
      } else if (event.pointerId === drawing) {
        const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
        for (const one of all.length ? all : [event]) this.tool.move(this.stage.point(one), one);
      }
      this.redraw();
    });
    const stop = (event) => {
      if (panning) panning = null;
      if (event.pointerId !== drawing) return;
      event.stopPropagation();
      drawing = null;
      if (event.type === "pointerup") this.tool.up(this.stage.point(event), event); else this.tool.cancel();
      this.redraw();
    };
    on("pointerup", stop);
    on("pointercancel", stop);
    on("lostpointercapture", stop); // whatever took the pointer away, the next stroke can begin
    on("pointerleave", () => { this.pointer = null; this.redraw(); });
  }
  /* Returns whether the key was meant for the editor; the others (zoom, slices, brightness) go on to the viewer. */
  key(event) {
    const letter = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
    if (control) {
      if (letter === "z") this.step(!event.shiftKey);
      else if (letter === "y") this.step(false);
      else if (letter === "s") this.save();
      else return false;
      return true;
    }
    if (event.altKey) return false;
    if (this.saving) return true;
    if (this.mask && this.tool.key && this.tool.key(event)) { this.redraw(); return true; }
    if (event.key === "Escape") {
      if (!this.tool.cancel() && !(this.info.instances && this.chosen)) this.leave(this.changed);
      this.chosen = null;
      this.redraw();
      return true;
    }
    if (event.key === "[" || event.key === "]") { this.resize(event.key === "]" ? 1 : -1); return true; }
    const cls = /^[1-9]$/.test(event.key) && this.info.classes[Number(event.key) - 1];
    if (cls) { this.chooseClass(cls.index); return true; }
    const tool = !event.shiftKey && this.tools.find((one) => one.key_ === letter);
    if (tool) { this.choose(tool); return true; }
    return /^[a-z]$/.test(letter) && !"gusm".includes(letter); // no way to another case in the middle of an edit
  }
}

export const openEditor = async (info, how) => {
  const editor = new Editor(info, how);
  try {
    return await editor.open(how.draft);
  } catch (error) {
    editor.stage.close();
    throw error;
  }
};
