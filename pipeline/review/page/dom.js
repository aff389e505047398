/* Elements and dialogs. */
export const byId = (id) => document.getElementById(id);

/* An element: attributes (``on`` holds listeners, ``text`` its text), then children. */
export function make(tag, { on = {}, text, ...attributes } = {}, ...children) {
  const made = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, ""); else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  if (text !== undefined) made.textContent = text;
  made.append(...children.filter((child) => child !== null));
  return made;
}
export const key = (text) => make("kbd", { text, "aria-hidden": "true" });

/* A question with answers [value, words]; resolves to the value, or to ``escaped`` where the person pressed Escape. */
export function question(title, text, answers, escaped) {
  return new Promise((done) => {
    const dialog = make("dialog", { class: "review-question", "aria-labelledby": "review-question-title" },
      make("h2", { id: "review-question-title", text: title }), ...[].concat(text).map((one) => make("p", { text: one })));
    const answered = (value) => { dialog.close(); dialog.remove(); done(value); };
    dialog.append(make("div", { class: "review-answers" }, ...answers.map(([value, words]) => make("button", { type: "button", "data-answer": value, text: words, on: { click: () => answered(value) } }))));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); if (escaped !== undefined) answered(escaped); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
/* The dialog of a conflict: resolves to "theirs", "mine" or, of an edit of some slices, "both". */
export function conflict({ by, at, message }, found, { planes, surfaces = [], objects, base }, name, reviewer) {
  const own = by && by === reviewer;
  const title = own ? "You have reviewed this case meanwhile" : "Somebody else has reviewed this case";
  const whom = by ? `${own ? "You" : by} saved another version of ${name} at ${clock(at)}${own ? ", in another tab or browser" : ""}, after it was opened here.` : message;
  const slices = [...new Set([...(planes || []), ...surfaces].map((one) => one.index ?? one.plane))].sort((a, b) => a - b).map((k) => k + 1);
  const several = planes && found && found.planes.length > 1 && found.correction !== base;
  const both = several && !objects; // objects are sent as one list: on top of theirs it would drop what they changed in other slices
  const which = both && slices.length ? [`You changed slice ${slices.join(", ")}. Every other slice can be as you had it before you, or as the other version has it.`] : [];
  return question(title, [whom, ...which, "That version stays in the history whatever you choose."],
    [["mine", several ? "Keep mine in all slices" : "Keep mine as a new version on top"], ...(both ? [["both", "My slices, the others as in that one"]] : []),
      ["theirs", own ? "Load that one, drop this" : "Load theirs, drop mine"]]);
}
export function clock(at) {
  const when = new Date(at);
  if (Number.isNaN(when.getTime())) return String(at);
  const today = when.toDateString() === new Date().toDateString();
  return when.toLocaleString("en-GB", today ? { hour: "2-digit", minute: "2-digit", second: "2-digit" } : { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
}
