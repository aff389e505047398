/* The worklist while reviewing: how far it is, and each row's verdict. */
import { ask } from "./api.js";
import { make } from "./dom.js";

const WORDS = { accepted: "✓ accepted", rejected: "✕ rejected", edited: "✎ corrected" };

/* What a correction holds of each class, in place of what the model found; rows stay in the order of what the model found. */
function showFindings(row, findings) {
  const swatches = [...document.querySelectorAll("#class-styles [data-class]")], columns = row.querySelectorAll(".objects-column"), cell = row.querySelector("td.found");
  findings.forEach(({ place, text }) => {
    if (!columns[place]) return;
    columns[place].textContent = text || "0";
    columns[place].classList.toggle("muted", !text);
  });
  if (!cell) return;
  cell.querySelectorAll(".chip:has(svg), .none").forEach((one) => one.remove());
  const missing = findings.filter((one) => !one.text).map((one) => one.name);
  cell.append(...findings.filter((one) => one.text).map((one) => make("span", { class: "chip", title: one.withheld || null }, swatches[one.place].cloneNode(true), one.name, " ", make("b", { text: one.text }))),
    ...(missing.length ? [make("span", { class: "muted none", text: `not found: ${missing.join(", ")}` })] : []));
}

export async function markWorklist() {
  const [{ cases, unreviewed, verdicts }, numbers] = await Promise.all([ask("/api/progress"), ask("/api/numbers")]);
  const heading = document.querySelector("header.bar");
  if (heading) heading.append(make("p", { class: "review-progress", id: "review-progress", text: `${cases - unreviewed} of ${cases} reviewed` }));
  const rows = document.getElementById("rows");
  if (!rows || !verdicts) return;
  const mark = () => rows.querySelectorAll("tr.case:not([data-verdict])").forEach((row) => {
    const verdict = verdicts[row.dataset.name] || "unreviewed";
    row.dataset.verdict = verdict;
    const status = row.querySelector(".status");
    if (WORDS[verdict] && status) status.after(make("span", { class: "review-mark", text: WORDS[verdict] }));
    if (verdict !== "edited") return;
    if (numbers[row.dataset.name]) showFindings(row, numbers[row.dataset.name]);
    row.querySelector(".review-mark").append(make("small", { text: numbers[row.dataset.name] ? ", numbers are the correction's" : ", numbers are the model's" }));
  });
  new MutationObserver(mark).observe(rows, { childList: true });
  mark();
}
