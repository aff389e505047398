/* A corrected case as it was left: pixels, lines and objects of the correction over the picture. */
import { drawn } from "./instances.js";
import { Planes } from "./planes.js";
import { Stage } from "./stage.js";

/* Resolves once it is drawn; to null where it is not ``wanted()`` any more. */
export async function showCorrection(info, wanted = () => true) {
  const planes = new Planes(info), over = new AbortController();
  await Promise.all([planes.mask(window.ocusegCase.slice()), planes.instances()]); // one that is long on its way leaves nothing behind
  if (!wanted()) return null;
  const stage = new Stage(info);
  let on = true, index = -1;
  async function show(now) {
    index = now;
    stage.clear();
    const mask = await planes.mask(now);
    if (index !== now) return;
    stage.draw(mask);
    lines();
  }
  function lines() {
    stage.shapes.replaceChildren(...planes.surfacesOf(index).map((one, place) => stage.line(one.rows, planes.surfaceColour(place))),
      ...planes.objectsOf(index).filter((one) => stage.visible(one.class)).flatMap((one) => (one.cut ? drawn(one.cut, planes.colour(one.class), false, false) : [stage.box(one.box, planes.colour(one.class))])));
  }
  stage.following.push(() => { if (stage.mask) lines(); });
  document.addEventListener("ocuseg-slice", (event) => show(event.detail).catch(() => null), { signal: over.signal });
  show(window.ocusegCase.slice()).catch(() => null);
  return {
    on: () => on,
    toggle() { on = !on; stage.show(on); return on; },
    close() { over.abort(); stage.close(); },
  };
}
