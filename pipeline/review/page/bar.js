/* The bar under the overlay: the case's verdict, the buttons, reasons, comment, eye, progress and history. review.js says what they do. */
import { byId, clock, key, make } from "./dom.js";

const VERDICTS = { unreviewed: ["○", "Not reviewed"], accepted: ["✓", "Accepted"], rejected: ["✕", "Rejected"], edited: ["✎", "Corrected"] };
const FOOTERS = {
  unreviewed: "What is drawn is a network's output and has not been reviewed.", accepted: "What is drawn is a network's output that a reviewer has accepted.",
  rejected: "What is drawn is a network's output that a reviewer has rejected.", struck: "What is drawn is a reviewer's correction of a network's output, which was rejected.", edited: "What is drawn is a reviewer's correction of a network's output.",
};
const ACTIONS = { accept: "accepted", reject: "rejected", edit: "corrected", comment: "commented", eye: "set the eye", adjudicate: "adjudicated" };

export function makeBar(session, act) {
  const button = (id, letter, text, run) => make("button", { type: "button", id: `review-${id}`, title: `${text} (${letter})`, on: { click: run } }, text, " ", key(letter));
  const bar = make("section", { class: "review-bar", "aria-label": "Review", id: "review-bar" },
    make("div", { class: "review-row review-main-row" },
      make("p", { id: "review-verdict", class: "review-verdict" }),
      make("div", { class: "review-buttons", role: "group", "aria-label": "Verdict" },
        button("accept", "A", "Accept", act.accept), button("reject", "R", "Reject", act.reject), button("edit", "E", "Edit", act.edit)),
      make("span", { class: "review-comment" },
        make("label", { for: "review-comment", class: "sr", text: "Comment" }),
        make("input", { id: "review-comment", type: "text", maxlength: 2000, autocomplete: "off", placeholder: "Comment (K)", on: { input: act.typed } }),
        make("button", { type: "button", id: "review-comment-save", hidden: true, text: "Save comment", on: { click: act.comment } })),
      make("div", { class: "review-eye", id: "review-eye", role: "group", "aria-label": "Which eye is it?", hidden: true },
        make("span", { text: "Eye?" }),
        make("button", { type: "button", "data-eye": "R", title: "This is a right eye", text: "OD right", on: { click: () => act.eye("R") } }),
        make("button", { type: "button", "data-eye": "L", title: "This is a left eye", text: "OS left", on: { click: () => act.eye("L") } })),
      make("button", { type: "button", id: "review-compare", hidden: true, "aria-pressed": "false", title: "The model's own contours, or the corrected ones (X)", on: { click: act.compare } }, "Model's ", key("X")),
      make("button", { type: "button", id: "review-back", hidden: true, title: "Accept the model's own answer in place of the correction, which stays in the history (Z)", on: { click: act.back } }, "Back to model's ", key("Z")),
      make("details", { class: "review-history" }, make("summary", { text: "History" }), make("ul", { id: "review-history", tabindex: "0", "aria-label": "History of this case" })),
      make("p", { id: "review-progress", class: "review-progress" }),
      make("button", { type: "button", id: "review-skip", title: "The next case to review, without a verdict (J)", on: { click: act.skip } }, "Skip ", key("J")),
      session.reviewer ? make("p", { class: "review-who", title: "Who is reviewing" }, make("span", { class: "sr", text: "Reviewer " }), session.reviewer,
        session.login ? make("button", { type: "button", id: "review-logout", text: "Log out", on: { click: act.logout } }) : null) : null),
    make("div", { class: "review-row review-reasons", id: "review-reasons", role: "group", "aria-label": "Why is it rejected?", hidden: true },
      make("span", { text: "Why? Press a number:" }),
      ...session.reasons.map(({ code, text }, k) => make("button", { type: "button", "aria-pressed": "false", "data-reason": code, on: { click: () => act.reason(k) } }, key(String(k + 1)), " ", text)),
      make("button", { type: "button", id: "review-reject-now", class: "review-main", on: { click: act.rejectNow } }, "Reject, next ", key("Enter")),
      make("button", { type: "button", id: "review-reject-no", on: { click: act.rejectNot } }, "Cancel ", key("Esc"))),
    make("div", { class: "review-row", id: "review-readings", role: "group", "aria-label": "Readings", hidden: true }),
    make("div", { id: "review-editor", hidden: true }),
    make("p", { id: "review-notice", class: "review-hint", hidden: true }),
    make("p", { id: "review-status", class: "review-status", role: "status", "aria-live": "polite" }));
  const panes = document.querySelector(".panes");
  panes.after(bar);
  return bar;
}

export function say(text, warn = false) {
  const status = byId("review-status");
  if (!status) return;
  status.textContent = text;
  status.classList.toggle("warn", warn);
}

export function showReasons(chosen) {
  byId("review-reasons").hidden = chosen === null;
  byId("review-reject").setAttribute("aria-expanded", String(chosen !== null));
  document.querySelectorAll("[data-reason]").forEach((one) => one.setAttribute("aria-pressed", String(Boolean(chosen) && chosen.has(one.dataset.reason))));
}

