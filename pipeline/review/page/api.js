/* What is asked of the server, and verdicts that reach it whatever happens: each is kept in the browser until the server has confirmed it. */
import { store } from "./store.js";

export class Refused extends Error {
  constructor(status, body) {
    super(body.message || `the server refused (${status})`);
    Object.assign(this, { status, body });
  }
}
export class Away extends Error {}

let session = null;
export async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json", "X-CSRF-Token": session.csrf }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Away("the server does not answer");
  }
  const found = await answer.json().catch(() => ({}));
  if (answer.status >= 500) throw new Away(found.message || `the server has a problem (${answer.status})`);
  if (!answer.ok) throw new Refused(answer.status, found);
  return found;
}
export async function begin() {
  session = await ask("/api/session");
  return session;
}
export const pathOf = (name) => `/api/cases/${encodeURIComponent(name)}`;
export const who = () => [session.folder || "", session.reviewer || ""];

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

/* Whether what was sent is there already: the server took it, and its answer was lost on the way. */
function taken(found, sent) {
  const last = (found.history || []).at(-1);
  const action = { verdict: sent.body.action, eye: "eye", comment: "comment" }[sent.what]; // of an edit the server itself knows
  return found.version === sent.body.version + 1 && Boolean(last) && last.reviewer === session.reviewer && [action, "adjudicate"].includes(last.action)
    && (last.comment || "") === (sent.body.comment || "") && String(last.reasons || []) === String(sent.body.reasons || []);
}

/* Send ``body`` to the case's ``what``; resolves to the answer, or to null where the person took what somebody else had saved.
   ``say(text)`` tells how it stands, ``choose(conflict, found, body)``, of the case as it is ``found`` now (or null), resolves to "theirs", "mine" or
   "both": what was changed here on top of theirs. While the server is away it is tried again. */
export async function deliver(name, what, body, { say, choose }) {
  const kept = store("kept", who()), reviewer = session.reviewer;
  const sent = { name, what, body, at: new Date().toISOString() };
  let renewed = false, tries = 0;
  const keeping = kept.put(name, sent).catch(() => null); // while it is on its way already: the next case should not wait for the browser's disk
  for (;;) {
    try {
      const answer = await ask(`${pathOf(name)}/${what}`, sent.body);
      keeping.then(() => kept.drop(name)).catch(() => null);
      return answer;
    } catch (error) {
      await keeping;
      if (error instanceof Away) {
        say(`Not saved yet: ${error.message}. It is kept in this browser and sent again by itself.`);
        await wait(Math.min(250 * 2 ** tries, 2000));
        tries += 1;
      } else if (error.status === 401 || (error.status === 403 && !renewed)) {
        renewed = error.status === 403;
        if (!renewed) {
          say("Not saved yet: your session has ended. Log in again in another tab; it is kept in this browser and sent by itself.");
          await wait(2000);
        }
        await begin().catch(() => null);
        if (session.reviewer !== reviewer) throw new Error(`Not saved: ${session.reviewer} is logged in now. It is kept until ${reviewer} logs in.`);
      } else if (error.status === 409) {
        const found = await ask(pathOf(name)).catch(() => null);
        if (found && taken(found, sent)) {
          await kept.drop(name);
          return { version: found.version, verdict: found.verdict, next: found.next };
        }
        const choice = await choose(error.body, found, sent.body);
        if (choice === "theirs") { await kept.drop(name); return null; }
        sent.body = { ...sent.body, version: error.body.version, ...(choice === "both" ? { base: found.correction } : {}) };
        await kept.put(name, sent);
      } else {
        if (error.status !== 403) await kept.drop(name); // it can never be taken
        throw error;
      }
    }
  }
}

/* Verdicts of this reviewer that an earlier page could not deliver. */
export const undelivered = () => store("kept", who()).all();
