/* The next case is fetched and decoded while this one is looked at, and put in the page's place. */
import { ask, pathOf } from "./api.js";
import { inPieces } from "./strokes.js";

export const pageOf = (name) => `/cases/${encodeURIComponent(name)}.html`;

/* { name, page, styles, info, picture }: the page as a document, what the server says of the case, and its picture, decoded. */
export async function prepare(name) {
  const [html, info] = await Promise.all([fetch(pageOf(name)).then((answer) => (answer.ok ? answer.text() : Promise.reject(new Error("no page")))), ask(pathOf(name))]);
  const styles = []; // taken out before it is parsed: a content policy would refuse them there
  const page = new DOMParser().parseFromString(html.replace(/<style[^>]*>([^]*?)<\/style>/g, (_, style) => { styles.push(style); return ""; }), "text/html");
  if (!page.querySelector("#slice")) inPieces(page);
  const start = page.querySelector("#slice"), plane = info.planes[start ? Number(start.getAttribute("value")) : 0] || info.planes[0];
  const picture = new Image();
  picture.src = plane.image;
  await Promise.all([picture.decode(), plane.mask && fetch(plane.mask).then((answer) => answer.arrayBuffer())]);
  return { name, page, styles, info, picture };
}

/* The line that a print has at the foot of each page names the patient, so it is the new page's. */
function footLine(styles) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(styles.join("\n"));
  document.head.querySelectorAll("style").forEach((style) => style.remove());
  document.adoptedStyleSheets = [sheet];
}

/* Put a prepared case in the place of the one on show. Returns false where the page needs scripts that are not here: then it must be loaded. */
export function replace({ name, page, styles }) {
  const needed = [...page.querySelectorAll("script[src]")].some((script) => /objects\.js$/.test(script.getAttribute("src")));
  if (!window.ocusegCase || !page.getElementById("case-data") || (needed && !window.ocusegObjects)) return false;
  window.ocusegCase.stop();
  document.title = page.title;
  footLine(styles);
  history.pushState(null, "", pageOf(name) + location.hash);
  document.body = document.adoptNode(page.body); // a parsed document's scripts never run: the viewer is started again instead
  window.scrollTo(0, 0);
  window.ocusegOrder.follow(name);
  window.ocusegCase = window.ocusegViewer();
  return true;
}
