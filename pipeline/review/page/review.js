/* Review of the case on show: verdicts, comment, eye, and the way to the next case. The bar is made by bar.js, edits by editor.js. */
import { Away, Refused, ask, begin, deliver, pathOf, undelivered, who } from "./api.js";
import { pageOf, prepare, replace } from "./ahead.js";
import * as bars from "./bar.js";
import { byId, clock, conflict, question } from "./dom.js";
import { openEditor, showCorrection } from "./editor.js";
import { markWorklist } from "./list.js";
import { markShown, showReadings } from "./readings.js";
import { store } from "./store.js";

let session = null;
let shown = null; // the case on show: { name, info, editor, reasons (a Set while they are chosen), busy }
let ahead = null; // { name, ready: promise of the prepared case }
let acceptedAt = -Infinity;
const TWICE_MS = 250; // a second press so soon is one of the same finger: nobody has seen the next case yet
const sayKept = (text) => bars.say(text, true);

/* ---- one case ---- */
async function start(name, info) {
  shown = { name, info: null, editor: null, correction: null, reading: null, reasons: null, busy: false, opened: Date.now() };
  bars.makeBar(session, { accept, reject: chooseReasons, reason, rejectNow, rejectNot: () => setReasons(null), edit: editOrGoOn, comment, typed, eye, compare, skip, logout });
  bars.listKeys(session);
  const own = shown;
  try {
    await update(info || await ask(pathOf(name)));
  } catch (error) {
    return fault(error);
  }
  if (shown !== own) return;
  byId("review-comment").value = localStorage.getItem(commentKey()) ?? shown.info.comment ?? "";
  typed();
  lookAhead(shown.info.next);
  if (info) ask(pathOf(name)).then((now) => ((now.version !== info.version || now.model !== info.model) && shown === own && !own.editor && !own.busy ? update(now) : null)).catch(() => null); // it was fetched a while ago
  progress();
  if (!info) await deliverEarlier();
  if (shown === own) await offerDraft(own);
}
async function update(info) {
  if (info.case !== shown.name) return; // somebody has gone on meanwhile
  if (info.model !== document.body.dataset.model) { location.reload(); return; } // predicted again: the page shows what is no more
  Object.assign(shown, { info, reading: null });
  bars.showCase(info, session);
  showReadings(info, session, { show: showReading, take });
  if (shown.correction) shown.correction.close();
  shown.correction = info.verdict === "edited" ? await showCorrection(info) : null;
  const compareButton = byId("review-compare");
  compareButton.hidden = !shown.correction;
}
async function progress() {
  try { bars.showProgress(await ask("/api/progress")); } catch { /* the next one tells */ }
}
function fault(error) {
  if (error instanceof Refused && error.status === 401) { location.assign("/login"); return; }
  bars.say(error.message, true);
}

/* ---- verdicts ---- */
const commentOf = () => byId("review-comment").value.trim();
const commentKey = (name = shown.name) => `ocuseg-comment ${JSON.stringify([...who(), name])}`;

