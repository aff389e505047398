/* Two readers' verdicts on one case, side by side: each can be looked at, and an adjudicator takes one of them. */
import { byId, clock, make } from "./dom.js";

const ROLES = { reader: "First reader", second: "Second reader", adjudicator: "Adjudicator" };
const WORDS = { accepted: "accepted", rejected: "rejected", edited: "corrected" };

/* ``show(reading)`` puts a reading's mask on the picture, ``take(reading)`` makes it the verdict of the adjudicator. */
export function showReadings(info, session, { show, take }) {
  const place = byId("review-readings"), readings = info.readings || [];
  place.hidden = !readings.length;
  if (!readings.length) return;
  const judges = session.role === "adjudicator";
  const one = (reading) => make("span", { class: "review-reading" },
    make("strong", { text: ROLES[reading.role] || reading.role }), ` ${reading.reviewer}: ${WORDS[reading.verdict] || reading.verdict}`,
    make("span", { class: "review-when", text: ` ${clock(reading.at)}${reading.comment ? `, “${reading.comment}”` : ""}` }),
    reading.verdict === "rejected" ? null : make("button", { type: "button", "data-show": reading.role, "aria-pressed": "false", text: "Show", on: { click: () => show(reading) } }),
    judges && reading.role !== "adjudicator" ? make("button", { type: "button", class: "review-main", "data-take": reading.role, text: "Take this, next", on: { click: () => take(reading) } }) : null);
  place.replaceChildren(make("span", { text: info.disagreement ? "▲ The readers disagree:" : "Read by:" }), ...readings.map(one));
}
export function markShown(role) {
  document.querySelectorAll("#review-readings [data-show]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.show === role)));
}
