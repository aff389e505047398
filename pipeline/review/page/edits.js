/* The way into an edit of the case on show and out of it: opened, kept in the browser until it is saved, offered again. */
import { who } from "./api.js";
import { say } from "./bar.js";
import { clock, question } from "./dom.js";
import { openEditor } from "./editor.js";
import { store } from "./store.js";

export function closeEditor(own) {
  if (own.editor) own.editor.close();
  own.editor = null;
}

export class Edits {
  /* ``page``: what review.js does with the case on show. */
  constructor(page) { this.page = page; }
  async edit(draft) {
    const { page } = this, own = page.shown();
    if (!page.free() || own.busy) return;
    if (!own.info.classes.length) { say("Nothing is drawn on this case that could be edited; R rejects it.", true); return; }
    page.setReasons(null);
    page.draw(own, null);
    own.opening = true;
    try {
      own.editor = await openEditor(own.info, { draft, say, ...this.means(own) });
    } catch (error) { page.fault(error); } finally { own.opening = false; }
    if (!own.editor) await page.update(own.info);
  }
  /* What an editor does with an edit of ``own``: keep it while it is unfinished, save it, leave it. */
  means(own) {
    const { page } = this, drafts = store("drafts", who()), gone = () => page.shown() !== own;
    return {
      keep: (unfinished) => drafts.put(own.name, { ...unfinished, name: own.name, version: own.info.version, model: own.info.model, at: new Date().toISOString() }),
      save: async (body) => {
        const name = own.name, answer = await page.send(own, "edit", body);
        if (answer === undefined) return;
        await drafts.drop(name);
        page.forgetComment(name);
        closeEditor(own);
        if (gone()) { page.progress(); return; }
        if (answer === null) { await page.reopen(); return; }
        await page.goTo(answer.next, `Corrected: ${name}`);
      },
      leave: async (changed) => {
        const answer = changed ? await question("Leave the edit?", "What you have changed is not saved yet.", [["save", "Save and next"], ["keep", "Leave, keep it for later"], ["drop", "Drop the changes"]], "stay") : "drop";
        if (answer === "stay") return;
        if (answer === "save") { own.editor.save(); return; }
        if (answer === "drop") await drafts.drop(own.name);
        if (gone()) return;
        closeEditor(own);
        await page.update(own.info);
        say(answer === "keep" ? "The unfinished edit is kept in this browser; E goes on with it." : "");
      },
    };
  }
  /* Returns whether the edit that was left unfinished goes on. ``asked``: the person wants to edit. */
  async offerDraft(own, asked = false) {
    const { page } = this, drafts = store("drafts", who()), draft = await drafts.get(own.name).catch(() => null);
    if (!draft || page.shown() !== own || !page.free()) return false;
    const again = Boolean(draft.model) && draft.model !== own.info.model;
    const moved = again ? ["The case was predicted again since: look at everything before you save."] : draft.version !== own.info.version ? ["The case has been reviewed since; when you save, you are asked what holds."] : [];
    const answer = asked && !again ? "go" : await question("An unfinished edit of this case", [`You left an edit unfinished at ${clock(draft.at)}. It is kept in this browser.`, ...moved], [["go", "Go on with it"], ["later", "Not now"], ["drop", "Drop it"]], "later");
    if (answer === "drop") { await drafts.drop(own.name); say("The unfinished edit is dropped."); }
    if (page.shown() !== own) return false;
    if (answer === "go") { own.info = { ...own.info, version: draft.version }; await this.edit(draft); }
    return answer === "go";
  }
  async editOrGoOn() {
    if (!await this.offerDraft(this.page.shown(), true)) await this.edit();
  }
}