/* ``own``: the case that it is about, whatever is on show when the server answers. */
async function send(own, what, body) {
  if (own.busy || own !== shown) return undefined;
  own.busy = true;
  document.body.dataset.reviewBusy = what;
  try {
    const sent = { version: own.info.version, model: own.info.model, comment: commentOf(), ...body };
    const answer = await deliver(own.name, what, sent, { say: sayKept, choose: (found) => conflict(found, own.name, session.reviewer) });
    performance.mark("ocuseg-answered");
    return answer;
  } catch (error) {
    fault(error);
    return undefined;
  } finally {
    own.busy = false;
    delete document.body.dataset.reviewBusy;
  }
}
async function decide(what, body, words) {
  const own = shown, answer = await send(own, what, body);
  if (answer === undefined) return;
  localStorage.removeItem(commentKey(own.name));
  if (shown !== own) { if (answer) bars.say(`${words}: ${own.name}`); progress(); return; } // somebody who has gone on is not led away
  if (answer === null) await reopen(); else await goTo(answer.next, `${words}: ${own.name}`);
}
async function accept() {
  if (shown.editor || !shown.info || performance.now() - acceptedAt < TWICE_MS) return;
  acceptedAt = performance.now();
  if (shown.correction && !shown.correction.on()) { compare(); bars.say("The corrected contours are what A accepts: they are shown again. Press A again.", true); return; }
  if (shown.reading) { await take(shown.reading); return; }
  performance.mark("ocuseg-accepted");
  const last = shown.info.history.filter((one) => one.action !== "comment" && one.action !== "eye").at(-1);
  const same = shown.info.verdict === "accepted" && last && last.reviewer === session.reviewer && commentOf() === (shown.info.comment || "");
  if (same) await goTo(shown.info.next, "Accepted before"); else await decide("verdict", { action: "accept", reasons: [] }, "Accepted");
}
function setReasons(chosen) {
  shown.reasons = chosen;
  bars.showReasons(chosen);
}
function chooseReasons() {
  if (shown.editor || !shown.info) return;
  setReasons(shown.reasons ? null : new Set(shown.info.verdict === "rejected" ? shown.info.reasons : []));
}
function reason(place) {
  const { code } = session.reasons[place];
  if (shown.reasons.has(code)) shown.reasons.delete(code); else shown.reasons.add(code);
  bars.showReasons(shown.reasons);
}
async function rejectNow() {
  if (!shown.reasons.size) { bars.say(`Say why: press 1 to ${session.reasons.length}.`, true); return; }
  const reasons = session.reasons.map((one) => one.code).filter((code) => shown.reasons.has(code));
  await decide("verdict", { action: "reject", reasons }, "Rejected");
}
function typed() {
  const changed = commentOf() !== (shown.info?.comment || "");
  byId("review-comment-save").hidden = !changed;
  if (changed) localStorage.setItem(commentKey(), byId("review-comment").value); else localStorage.removeItem(commentKey());
}
async function comment() {
  if (!commentOf()) { bars.say("Write a comment first.", true); return; }
  const own = shown, answer = await send(own, "comment", {});
  if (answer === undefined) return;
  localStorage.removeItem(commentKey(own.name));
  if (shown === own) await reopen(answer && "Comment saved.");
}
async function eye(side) {
  const own = shown, answer = await send(own, "eye", { eye: side, comment: "" });
  if (answer !== undefined && shown === own) await reopen(answer && `Eye set: ${side === "R" ? "OD, right" : "OS, left"}.`);
}
/* The case as the server has it now. */
async function reopen(words) {
  try {
    await update(await ask(pathOf(shown.name)));
    byId("review-comment").value = localStorage.getItem(commentKey()) ?? shown.info.comment ?? "";
    typed();
    setReasons(null);
    bars.say(words || "This is what somebody else has saved.");
    progress();
  } catch (error) { fault(error); }
}
function compare() {
  if (!shown.correction) return;
  const on = shown.correction.toggle();
  byId("review-compare").setAttribute("aria-pressed", String(!on));
  bars.say(on ? "The corrected contours are shown." : "The model's own contours are shown.");
}
async function showReading(reading) {
  const own = shown;
  if (own.busy || own.editor) return;
  own.busy = true; // no verdict while what it would be about is on its way
  try {
    if (own.correction) own.correction.close();
    Object.assign(own, { correction: null, reading: null }); // the model's own contours are those of the page
    const correction = reading.correction ? await showCorrection({ ...own.info, planes: reading.planes, surfaces: [], objects: [] }) : null;
    if (shown !== own) { correction?.close(); return; }
    Object.assign(own, { correction, reading }); // what is accepted is what is shown
  } catch (error) {
    fault(error);
    return;
  } finally { own.busy = false; }
  byId("review-compare").hidden = !shown.correction;
  markShown(reading.role);
  bars.say(`The picture shows what ${reading.reviewer} ${reading.correction ? "drew" : "accepted: the model's answer"}.`);
}
const take = ({ role, reviewer, verdict, reasons }) => (verdict === "rejected"
  ? decide("verdict", { action: "reject", reasons }, `Rejected, as ${reviewer} did`)
  : decide("verdict", { action: "accept", reasons: [], take: role }, `Taken from ${reviewer}`));
const skip = () => goTo(shown.info && shown.info.next, "Skipped");
async function logout() {
  await fetch("/logout", { method: "POST", headers: { "X-CSRF-Token": session.csrf } }).catch(() => null);
  location.assign("/login");
}

/* ---- on to the next ---- */
function lookAhead(name) {
  if (!name) { ahead = null; return; }
  if (ahead && ahead.name === name) return;
  ahead = { name, ready: prepare(name).catch(() => null) };
}
async function goTo(name, words) {
  if (!name) {
    bars.say(`${words}. That was the last case to review.`);
    byId("review-verdict").focus?.();
    await reopen(`${words}. Every case of this list is reviewed: W leads back to the worklist.`);
    return;
  }
  lookAhead(name);
  const prepared = await ahead.ready;
  if (shown.correction) shown.correction.close();
  closeEditor(shown);
  if (!prepared || !replace(prepared)) { location.assign(pageOf(name) + location.hash); return; }
  ahead = null;
  const begun = start(name, prepared.info);
  bars.say(`${words}.`);
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("ocuseg-drawn", { detail: name })));
  await begun;
}