const reasonText = (session, codes) => (codes || []).map((code) => (session.reasons.find((one) => one.code === code) || { text: code }).text).join(", ");

/* Whose verdict it is, which need not be the last one; of a correction that somebody else accepted also who drew it. */
const whose = ({ verdict, reviewer, author }) => (verdict === "edited" && author !== reviewer ? `by ${author}, accepted by ${reviewer}` : reviewer);

export function showCase(info, session) {
  const [sign, word] = VERDICTS[info.verdict] || VERDICTS.unreviewed;
  const verdict = byId("review-verdict");
  verdict.dataset.verdict = info.verdict;
  const why = info.verdict === "rejected" ? reasonText(session, info.reasons) : "";
  verdict.replaceChildren(make("strong", {}, make("span", { "aria-hidden": "true", text: `${sign} ` }), word + (why ? `: ${why}` : "")),
    ...(info.verdict !== "unreviewed" ? [make("span", { text: ` ${whose(info)}, ${clock(info.at)}` })] : []));
  const list = byId("review-history");
  list.replaceChildren(...[...(info.history || [])].reverse().map((one) => make("li", {},
    make("strong", { text: one.reviewer || "somebody" }), ` ${ACTIONS[one.action] || one.action}`, one.reasons && one.reasons.length ? ` (${reasonText(session, one.reasons)})` : "",
    one.comment ? `: “${one.comment}”` : "", make("span", { class: "review-when", text: ` ${clock(one.at)}, version ${one.version}` }))));
  if (!list.childElementCount) list.append(make("li", { text: "Nobody has reviewed this case yet." }));
  showEye(info);
  const said = document.querySelector("footer p"), strong = said && said.querySelector("strong");
  if (strong) said.replaceChildren(strong, ` ${FOOTERS[info.verdict === "rejected" && info.correction ? "struck" : info.verdict] || FOOTERS.unreviewed}`);
  byId("review-notice").dataset.said = info.notice || "";
  sayWhose("");
}
/* Whose contours and numbers are on show, after what there is to say of the case. */
export function sayWhose(words) {
  const notice = byId("review-notice");
  notice.textContent = [notice.dataset.said, words].filter(Boolean).join(" ");
  notice.hidden = !notice.textContent;
}

/* Where no file said which eye it is, one click does; the page then shows that eye. */
function showEye(info) {
  const byReviewer = info.eye_source === "reviewer", choose = byId("review-eye");
  choose.hidden = Boolean(info.eye) && !byReviewer;
  choose.querySelectorAll("[data-eye]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.eye === info.eye)));
  if (!byReviewer || !info.eye) return;
  const short = info.eye === "R" ? "OD" : "OS", words = info.eye === "R" ? "Right eye (OD)" : "Left eye (OS)";
  document.querySelectorAll(".pane-eye").forEach((one) => { one.textContent = short; });
  document.querySelectorAll(".bar-name .eye, .eye-large").forEach((one) => {
    one.textContent = short;
    one.classList.remove("eye-unknown", "eye-OD", "eye-OS");
    one.classList.add(`eye-${short}`);
  });
  const said = document.querySelector(".eye-words");
  if (said) said.replaceChildren(make("strong", { text: words }), make("br"), make("span", { class: "muted", text: "laterality: set by a reviewer" }));
}

export function showProgress({ cases, unreviewed }) {
  const done = cases - unreviewed;
  byId("review-progress").replaceChildren(make("progress", { max: cases, value: done, "aria-hidden": "true" }), ` ${done} of ${cases} reviewed`);
}

/* The viewer's dialog of keys, as they are while reviewing: three letters are taken, and do what they did with Shift. */
export function listKeys(session) {
  const table = document.querySelector("#help table");
  for (const row of table.rows) {
    const keys = [...row.cells[0].querySelectorAll("kbd")];
    for (const one of keys) if (["A", "R", "E"].includes(one.textContent)) one.textContent = `Shift ${one.textContent}`;
  }
  table.before(make("div", { class: "review-help" }));
  table.previousElementSibling.append(table);
  const row = (keys, text) => make("tr", {}, make("td", {}, ...keys.flatMap((one) => [make("kbd", { text: one }), " "])), make("td", { text }));
  table.before(make("table", { class: "review-keys" }, make("tbody", {},
    row(["A"], "accept, and on to the next case"), row(["R"], "reject: then why, and Enter"), row(["1", "…", String(session.reasons.length)], "after R: why"),
    row(["E"], "edit"), row(["K"], "write a comment"), row(["J"], "next case to review, without a verdict"), row(["X"], "of a corrected case: the model's contours, or the corrected ones"), row(["Z"], "of a corrected case: back to the model's answer"),
    row(["B", "E", "P", "F"], "while editing: brush, eraser, polygon, fill"), row(["D", "L", "O"], "while editing: ellipse of disc or cup, line of a surface, objects (then B, E, P, F paint on one alone)"),
    row(["[", "]"], "while editing: smaller, larger brush"), row(["Ctrl Z", "Ctrl Shift Z"], "while editing: undo, redo"), row(["Ctrl S", "Esc"], "while editing: save and next, leave"))));
}
