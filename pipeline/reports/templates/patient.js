"use strict";
/* The patient page: one visit at a time, or two below each other with what changed between them. Without it all visits are shown. */
(() => {
  document.documentElement.classList.add("js");
  const visits = [...document.querySelectorAll(".visit")];
  const links = [...document.querySelectorAll("[data-visit]")];
  const numbers = JSON.parse(document.getElementById("patient-data").textContent);
  const comparison = document.getElementById("comparison");
  let chosen = [visits.length - 1]; // the latest; at most two, in the order of the visits

  function show() {
    visits.forEach((visit, at) => { visit.hidden = visits.length > 1 && !chosen.includes(at); });
    links.forEach((link, at) => { if (chosen.includes(at)) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); });
    if (comparison) compare();
  }
  function compare() {
    comparison.hidden = chosen.length < 2;
    if (comparison.hidden) return;
    const [first, second] = chosen.map((at) => numbers[at]);
    const heads = comparison.querySelectorAll("thead th");
    chosen.forEach((at, k) => { heads[2 + k].textContent = visits[at].getAttribute("aria-label"); });
    const rows = first.flatMap(([eye, key, title, value, text, unit, estimated]) => {
      const later = second.find((other) => other[0] === eye && other[1] === key);
      if (!later) return [];
      const both = value !== null && later[3] !== null && unit === later[5] && estimated === later[6];
      return [[eye, title, text, later[4], both ? change(later[3] - value, unit) + (estimated ? " (estimated)" : "") : "–"]];
    });
    comparison.querySelector("tbody").replaceChildren(...rows.map((cells) => {
      const row = document.createElement("tr");
      cells.forEach((text, k) => {
        const cell = row.appendChild(document.createElement(k === 1 ? "th" : "td"));
        if (k === 1) cell.scope = "row";
        if (k > 1) cell.className = "number";
        cell.textContent = text;
      });
      return row;
    }));
  }
  function change(by, unit) {
    const size = Math.abs(by), whole = ["1", "px", "px2", "voxels"].includes(unit) && Math.abs(by - Math.round(by)) < 1e-9;
    const digits = size >= 100 || whole ? 0 : ["%", "um", "deg", "px", "px2", "voxels"].includes(unit) ? 1 : 2;
    const sign = by > 0 ? "+" : by < 0 ? "\u2212" : "";
    const shown = size && size < 0.1 && digits === 2 ? Number(size.toPrecision(2)) : size.toFixed(digits).replace(/\B(?=(\d{3})+$)/g, "\u202f");
    return sign + shown + ({ 1: "", um: " µm", mm2: " mm²", mm3: " mm³", px2: " px²", deg: "°", "1/px": " per px", "1/mm": " per mm", "1/px2": " per px²", "1/mm2": " per mm²" }[unit] ?? " " + unit);
  }
  function choose(at, beside) {
    const others = beside ? chosen.filter((other) => other !== at).slice(-1) : [];
    chosen = [...others, at].sort((a, b) => a - b);
    show();
  }
  links.forEach((link, at) => link.addEventListener("click", (event) => {
    event.preventDefault();
    choose(at, chosen.length === 1 && chosen[0] !== at);
  }));

  function otherEye() { // from one eye's picture to the other's; Enter opens it
    const eyes = [...document.querySelectorAll(".visit:not([hidden]) [data-eye]")];
    if (eyes.length) eyes[(eyes.indexOf(document.activeElement) + 1) % eyes.length].focus();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "v") choose((chosen[chosen.length - 1] + 1) % visits.length, false);
    else if (key === "e") otherEye();
    else if (key === "w") document.getElementById("worklist-link").click();
    else return;
    event.preventDefault();
  });
  for (const link of document.querySelectorAll("a[href*='.html']")) { // the worklist's order and the view go along
    link.addEventListener("click", () => { link.href = link.href.split("#")[0] + (location.hash.includes("=") ? location.hash : ""); });
  }
  window.addEventListener("beforeprint", () => visits.forEach((visit) => { visit.hidden = false; }));
  window.addEventListener("afterprint", show);
  const stated = visits.findIndex((visit) => "#" + visit.id === location.hash);
  if (stated >= 0) chosen = [stated];
  show();
})();
