/* The editor's tools, classes and steps as buttons, in the bar. */
import { byId, key, make } from "./dom.js";

export function makeToolbar(editor) {
  const swatch = (colour) => make("svg:svg", { class: "swatch", width: 14, height: 10, "aria-hidden": "true" }, make("svg:rect", { width: 14, height: 10, fill: colour }));
  const tools = editor.tools.map((tool) => [tool, make("button", { type: "button", "data-tool": tool.name, title: `${tool.title} (${tool.key_.toUpperCase()})`, on: { click: () => editor.choose(tool) } }, tool.words, " ", key(tool.key_.toUpperCase()))]);
  const classes = editor.info.classes.map((cls, k) => [cls, make("button", { type: "button", "data-edit-class": cls.index, on: { click: () => editor.chooseClass(cls.index) } }, swatch(cls.colour), " ", cls.name, " ", k < 9 ? key(String(k + 1)) : "")]);
  const size = make("output", { id: "review-size", "aria-live": "off" });
  const button = (id, text, letter, run) => make("button", { type: "button", id: `review-${id}`, on: { click: run } }, text, " ", key(letter));
  const undo = button("undo", "Undo", "Ctrl Z", () => editor.step(true)), redo = button("redo", "Redo", "Ctrl Shift Z", () => editor.step(false));
  const hint = make("p", { class: "review-hint", id: "review-hint" });
  const place = byId("review-editor");
  place.replaceChildren(
    make("div", { class: "review-row", role: "toolbar", "aria-label": "Editing" },
      make("div", { class: "review-buttons", role: "group", "aria-label": "Tool" }, ...tools.map(([, one]) => one)),
      make("div", { class: "review-buttons", role: "group", "aria-label": "Class" }, ...classes.map(([, one]) => one)),
      make("span", { class: "review-size", hidden: editor.tools.length === 1 && editor.tools[0].name === "boxes" },
        make("button", { type: "button", "aria-label": "Smaller", title: "Smaller ([)", text: "−", on: { click: () => editor.resize(-1) } }), size,
        make("button", { type: "button", "aria-label": "Larger", title: "Larger (])", text: "+", on: { click: () => editor.resize(1) } })),
      undo, redo,
      button("save", "Save, next", "Ctrl S", () => editor.save()), button("leave", "Leave", "Esc", () => editor.leave(editor.changed))),
    hint);
  byId("review-save").classList.add("review-main");
  place.hidden = false;
  return {
    update() {
      for (const [tool, one] of tools) one.setAttribute("aria-pressed", String(tool === editor.tool));
      for (const [cls, one] of classes) one.setAttribute("aria-pressed", String(cls.index === editor.label));
      size.textContent = `${editor.size} px`;
      undo.disabled = !editor.history.done.length;
      redo.disabled = !editor.history.undone.length;
      if (editor.tool) hint.textContent = editor.tool.hint;
    },
    close() {
      place.hidden = true;
      place.replaceChildren();
    },
  };
}
