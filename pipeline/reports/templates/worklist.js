"use strict";
/* The worklist: its rows come from rows.js. A long list has pages, and of a page rows are drawn by hundreds, as far as one looks; order, filters,
 * search and page stand in the address, and the first three are of all rows, whichever page is on show. */
(() => {
  document.documentElement.classList.add("js");
  const order = window.ocusegOrder;
  const FIRST = 30, HUNDRED = 100; // rows: a screen or two at once, the others when one comes near them
  const byId = (id) => document.getElementById(id);
  const table = byId("cases"), body = byId("rows"), search = byId("search"), end = byId("end");
  const files = [...document.querySelectorAll("tr.file")];
  const classes = [...document.querySelectorAll("#class-styles [data-class]")]; // swatches, to be copied
  const columns = table.dataset.columns === "classes", PAGE = Number(table.dataset.page);
  let state = order.read(location.hash);
  let rows = [], list = [], first = 0, shown = []; // what is there, what fits, and of that the page: where it begins, and its rows
  let drawn = 0, kept = 0, present = new Set(); // rows of the page, rows whose elements are kept; values of eye and quality that any row has

  /* ---- drawing ---- */
  function make(tag, className, ...children) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }
  const sign = () => { const made = make("span", "", "▲"); made.setAttribute("aria-hidden", "true"); return made; };
  const items = (texts, name) => make("ul", name, ...texts.map((text) => make("li", "", text)));
  function chip(one) {
    const made = make("span", "chip", classes[one.at].cloneNode(true), one.name, " ", make("b", "", one.text));
    if (one.withheld) made.title = one.withheld;
    return made;
  }

  function caseCell(row, address) {
    const link = make("a", "open", make("span", "patient-name", row.patient), make("span", "visit", row.visit), make("span", "image", row.image));
    link.href = address;
    const patient = make("a", "of-patient", "patient");
    patient.href = `patients/${row.patient}.html`;
    return make("th", "", link, patient);
  }
  function foundCell(row) {
    const cell = make("td", "found");
    cell.dataset.label = "Found";
    cell.append(...row.answers.map((text) => make("span", "chip", text)), ...row.found.filter((one) => one.text).map(chip));
    const missing = row.found.filter((one) => !one.text).map((one) => one.name);
    if (missing.length) cell.append(make("span", "muted none", "not found: " + missing.join(", ")));
    return cell;
  }
  function classCells(row) {
    return classes.map((_, at) => {
      const one = row.found.find((each) => each.at === at) || { text: "", name: "" };
      const cell = make("td", "number objects-column", one.text || "0");
      cell.classList.toggle("muted", !one.text);
      cell.dataset.label = one.name;
      if (one.withheld) cell.title = one.withheld;
      return cell;
    });
  }
  function warningsCell(row) {
    if (!row.warnings.length) return make("td", "muted", "none");
    return make("td", "", make("details", "row-warnings", make("summary", "", sign(), ` ${row.warnings.length}`), items(row.warnings, "")));
  }
  function rowOf(row) {
    const address = `cases/${row.name}.html`;
    const image = make("img", "");
    Object.assign(image, { loading: "lazy", width: 120, height: 80, alt: row.alt, src: `thumbs/${row.name}.jpg` });
    const picture = make("a", "", image);
    Object.assign(picture, { href: address, tabIndex: -1 });
    const eye = make("span", "eye eye-" + (row.eye === "?" ? "unknown" : row.eye), row.eye);
    eye.title = row.eyeTitle;
    const status = make("span", "status " + row.level, row.level === "look" ? sign() : row.level === "done" ? "✓ " : "", row.level === "look" ? " " : "", row.status);
    if (row.level === "unchecked") status.append(", not checked");
    const doubt = make("td", "number", row.doubt === null ? "–" : row.doubt.toFixed(2));
    const asymmetry = make("td", "small asymmetry", row.asymmetryTitle || "–");
    doubt.dataset.label = "Doubt"; asymmetry.dataset.label = "Fellow eye";
    const made = make("tr", "case" + (row.needsEyes ? " look" : ""),
      make("td", "thumb-column", picture), caseCell(row, address), make("td", "", eye),
      make("td", "scan", row.modality, make("span", "muted small", row.size)), make("td", "quality", row.quality),
      make("td", "", status, ...(row.reasons.length ? [items(row.reasons, "reasons")] : [])),
      ...(columns ? classCells(row) : [foundCell(row)]), doubt, asymmetry, warningsCell(row));
    made.children[1].scope = "row";
    made.dataset.name = row.name;
    return made;
  }
  function more() {
    const next = shown.slice(drawn, drawn + (drawn ? HUNDRED : FIRST));
    body.append(...next.map((row, k) => {
      if (!row.node) { row.node = rowOf(row); kept += 1; }
      row.node.setAttribute("aria-rowindex", first + drawn + k + 2);
      return row.node;
    }));
    drawn += next.length;
    tell();
  }
  function tell() {
    end.hidden = drawn >= shown.length;
    end.firstElementChild.textContent = `Show more (${shown.length - drawn} not drawn yet)`;
    for (const pager of pagers) {
      pager.hidden = list.length <= PAGE;
      pager.querySelector("output").textContent = `${count(first + 1)} to ${count(first + shown.length)} of ${count(list.length)}`;
      for (const button of pager.querySelectorAll("button")) {
        const to = state.page + Number(button.dataset.step);
        button.disabled = to < 1 || to > pages();
      }
    }
  }
  const pages = () => Math.max(1, Math.ceil(list.length / PAGE));
  const count = (number) => number.toLocaleString("en").replaceAll(",", "\u202f"); // as the page itself has them
  /* Put a page on show; the rows that are there already stay. */
  function turn(page) {
    const before = shown.slice(0, drawn);
    state.page = Math.min(Math.max(page, 1), pages());
    first = (state.page - 1) * PAGE;
    shown = list.slice(first, first + PAGE);
    if (!drawn || before.some((row, k) => row !== shown[k])) {
      drawn = 0;
      body.replaceChildren();
      if (kept > 2 * PAGE) { rows.forEach((row) => { row.node = null; }); kept = 0; }
    }
    if (drawn < FIRST) more(); else tell();
  }
  const pagers = [...document.querySelectorAll(".pager")];
  for (const pager of pagers) {
    pager.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      turn(state.page + Number(button.dataset.step));
      state.at = "";
      save();
      table.scrollIntoView();
    });
  }
  new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) more(); }, { rootMargin: "1200px" }).observe(end);
  end.firstElementChild.addEventListener("click", more);

  /* ---- what the address says ---- */
  function save() {
    const hash = order.write(state, location.hash);
    if (hash !== location.hash && !(hash === "" && !location.hash.includes("="))) history.replaceState(null, "", location.pathname + location.search + hash);
  }
  // Links carry the address as it is when they are followed.
  body.addEventListener("pointerdown", carry, true);
  body.addEventListener("focusin", carry);
  body.addEventListener("click", carry, true);
  function carry(event) {
    const link = event.target.closest("a");
    if (link) link.setAttribute("href", link.getAttribute("href").split("#")[0] + order.write({ ...state, at: "", page: 1 }, location.hash));
  }

  function update(page = 1) {
    const found = order.searched(rows, state);
    list = order.sorted(order.chosen(found, state), state);
    turn(page);
    const asked = state.q.trim();
    const fit = files.filter((row) => { row.hidden = !fitsFile(row, asked); return !row.hidden; });
    const narrowed = asked || state.eye.size || state.quality.size || state.only;
    byId("matches").textContent = narrowed
      ? `${count(list.length)} of ${count(rows.length)} cases` + (asked && files.length ? `, ${fit.length} of ${files.length} other files` : "") : "";
    byId("none").hidden = list.length > 0 || !rows.length;
    table.setAttribute("aria-rowcount", list.length + 1);
    table.classList.toggle("no-pictures", !state.pictures);
    byId("pictures").setAttribute("aria-pressed", state.pictures);
    byId("order").value = state.order;
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    const button = table.querySelector(`[data-sort="${CSS.escape(state.order)}"]`);
    if (button) button.closest("th").setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    drawChips(found);
    save();
  }
  function fitsFile(row, asked) {
    if (!asked) return true;
    row.words = row.words || (" " + row.textContent).toLowerCase();
    return !asked.includes(":") && asked.toLowerCase().split(/\s+/).every((word) => row.words.includes(word));
  }

  /* ---- chips: a value with the number of cases that it would leave ---- */
  function drawChips(found) {
    for (const [group, values] of [["eye", ["OD", "OS", "?"]], ["quality", order.grades]]) {
      const counts = new Map(values.map((value) => [value, 0]));
      for (const row of order.chosen(found, state, group)) counts.set(row[group], (counts.get(row[group]) || 0) + 1);
      for (const button of byId("chips").querySelectorAll(`[data-group="${group}"]`)) {
        const on = state[group].has(button.dataset.value), left = counts.get(button.dataset.value);
        button.setAttribute("aria-pressed", on);
        button.querySelector("b").textContent = count(left);
        button.hidden = !on && !present.has(button.dataset.value);
      }
    }
    const only = byId("only");
    only.setAttribute("aria-pressed", state.only);
    only.querySelector("b").textContent = count(order.chosen(found, state, "only").filter((row) => row.needsEyes).length);
  }
  byId("chips").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { group, value } = button.dataset;
    if (group) { if (!state[group].delete(value)) state[group].add(value); } else if (button.id === "only") state.only = !state.only;
    else if (button.id === "pictures") state.pictures = !state.pictures;
    else return;
    update();
  });

  /* ---- order and search ---- */
  function orderBy(name) {
    state.descending = name === state.order ? !state.descending : order.largeFirst(name);
    state.order = name;
    update();
  }
  table.querySelectorAll("[data-sort]").forEach((button) => { button.disabled = false; button.addEventListener("click", () => orderBy(button.dataset.sort)); });
  byId("order").addEventListener("change", (event) => { state.order = ""; orderBy(event.target.value); });
  search.addEventListener("input", () => { state.q = search.value; update(); });

  /* ---- keys ---- */
  const chosen = () => { const row = document.activeElement.closest("tr.case"); return first + (row ? [...body.children].indexOf(row) : -1); };
  function choose(wanted) { // a place in the whole list
    const place = Math.min(Math.max(wanted, 0), list.length - 1);
    if (list.length && (place < first || place >= first + shown.length)) turn(Math.floor(place / PAGE) + 1);
    while (place >= first + drawn && drawn < shown.length) more();
    const row = body.children[place - first];
    if (!row) return;
    row.querySelector(".open").focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
    state.at = row.dataset.name;
    save();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.activeElement === search) {
      if (event.key === "Escape") { search.value = state.q = ""; update(); }
      if (event.key === "Enter") choose(0);
      return;
    }
    const act = { "/": () => search.focus(), j: () => choose(chosen() + 1), k: () => choose(chosen() - 1) }[event.key.toLowerCase()];
    if (!act || document.activeElement.tagName === "SELECT") return;
    event.preventDefault();
    act();
  });

  /* ---- lists of files: a tile's link opens the folded one that it leads to ---- */
  function unfold(id) {
    const target = byId(id);
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  }
  document.querySelectorAll(".tiles a").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault(); // the address keeps the order
    unfold(link.hash.slice(1));
  }));
  // On paper nothing can be unfolded, and all rows stand.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    while (drawn < shown.length) more();
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => folded.forEach((part) => { part.open = false; }));

  function restore() {
    state = order.read(location.hash);
    search.value = state.q;
    update(state.page);
    if (!location.hash.includes("=")) unfold(location.hash.slice(1));
    const place = list.findIndex((row) => row.name === state.at);
    if (place >= 0) choose(place);
  }
  window.addEventListener("hashchange", restore);
  window.ocusegRows = (packed) => {
    rows = order.unpack(packed);
    present = new Set();
    for (const row of rows) present.add(row.eye).add(row.quality);
    document.documentElement.classList.add("drawn");
    restore();
    setTimeout(() => order.searched(rows, { q: "a" }), 300); // what a search looks in is made before the first key is pressed
  };
})();
