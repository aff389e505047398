/* Review of the case on show: verdicts, comment, eye, and the way to the next case. The bar is made by bar.js, edits by edits.js and editor.js. */
import { Away, Refused, ask, begin, deliver, pathOf, undelivered, who } from "./api.js";
import { pageOf, prepare, replace } from "./ahead.js";
import * as bars from "./bar.js";
import { showCorrection } from "./correction.js";
import { byId, clock, conflict } from "./dom.js";
import { Edits, closeEditor } from "./edits.js";
import { markWorklist } from "./list.js";
import { correctionNumbers } from "./numbers.js";
import { markShown, showReadings } from "./readings.js";
import { store } from "./store.js";

let session = null;
/* The case on show: { name, info, editor, opening (an editor), correction (drawn over the picture), reading, reasons (a Set while they are chosen),
   busy (a verdict is on its way), leaving (for the next case) }. Whatever waits for an answer looks again whether it is still the one on show. */
let shown = null;
let ahead = null; // { name, ready: promise of the prepared case }
let acceptedAt = -Infinity;
const TWICE_MS = 250; // a second press so soon is one of the same finger: nobody has seen the next case yet
const WAIT = "One moment: the server has not answered yet.";
const sayKept = (text) => bars.say(text, true);

/* ---- one case ---- */
async function start(name, info) {
  shown = { name, info: null, editor: null, correction: null, reading: null, reasons: null, busy: false, opened: Date.now() };
  bars.makeBar(session, { accept, reject: chooseReasons, reason, rejectNow, rejectNot: () => setReasons(null), edit: () => edits.editOrGoOn(), comment, typed, eye, compare, back, skip, logout });
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
  if (shown === own) await edits.offerDraft(own);
}
async function update(info) {
  const own = shown;
  if (info.case !== own.name || own.editor || own.opening) return; // somebody has gone on, or edits what was there before: a conflict will tell
  if (own.info && info.version < own.info.version) return; // it was long on its way
  if (info.model !== document.body.dataset.model) { location.reload(); return; } // predicted again: the page shows what is no more
  Object.assign(own, { info, reading: null });
  bars.showCase(info, session);
  showReadings(info, session, { show: showReading, take });
  await draw(own, info.correction ? info : null);
}
/* Draw a correction over the picture, or the model's own contours (null). Of two that are asked for the later one is drawn, and none over an editor. */
async function draw(own, corrected) {
  const asked = {}, last = () => shown === own && own.asked === asked && !own.opening;
  own.asked = asked;
  if (own.correction) own.correction.close();
  own.correction = null;
  byId("overlay").classList.toggle("under-review", Boolean(corrected)); // until it is drawn, nothing that it is not
  byId("review-compare").hidden = !corrected;
  byId("review-back").hidden = !own.info.correction;
  if (own.numbers) own.numbers.close();
  own.numbers = null;
  bars.sayWhose(own.info.correction ? `The numbers beside the picture are ${corrected ? "still " : ""}those of the model's own answer.` : "");
  const made = corrected && await showCorrection(corrected, last);
  if (!last() || !made) return;
  own.correction = made;
  correctionNumbers(own.name, corrected.correction, last).then((numbers) => {
    if (!numbers || !last()) return;
    own.numbers = numbers;
    bars.sayWhose(numbers.show(made.on()));
  }).catch((error) => { if (last()) bars.sayWhose(`The numbers beside the picture are those of the model's own answer: ${error.message}.`); });
}
let counted = 0;
async function progress() {
  const own = ++counted;
  try {
    const now = await ask("/api/progress");
    if (own === counted) bars.showProgress(now);
  } catch { /* the next one tells */ }
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
  if (own !== shown) return undefined;
  if (own.busy) { bars.say(WAIT, true); return undefined; }
  own.busy = true;
  document.body.dataset.reviewBusy = what;
  try {
    const sent = { version: own.info.version, model: own.info.model, comment: commentOf(), ...body };
    const answer = await deliver(own.name, what, sent, { say: sayKept, choose: (...found) => conflict(...found, own.name, session.reviewer) });
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
const free = () => Boolean(shown.info) && !shown.editor && !shown.opening && !shown.leaving;
async function accept() {
  if (!free() || performance.now() - acceptedAt < TWICE_MS) return;
  if (shown.busy) { bars.say(WAIT, true); return; }
  if (!shown.reading && shown.info.correction && !shown.correction) { bars.say("The correction is not drawn yet: press A again when you have seen it.", true); return; }
  acceptedAt = performance.now();
  if (shown.correction && !shown.correction.on()) { compare(); bars.say("The corrected contours are what A accepts: they are shown again. Press A again.", true); return; }
  if (shown.reading) { await take(shown.reading); return; }
  performance.mark("ocuseg-accepted");
  const last = shown.info.history.filter((one) => one.action !== "comment" && one.action !== "eye").at(-1);
  const same = shown.info.verdict === "accepted" && last && last.reviewer === session.reviewer && last.verdict === "accepted" && commentOf() === (shown.info.comment || "");
  if (same) await goTo(shown.info.next, "Accepted before"); else await decide("verdict", { action: "accept", reasons: [], base: shown.info.correction }, "Accepted");
}
function setReasons(chosen) {
  shown.reasons = chosen;
  bars.showReasons(chosen);
}
/* From a correction back to the model's answer, which must be on show: one more verdict in the history, in which the correction stays. */
async function back() {
  if (!free() || !shown.info.correction || shown.reading) return;
  if (!shown.correction || shown.correction.on()) { compare(); bars.say("The model's own contours are shown. Press Z again to accept them in place of the correction.", true); return; }
  await decide("verdict", { action: "accept", reasons: [], take: "model" }, "Back to the model's answer");
}
function chooseReasons() {
  if (!free()) return;
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
  await decide("verdict", { action: "reject", reasons, base: shown.info.correction }, "Rejected");
}
function typed() {
  const changed = commentOf() !== (shown.info?.comment || "");
  byId("review-comment-save").hidden = !changed;
  if (changed) localStorage.setItem(commentKey(), byId("review-comment").value); else localStorage.removeItem(commentKey());
}
async function comment() {
  if (!commentOf()) { bars.say("Write a comment first.", true); return; }
  const own = shown, sent = commentOf(), answer = await send(own, "comment", {});
  if (answer === undefined) return;
  if (answer && own.editor) own.info = { ...own.info, version: answer.version, comment: sent }; // the edit goes on from there
  if (shown !== own || commentOf() === sent) localStorage.removeItem(commentKey(own.name)); // else more was typed meanwhile
  if (shown === own && own.editor) { typed(); bars.say(answer ? "Comment saved." : ""); } else if (shown === own) await reopen(answer && "Comment saved.");
}
async function eye(side) {
  const own = shown, answer = await send(own, "eye", { eye: side, comment: "" });
  if (answer !== undefined && shown === own) await reopen(answer && `Eye set: ${side === "R" ? "OD, right" : "OS, left"}.`);
}
/* The case as the server has it now. */
async function reopen(words) {
  const own = shown;
  try {
    const info = await ask(pathOf(own.name));
    if (shown === own) await update(info);
    if (shown !== own || own.editor || own.opening) return;
    byId("review-comment").value = localStorage.getItem(commentKey()) ?? shown.info.comment ?? "";
    typed();
    setReasons(null);
    bars.say(words || "This is what somebody else has saved.");
    progress();
  } catch (error) { if (shown === own) fault(error); }
}
function compare() {
  if (!shown.correction) return;
  const on = shown.correction.toggle();
  byId("review-compare").setAttribute("aria-pressed", String(!on));
  if (shown.numbers) bars.sayWhose(shown.numbers.show(on));
  bars.say(on ? "The corrected contours are shown." : "The model's own contours are shown.");
}
async function showReading(reading) {
  const own = shown;
  if (own.busy || !free()) return;
  own.busy = true; // no verdict while what it would be about is on its way
  own.reading = null;
  try {
    await draw(own, reading.correction ? { ...own.info, planes: reading.planes, surfaces: [], objects: [], instances: null, correction: reading.correction } : null);
  } catch (error) {
    fault(error);
    return;
  } finally { own.busy = false; }
  if (shown !== own) return;
  own.reading = reading; // what is accepted is what is shown
  markShown(reading.role);
  bars.say(`The picture shows what ${reading.reviewer} ${reading.correction ? "drew" : "accepted: the model's answer"}.`);
}
const take = ({ role, reviewer, verdict, reasons, correction }) => (verdict === "rejected"
  ? decide("verdict", { action: "reject", reasons }, `Rejected, as ${reviewer} did`)
  : decide("verdict", { action: "accept", reasons: [], take: role, base: correction }, `Taken from ${reviewer}`));
const skip = () => (free() ? goTo(shown.info.next, "Skipped") : null);
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
  if (shown.leaving) return;
  if (!name) {
    bars.say(`${words}. That was the last case to review.`);
    byId("review-verdict").focus?.();
    await reopen(`${words}. Every case of this list is reviewed: W leads back to the worklist.`);
    return;
  }
  const own = shown;
  own.leaving = true;
  lookAhead(name);
  const prepared = await ahead.ready;
  if (own.correction) own.correction.close();
  if (own.numbers) own.numbers.close();
  closeEditor(own);
  if (!prepared || !replace(prepared)) { location.assign(pageOf(name) + location.hash); return; }
  ahead = null;
  const begun = start(name, prepared.info);
  bars.say(`${words}.`);
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("ocuseg-drawn", { detail: name })));
  await begun;
}

const edits = new Edits({
  shown: () => shown, free, send, goTo, update, reopen, progress, draw, fault, setReasons,
  forgetComment: (name) => localStorage.removeItem(commentKey(name)),
});

/* ---- keys: those of the review come before the viewer's ---- */
const LETTERS = { a: accept, r: chooseReasons, e: () => edits.editOrGoOn(), k: () => byId("review-comment").focus(), j: skip, x: compare, z: back };
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
    const answer = await deliver(one.name, one.what, one.body, { say: sayKept, choose: (...found) => conflict(...found, one.name, session.reviewer) }).catch((error) => { fault(error); return undefined; });
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
