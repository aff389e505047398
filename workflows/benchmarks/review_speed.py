"""How soon the next case is drawn after a reviewer accepts one, in headless Chromium against the real server.

    python workflows/benchmarks/review_speed.py

Cases are phantom photographs of 1,000 x 1,000 px with disc, cup and vessels. The clock starts when the page gets the key A. "saved": the
server has answered, so the verdict is in the log. "drawn": the second animation frame after the next case was put in the page's place.
"painted": when the browser itself says that the new case's pictures were on the screen (Element Timing); without a GPU, as here, it draws
them on the processor. Between two cases the reviewer looks for --look seconds, in which the next one is fetched. Results: docs/review.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, Route, sync_playwright

from pipeline.inference.case_files import CaseResult, write_case, write_json
from pipeline.phantoms.fundus import draw_fundus
from pipeline.review.server import Wishes, started
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Scan
from pipeline.types.run_record import RunRecord

CLASSES = LabelMap(
    (LabelClass(1, "disc", (240, 228, 66)), LabelClass(2, "cup", (86, 180, 233), inside="disc"), LabelClass(3, "vessel", (0, 158, 115))),
    overlapping=True,
)
MARK = "() => performance.getEntriesByName('ocuseg-drawn').length > 0"
TOLD = """() => {
  const at = (name) => performance.getEntriesByName(name)[0].startTime, key = at('ocuseg-accepted');
  return [key, at('ocuseg-answered'), at('ocuseg-drawn'), Math.max(key, ...window.painted)];
}"""
WATCH = """
window.painted = [];
new PerformanceObserver((list) => window.painted.push(...list.getEntries().map((one) => one.renderTime)))
  .observe({ type: 'element', buffered: true });
"""


def write(out: Path, number: int, side: int) -> None:
    """A folder of predictions as `ocuseg predict` leaves it."""
    (out / "cases").mkdir(parents=True)
    write_json(out / "run.json", RunRecord(bundle_id="0123456789ab", classes=CLASSES.to_json()).to_json())
    for at in range(number):
        eye = draw_fundus(at, "R", (side, side))
        mask = np.zeros((side, side), np.uint8)
        for cls in CLASSES.classes:
            mask |= eye.masks[cls.name].astype(np.uint8) << (cls.index - 1)
        key = CaseKey.parse(f"phantom{at:03d}_R_v1_i1")
        geometry = Geometry((side, side), laterality="R", laterality_source="tag")
        scan = Scan(np.moveaxis(eye.image, -1, 0), geometry, "fundus", key, "ab" * 32)
        write_case(out, CaseResult(scan, str(key), CLASSES, mask, None, (), "0123456789ab", 1.0))


def with_timing(route: Route) -> None:
    """The page as it is, with its pictures named for Element Timing."""
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace('<image class="scan"', '<image elementtiming="scan" class="scan"'))


def review(page: Page, address: str, first: str, number: int, look_s: float) -> list[dict[str, float]]:
    page.add_init_script(WATCH)
    page.route("**/cases/*.html", with_timing)
    page.goto(f"{address}/cases/{first}.html")
    page.wait_for_selector("#review-progress progress")
    out = []
    for _ in range(number - 1):
        time.sleep(look_s)
        page.evaluate("() => performance.clearMarks()")
        page.keyboard.press("a")
        page.wait_for_function(MARK)
        time.sleep(0.3)
        key, answered, drawn, painted = page.evaluate(TOLD)
        out.append({"saved": answered - key, "drawn": drawn - key, "painted": painted - key})
    return out


def measure(number: int, side: int, look_s: float, realtime: bool) -> dict[str, Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as home:
        out = Path(home) / "predictions"
        write(out, number, side)
        if realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))  # the browser and the server inherit it
        with started(out, Wishes(port=0, reviewer="benchmark")) as serving, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            times = review(page, f"http://127.0.0.1:{serving.port}", "phantom000_R_v1_i1", number, look_s)
            browser.close()
    return {"cases": len(times)} | {
        f"{name}_ms": {"median": round(statistics.median(own)), "worst": round(max(own))}
        for name in ("saved", "drawn", "painted")
        for own in [[one[name] for one in times]]
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=21, help="the first one is loaded, each further one drawn after an accept")
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--look", type=float, default=1.5, help="seconds between two cases")
    parser.add_argument("--realtime", action="store_true", help="before all other work of the machine, as if it were at rest; needs root")
    given = parser.parse_args()
    print(json.dumps(measure(given.cases, given.side, given.look, given.realtime), indent=1))
