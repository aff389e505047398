"use strict";
/* Sorting and searching the worklist; without this script the table is whole, grouped by patient. */
(() => {
  const table = document.getElementById("cases");
  const counted = (name) => numeric.has(name) || name.startsWith("objects");
  const groups = [...table.tBodies];
  const rows = [...table.querySelectorAll("tr.case")];
  const home = new Map(rows.map((row) => [row, row.parentNode]));
  const files = [...document.querySelectorAll("tr.file")];
  const numeric = new Set(["size", "found", "warnings", "seconds"]);
  const flat = document.createElement("tbody");
  const words = new Map([...rows, ...files].map((row) => [row, null]));
  const wordsOf = (row) => {
    if (words.get(row) === null) {
      const titles = [...row.querySelectorAll("[title]")].map((part) => part.title).join(" ");
      words.set(row, (row.textContent + " " + titles).toLowerCase());
    }
    return words.get(row);
  };

  function sortBy(heading, name) {
    const ascending = heading.getAttribute("aria-sort") === "ascending" ? false
      : heading.getAttribute("aria-sort") === "descending" ? true : !counted(name);
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const sign = ascending ? 1 : -1;
    if (name === "case") {
      flat.remove();
      table.classList.remove("flat");
      const ordered = ascending ? groups : [...groups].reverse();
      rows.forEach((row) => home.get(row).append(row));
      table.append(...ordered);
    } else {
      const value = (row) => counted(name) ? Number(row.dataset[name]) : row.dataset[name];
      const ordered = rows.map((row, place) => [value(row), place, row]).sort((a, b) => {
        const order = counted(name) ? a[0] - b[0] : a[0].localeCompare(b[0], "en", { numeric: true });
        return sign * order || a[1] - b[1];
      });
      table.classList.add("flat");
      flat.replaceChildren(...ordered.map((entry) => entry[2]));
      table.append(flat);
    }
    filter();
  }
  table.querySelectorAll("[data-sort]").forEach((button) => {
    button.addEventListener("click", () => sortBy(button.closest("th"), button.dataset.sort));
  });

  const search = document.getElementById("search");
  const matches = document.getElementById("matches");
  function filter() {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => wanted.every((word) => wordsOf(row).includes(word));
    let shown = 0;
    for (const row of rows) { row.hidden = !fits(row); shown += row.hidden ? 0 : 1; }
    for (const row of files) row.hidden = !fits(row);
    for (const group of groups) group.hidden = wanted.length > 0 && ![...group.querySelectorAll("tr.case")].some((row) => !row.hidden);
    matches.textContent = wanted.length ? `${shown} of ${rows.length} cases, ${files.filter((row) => !row.hidden).length} of ${files.length} other files` : "";
  }
  search.addEventListener("input", filter);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search) { event.preventDefault(); search.focus(); }
    if (event.key === "Escape" && document.activeElement === search) { search.value = ""; filter(); }
  });
  // A tile's link opens the folded list it leads to.
  const unfold = () => { const target = document.getElementById(location.hash.slice(1)); if (target && target.tagName === "DETAILS") target.open = true; };
  window.addEventListener("hashchange", unfold);
  unfold();
  // On paper nothing can be unfolded.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));
  if (search.value) filter();
})();
