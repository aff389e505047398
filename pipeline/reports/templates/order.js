"use strict";
/*
 * The worklist's order and filters, which stand in the address: what follows "#" is read and written here and nowhere else, so that
 * "next" on a case page leads where the worklist would. Keys (each left out where it is as at first):
 *   order     needs (first), case, eye, modality, size, quality, status, found, found0 .. foundK (a class), doubt, asymmetry, warnings
 *   dir       asc or desc
 *   q         what is searched for
 *   eye       OD,OS,?      quality   good,poor,...      (any of them)
 *   only      eyes: cases that need eyes
 *   pictures  no: without small pictures
 *   at        the case that is chosen
 * Other keys are left as they are. rows.js calls ocusegRows with the cases of the worklist, in their first order.
 */
window.ocusegOrder = (() => {
  const KEYS = ["order", "dir", "q", "eye", "quality", "only", "pictures", "at"];
  const NUMERIC = new Set(["size", "doubt", "asymmetry", "warnings"]); // these begin with the largest
  const LARGE_FIRST = (order) => NUMERIC.has(order) || order.startsWith("found");
  const GRADES = ["not measurable", "poor", "usable", "good", "not graded"];

  function read(hash) {
    const given = new URLSearchParams(hash.includes("=") ? hash.slice(1) : "");
    const set = (key) => new Set((given.get(key) || "").split(",").filter(Boolean));
    const order = given.get("order") || "needs";
    return {
      order, descending: given.has("dir") ? given.get("dir") === "desc" : LARGE_FIRST(order), q: given.get("q") || "",
      eye: set("eye"), quality: set("quality"), only: given.get("only") === "eyes", pictures: given.get("pictures") !== "no", at: given.get("at") || "",
    };
  }
  function write(state, hash) {
    const out = new URLSearchParams(hash.includes("=") ? hash.slice(1) : "");
    const values = {
      order: state.order === "needs" ? "" : state.order, q: state.q.trim(), eye: [...state.eye].join(","), quality: [...state.quality].join(","),
      dir: state.descending === LARGE_FIRST(state.order) ? "" : state.descending ? "desc" : "asc",
      only: state.only ? "eyes" : "", pictures: state.pictures ? "" : "no", at: state.at,
    };
    for (const key of KEYS) { if (values[key]) out.set(key, values[key]); else out.delete(key); }
    return String(out) ? "#" + out : "";
  }

  /* What rows.js hands over, as objects; fields that end in "Text" are places in the list of texts. */
  function unpack({ classes, fields, texts, rows }) {
    const names = fields.map((field) => [field.replace(/Text$/, ""), field.endsWith("Text")]);
    return rows.map((values, place) => {
      const row = { place };
      names.forEach(([name, isText], k) => {
        row[name] = !isText ? values[k] : Array.isArray(values[k]) ? values[k].map((at) => texts[at]) : texts[values[k]];
      });
      row.found = row.found.map(([at, text, amount, withheld]) => ({ at, name: classes[at], text: texts[text], amount, withheld: texts[withheld] }));
      row.needsEyes = row.level === "look";
      return row;
    });
  }

  /* ---- searching: field:value is the whole of a value; other words begin a word of the case, the patient, a finding or an answer ---- */
  const lower = (list) => list.map((text) => text.toLowerCase());
  const WHOLE = {
    eye: (row) => [row.eye], quality: (row) => [row.quality], status: (row) => [row.status], modality: (row) => [row.modality],
    flag: (row) => row.flags, finding: (row) => row.found.filter((one) => one.text).map((one) => one.name),
    missing: (row) => row.found.filter((one) => !one.text).map((one) => one.name),
    case: (row) => [row.name], patient: (row) => [row.patient], visit: (row) => [row.visit], image: (row) => [row.image],
  };
  const WITHIN = { reason: (row) => row.reasons, warning: (row) => row.warnings, answer: (row) => row.answers };
  const FIELDS = [...Object.keys(WHOLE), ...Object.keys(WITHIN)];

  function terms(query) {
    return [...query.toLowerCase().matchAll(/(?:(\w+):)?(?:"([^"]*)"?|(\S+))/g)].map(([all, field, quoted, word]) => {
      const value = (quoted === undefined ? word : quoted).trim();
      return field && !FIELDS.includes(field) ? { field: "", value: all } : { field: field || "", value };
    }).filter((term) => term.value);
  }
  function fits(row, term) {
    const { field, value } = term;
    if (field in WHOLE) return lower(WHOLE[field](row)).includes(value);
    if (field in WITHIN) return lower(WITHIN[field](row)).some((text) => text.includes(value));
    if (value === "od" || value === "os") return row.eye.toLowerCase() === value;
    if (row.words === undefined) {
      const found = row.found.filter((one) => one.text).map((one) => one.name);
      row.words = lower([row.name, row.name.replaceAll("_", " "), ...found, ...row.answers]).map((text) => " " + text).join("");
    }
    return row.words.includes(" " + value);
  }

  const VALUES = {
    case: (row) => row.chart, eye: (row) => row.eye,
    modality: (row) => row.modality, size: (row) => row.pixels, quality: (row) => GRADES.indexOf(row.quality), status: (row) => row.status,
    found: (row) => row.found.reduce((sum, one) => sum + Math.max(one.amount, 0), 0), doubt: (row) => row.doubt ?? -1,
    asymmetry: (row) => row.asymmetry ?? -1, warnings: (row) => row.warnings.length,
  };
  const words = new Intl.Collator("en", { numeric: true });

  function sorted(rows, { order, descending }) {
    const of = order.startsWith("found") && order !== "found"
      ? (row) => { const one = row.found.find((each) => each.at === Number(order.slice(5))); return one ? one.amount : -1; } : VALUES[order];
    const sign = descending ? -1 : 1;
    if (!of) return descending ? [...rows].reverse() : rows;
    const keyed = rows.map((row) => [of(row), row]);
    keyed.sort(([a, one], [b, other]) => sign * (typeof a === "number" ? a - b : words.compare(a, b)) || one.place - other.place);
    return keyed.map(([, row]) => row);
  }
  function searched(rows, state) {
    const asked = terms(state.q);
    return asked.length ? rows.filter((row) => asked.every((term) => fits(row, term))) : rows;
  }
  /* Rows that the chips let through; ``spared``: a group of chips that is not asked, for the counts of its own chips. */
  const chosen = (rows, state, spared = "") => rows.filter((row) => (spared === "eye" || !state.eye.size || state.eye.has(row.eye))
    && (spared === "quality" || !state.quality.size || state.quality.has(row.quality)) && (spared === "only" || !state.only || row.needsEyes));

  /* ---- on a case page: previous, next and the way back follow the address; called again where another case takes the page's place ---- */
  const ROOT = "../", LINKS = { previous: -1, next: 1 };
  let name = "", ordered = null;
  function link() {
    const state = read(location.hash), rows = sorted(chosen(searched(ordered, state), state), state);
    const at = rows.findIndex((row) => row.name === name);
    for (const [id, step] of Object.entries(LINKS)) {
      const own = document.getElementById(id), other = rows[at + step];
      if (!own || at < 0) continue;
      own.classList.toggle("off", !other);
      const given = other ? { href: other.name + ".html" } : { role: "link", "aria-disabled": "true" };
      for (const name of ["href", "role", "aria-disabled"]) { if (name in given) own.setAttribute(name, given[name]); else own.removeAttribute(name); }
    }
    document.querySelectorAll("[data-order-place]").forEach((part) => { part.textContent = at < 0 ? "" : `${at + 1} of ${rows.length}`; });
  }
  function carry() { // the address goes along
    const state = read(location.hash);
    const back = document.getElementById("worklist-link");
    if (back) back.setAttribute("href", ROOT + "index.html" + write({ ...state, at: name }, location.hash));
    const on = write({ ...state, at: "" }, location.hash);
    for (const id of Object.keys(LINKS)) {
      const own = document.getElementById(id);
      if (own && own.hasAttribute("href")) own.setAttribute("href", own.getAttribute("href").split("#")[0] + on);
    }
  }
  function update() {
    if (ordered) link();
    carry();
  }
  function follow(shown) {
    const first = !name;
    name = shown;
    update();
    if (!first) return;
    window.ocusegRows = (packed) => { ordered = unpack(packed); update(); };
    window.addEventListener("hashchange", update);
    document.addEventListener("click", carry, true);
    const script = document.createElement("script");
    script.src = ROOT + "rows.js";
    document.head.append(script);
  }

  const { case: shown } = document.currentScript.dataset;
  if (shown) follow(shown);
  return { read, write, unpack, searched, chosen, sorted, follow, largeFirst: LARGE_FIRST, grades: GRADES };
})();
