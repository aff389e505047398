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
 *   page      of a long list, from 1
 *   at        the case that is chosen
 * Other keys are left as they are. rows.js calls ocusegRows with the cases of the worklist, in their first order.
 */
window.ocusegOrder = (() => {
  const KEYS = ["order", "dir", "q", "eye", "quality", "only", "pictures", "page", "at"];
  const NUMERIC = new Set(["size", "doubt", "asymmetry", "warnings"]); // these begin with the largest
  const LARGE_FIRST = (order) => NUMERIC.has(order) || order.startsWith("found");
  const GRADES = ["not measurable", "poor", "usable", "good", "not graded"];

  function read(hash) {
    const given = new URLSearchParams(hash.includes("=") ? hash.slice(1) : "");
    const set = (key) => new Set((given.get(key) || "").split(",").filter(Boolean));
    const order = given.get("order") || "needs";
    return {
      order, descending: given.has("dir") ? given.get("dir") === "desc" : LARGE_FIRST(order), q: given.get("q") || "",
      eye: set("eye"), quality: set("quality"), only: given.get("only") === "eyes", pictures: given.get("pictures") !== "no",
      page: Math.max(1, parseInt(given.get("page"), 10) || 1), at: given.get("at") || "",
    };
  }
  function write(state, hash) {
    const out = new URLSearchParams(hash.includes("=") ? hash.slice(1) : "");
    const values = {
      order: state.order === "needs" ? "" : state.order, q: state.q.trim(), eye: [...state.eye].join(","), quality: [...state.quality].join(","),
      dir: state.descending === LARGE_FIRST(state.order) ? "" : state.descending ? "desc" : "asc",
      only: state.only ? "eyes" : "", pictures: state.pictures ? "" : "no", page: state.page > 1 ? String(state.page) : "", at: state.at,
    };
    for (const key of KEYS) { if (values[key]) out.set(key, values[key]); else out.delete(key); }
    return String(out) ? "#" + out : "";
  }

  /* What rows.js hands over. A row knows its place alone, and looks its values up in the columns: a hundred thousand rows open as fast as
   * their text is read. ``fields``: { name: { at: (place) => value, of: (work) => (place) => work(value), values: its different values } }. */
  let all = [], fields = {}, classes = [];
  function column(packed) {
    if (Array.isArray(packed)) return { at: (place) => packed[place], of: (work) => (place) => work(packed[place]), values: () => [...new Set(packed)] };
    const { texts, at } = packed;
    const of = (work) => { const each = texts.map((text) => work(text)); return (place) => each[at[place]]; };
    return { at: (place) => texts[at[place]], of, values: () => texts };
  }
  class Row {
    constructor(place) { this.place = place; }
    get patient() { return this.name.split("_")[0]; }
    get visit() { return this.name.split("_")[2]; }
    get image() { return this.name.split("_")[3]; }
    get needsEyes() { return this.level === "look"; }
    get found() { // of every class that was looked for
      const own = classes.map(({ name, text, amount, withheld }, at) => ({ at, name, text: text.at(this.place), amount: amount.at(this.place), withheld: withheld.at(this.place) }));
      return own.filter((one) => one.text !== null);
    }
  }
  function unpack(text) {
    const packed = JSON.parse(text);
    fields = Object.fromEntries(Object.entries(packed.columns).map(([name, values]) => [name, column(values)]));
    classes = packed.classes.map(({ name, text: words, amount, withheld }) => ({ name, text: column(words), amount: column(amount), withheld: column(withheld) }));
    for (const [name, { at }] of Object.entries(fields)) Object.defineProperty(Row.prototype, name, { get() { return at(this.place); }, configurable: true });
    all = Array.from({ length: packed.rows }, (_, place) => new Row(place));
    names = orders = null;
    return all;
  }

  /* ---- searching: field:value is the whole of a value; other words begin a word of the case, the patient, a finding or an answer ---- */
  const WHOLE = ["eye", "quality", "status", "modality", "case", "patient", "visit", "image", "flag", "finding", "missing"];
  const WITHIN = { reason: "reasons", warning: "warnings", answer: "answers" }; // any part of a text
  const any = (tests) => (tests.length === 1 ? tests[0] : (place) => tests.some((test) => test(place)));
  const lower = (text) => text.toLowerCase();

  function terms(query) {
    return [...query.toLowerCase().matchAll(/(?:(\w+):)?(?:"([^"]*)"?|(\S+))/g)].map(([whole, field, quoted, word]) => {
      const value = (quoted === undefined ? word : quoted).trim();
      return field && !WHOLE.includes(field) && !(field in WITHIN) ? { field: "", value: whole } : { field: field || "", value };
    }).filter((term) => term.value);
  }
  /* All names in one text, a line each, in which the browser itself searches. */
  let names = null;
  function named(value) {
    if (!names) {
      const own = all.map((row) => row.name);
      names = { text: lower("\n " + own.join("\n ")).replaceAll("_", " "), starts: new Uint32Array(own.length + 1) };
      own.forEach((name, place) => { names.starts[place + 1] = names.starts[place] + name.length + 2; });
    }
    const { text, starts } = names, fit = new Uint8Array(all.length), sought = " " + value.replaceAll("_", " ");
    for (let at = text.indexOf(sought); at >= 0;) {
      let low = 0, high = all.length - 1;
      while (low < high) { const middle = (low + high + 1) >> 1; if (starts[middle] <= at) low = middle; else high = middle - 1; }
      fit[low] = 1;
      at = text.indexOf(sought, starts[low + 1]);
    }
    return (place) => fit[place] === 1;
  }
  const found = (chosen, is) => any([() => false, ...chosen.map((one) => one.text.of(is))]);
  function fits({ field, value }) {
    const is = (text) => lower(text) === value, whole = classes.filter((one) => is(one.name));
    if (field === "finding") return found(whole, (text) => Boolean(text));
    if (field === "missing") return found(whole, (text) => text === "");
    if (field === "flag") return fields.flags.of((list) => list.some(is));
    if (field === "case") return fields.name.of(is);
    if (["patient", "visit", "image"].includes(field)) return (place) => is(all[place][field]);
    if (field in WITHIN) return fields[WITHIN[field]].of((list) => list.some((text) => lower(text).includes(value)));
    if (field) return fields[field].of(is);
    if (value === "od" || value === "os") return fields.eye.of(is);
    const begins = (text) => (" " + lower(text)).includes(" " + value);
    const tests = [named(value), found(classes.filter((one) => begins(one.name)), (text) => Boolean(text)), fields.answers.of((list) => list.some(begins))];
    return any(tests);
  }
  function searched(rows, state) {
    const tests = rows.length ? terms(state.q).map(fits) : [];
    return tests.length ? rows.filter((row) => tests.every((test) => test(row.place))) : rows;
  }

  /* ---- order: of all rows, once; those that are shown come out of it ---- */
  const words = new Intl.Collator("en", { numeric: true });
  function ranked(field) {
    const ranks = new Map([...fields[field].values()].sort(words.compare).map((text, rank) => [text, rank]));
    return fields[field].of((text) => ranks.get(text));
  }
  function keyOf(order) {
    const at = (field) => (place) => fields[field].at(place) ?? -1;
    if (order === "found") return (place) => classes.reduce((sum, one) => sum + Math.max(one.amount.at(place), 0), 0);
    if (order.startsWith("found")) return (classes[Number(order.slice(5))] || { amount: { at: () => -1 } }).amount.at;
    if (order === "quality") return (place) => GRADES.indexOf(fields.quality.at(place));
    if (order === "warnings") return (place) => fields.warnings.at(place).length;
    if (["eye", "modality", "status"].includes(order)) return ranked(order);
    return { case: at("chart"), size: at("pixels"), doubt: at("doubt"), asymmetry: at("asymmetry") }[order];
  }
  let orders = null; // the last one
  function sorted(rows, { order, descending }) {
    const known = order + descending;
    if (all.length && (!orders || orders.known !== known)) {
      const key = keyOf(order), sign = descending ? -1 : 1;
      const keys = key && Float64Array.from(all, (row) => sign * key(row.place));
      const list = key ? Array.from(all).sort((one, other) => keys[one.place] - keys[other.place] || one.place - other.place) : descending ? [...all].reverse() : all;
      orders = { known, list };
    }
    if (rows.length === all.length) return all.length ? orders.list : rows;
    const wanted = new Uint8Array(all.length);
    for (const row of rows) wanted[row.place] = 1;
    return orders.list.filter((row) => wanted[row.place]);
  }
  /* Rows that the chips let through; ``spared``: a group of chips that is not asked, for the counts of its own chips. */
  function chosen(rows, state, spared = "") {
    const asked = ["eye", "quality"].filter((group) => group !== spared && state[group].size), only = state.only && spared !== "only";
    return asked.length || only ? rows.filter((row) => asked.every((group) => state[group].has(row[group])) && (!only || row.needsEyes)) : rows;
  }

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
