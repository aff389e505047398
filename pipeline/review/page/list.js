/* The worklist while reviewing: how far it is, and each row's verdict. */
import { ask } from "./api.js";
import { make } from "./dom.js";

const WORDS = { accepted: "✓ accepted", rejected: "✕ rejected", edited: "✎ corrected" };

export async function markWorklist() {
  const { cases, unreviewed, verdicts } = await ask("/api/progress");
  const heading = document.querySelector("header.bar");
  if (heading) heading.append(make("p", { class: "review-progress", id: "review-progress", text: `${cases - unreviewed} of ${cases} reviewed` }));
  const rows = document.getElementById("rows");
  if (!rows || !verdicts) return;
  const mark = () => rows.querySelectorAll("tr.case:not([data-verdict])").forEach((row) => {
    const verdict = verdicts[row.dataset.name] || "unreviewed";
    row.dataset.verdict = verdict;
    const status = row.querySelector(".status");
    if (WORDS[verdict] && status) status.after(make("span", { class: "review-mark", text: WORDS[verdict] }));
  });
  new MutationObserver(mark).observe(rows, { childList: true });
  mark();
}