/* ---- editing ---- */
async function edit(draft) {
  if (shown.editor || shown.busy || !shown.info) return;
  if (!shown.info.classes.length) { bars.say("Nothing is drawn on this case that could be edited; R rejects it.", true); return; }
  setReasons(null);
  if (shown.correction) shown.correction.close();
  shown.correction = null;
  const own = shown, drafts = store("drafts", who());
  try {
    own.editor = await openEditor(own.info, {
      draft, say: bars.say,
      keep: (unfinished) => drafts.put(own.name, { ...unfinished, name: own.name, version: own.info.version, model: own.info.model, at: new Date().toISOString() }),
      save: async (body) => {
        const name = own.name, answer = await send(own, "edit", body);
        if (answer === undefined) return;
        await drafts.drop(name);
        localStorage.removeItem(commentKey(name));
        closeEditor(own);
        if (shown !== own) { progress(); return; }
        if (answer === null) { await reopen(); return; }
        await goTo(answer.next, `Corrected: ${name}`);
      },
      leave: async (changed) => {
        const answer = changed ? await question("Leave the edit?", "What you have changed is not saved yet.", [["save", "Save and next"], ["keep", "Leave, keep it for later"], ["drop", "Drop the changes"]], "stay") : "drop";
        if (answer === "stay") return;
        if (answer === "save") { own.editor.save(); return; }
        if (answer === "drop") await drafts.drop(own.name);
        if (shown !== own) return;
        closeEditor(own);
        await update(own.info);
        bars.say(answer === "keep" ? "The unfinished edit is kept in this browser; E goes on with it." : "");
      },
    });
    if (shown !== own) closeEditor(own); // somebody has gone on while it opened
  } catch (error) { fault(error); }
}
function closeEditor(own) {
  if (own.editor) own.editor.close();
  own.editor = null;
}
async function offerDraft(own, asked = false) {
  const drafts = store("drafts", who()), draft = await drafts.get(own.name).catch(() => null);
  if (!draft || shown !== own || own.editor) return false;
  const again = Boolean(draft.model) && draft.model !== own.info.model;
  const moved = again ? ["The case was predicted again since: look at everything before you save."] : draft.version !== own.info.version ? [`The case has been reviewed since; when you save, you are asked what holds.`] : [];
  const answer = asked && !again ? "go" : await question("An unfinished edit of this case", [`You left an edit unfinished at ${clock(draft.at)}. It is kept in this browser.`, ...moved], [["go", "Go on with it"], ["later", "Not now"], ["drop", "Drop it"]], "later");
  if (answer === "drop") { await drafts.drop(own.name); bars.say("The unfinished edit is dropped."); }
  if (answer === "go") { own.info = { ...own.info, version: draft.version }; await edit(draft); }
  return answer === "go";
}

async function editOrGoOn() {
  if (!await offerDraft(shown, true)) await edit();
}

/* ---- keys: those of the review come before the viewer's ---- */
const LETTERS = { a: accept, r: chooseReasons, e: editOrGoOn, k: () => byId("review-comment").focus(), j: skip, x: compare };
window.addEventListener("keydown", (event) => {
  if (!shown || document.querySelector("dialog[open]")) return;
  const take = () => { event.preventDefault(); event.stopImmediatePropagation(); };
  const field = event.target.matches?.("input[type=text], textarea, select");
  if (field) {
    if (event.key === "Escape") event.target.blur();
    event.stopImmediatePropagation(); // what is typed is no command
    if (event.key === "Enter" && event.target.id === "review-comment") { take(); comment(); }
    return;
  }
  if (shown.editor) { if (shown.editor.key(event)) take(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (shown.reasons) {
    const place = Number(event.key) - 1;
    if (session.reasons[place]) { take(); reason(place); return; }
    if (event.key === "Enter" && !event.target.matches?.("#review-bar button:not([data-reason])")) { take(); rejectNow(); return; }
    if (event.key === "Escape") { take(); setReasons(null); return; }
  }
  const run = !event.shiftKey && LETTERS[event.key.toLowerCase()];
  if (run && !event.repeat) { take(); run(); } else if (run) take();
}, true);
window.addEventListener("popstate", () => { if (shown && location.pathname !== pageOf(shown.name)) location.reload(); });

/* ---- verdicts that an earlier page could not deliver ---- */
async function deliverEarlier() {
  for (const one of await undelivered().catch(() => [])) {
    const answer = await deliver(one.name, one.what, one.body, { say: sayKept, choose: (found) => conflict(found, one.name, session.reviewer) }).catch((error) => { fault(error); return undefined; });
    if (answer === undefined) continue;
    if (one.what === "edit") await store("drafts", who()).drop(one.name);
    if (one.name === shown.name) await reopen();
    if (answer) bars.say(`Saved what was kept of ${one.name}, of ${clock(one.at)}.`);
  }
}

async function main() {
  try {
    session = await begin();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) location.assign("/login");
    else if (error instanceof Away) setTimeout(main, 1000);
    return;
  }
  const name = document.body.dataset.case;
  if (name) await start(name); else await markWorklist();
}
main();
