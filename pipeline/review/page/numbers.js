/* Whose numbers the page shows: those of the contours that are on the picture, the model's or a correction's. */
import { ask, pathOf } from "./api.js";
import { byId } from "./dom.js";

const SECTIONS = ["measures", "found"];

/* The numbers of a correction, which take the place of the model's as long as they are shown; null where they are not ``wanted()`` any more. The server
   may still be measuring. */
export async function correctionNumbers(name, correction, wanted) {
  let told = { measuring: true };
  for (let tries = 0; told.measuring && wanted(); tries += 1) {
    if (tries) await new Promise((done) => setTimeout(done, Math.min(200 * tries, 2000)));
    told = await ask(`${pathOf(name)}/numbers?correction=${correction}`);
  }
  if (!wanted()) return null;
  const over = new AbortController();
  const parts = SECTIONS.map((id) => [byId(id), new DOMParser().parseFromString(told[id], "text/html").getElementById(id)]).filter(([own, made]) => own && made)
    .map(([own, made]) => [own, document.adoptNode(made)]);
  const cells = parts.flatMap(([, made]) => [...made.querySelectorAll("[data-slice-pixels]")]).map((cell) => [cell, Number(cell.dataset.slicePixels)]);
  for (const [own, made] of parts) {
    for (const cell of made.querySelectorAll("td")) for (const key of ["slicePixels", "sliceObjects", "objects"]) delete cell.dataset[key]; // the viewer writes the model's there
    const details = own.querySelectorAll("details");
    made.querySelectorAll("details").forEach((one, k) => { if (details[k]) one.open = details[k].open; });
  }
  const slice = (at) => cells.forEach(([cell, k]) => { cell.textContent = told.planes[at][k].toLocaleString("en").replaceAll(",", "\u202f"); });
  if (cells.length) {
    slice(window.ocusegCase.slice());
    document.addEventListener("ocuseg-slice", (event) => slice(event.detail), { signal: over.signal });
  }
  const rest = told.unmeasured ? ` ${told.unmeasured} measurements need the network's own output and could not be made anew: they are left out.` : "";
  const show = (on) => {
    for (const [own, made] of parts) { const [off, shown] = on ? [own, made] : [made, own]; if (off.isConnected) off.replaceWith(shown); }
    return on ? `Picture, measurements and counts are those of the correction.${rest}` : "Picture, measurements and counts are those of the model's own answer.";
  };
  return { show, close() { over.abort(); show(false); } };
}
