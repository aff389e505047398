"""axe-core on every kind of page, in headless Chromium: no serious or critical finding."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest

from pipeline.reports.worklist import write_report
from tests.reports.conftest import Out, disc_and_cup
from tests.reports.test_in_browser import CHROMIUM, run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

AXE = importlib.resources.files("axe_playwright_python") / "axe.min.js"
SCRIPT = """
const load = document.createElement('script'); load.src = '%s/axe.js'; document.head.append(load);
await new Promise((done) => { load.onload = done; });
const found = await axe.run(document, { resultTypes: ['violations'], preload: false });
tell('rules', found.passes.length);
tell('found', found.violations.filter((one) => ['serious', 'critical'].includes(one.impact))
  .map((one) => [one.id, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200) + ' ' + node.failureSummary.slice(0, 300))]));
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Out(tmp_path_factory.mktemp("accessible") / "out")
    for eye in "RL":
        known = {"laterality": eye, "laterality_source": "tag", "spacing_mm": [0.02, 0.02], "spacing_source": "user"}
        flags = [{"code": "mirrored", "text": "The tag and the picture disagree."}] if eye == "L" else []
        measures = [{"key": "vcdr", "title": "vertical cup-to-disc ratio", "value": 0.6, "unit": "1", "definition": "of heights"}]
        quality = {"grade": "poor" if eye == "R" else "good", "reasons": ["Blurred."]}
        more = {"measures": measures, "quality": quality, "flags": flags, "doubt": {"score": 0.5}, "warnings": ["the scan is dark"]}
        out.add(f"pa_{eye}_v1_i1", disc_and_cup(), geometry=known, **more)
    out.reject("rejected", "truncated", "the picture ends early")
    index = write_report(out.path)
    (index.parent / "axe.js").write_text(AXE.read_text(encoding="utf-8"), encoding="utf-8")
    return index.parent


@pytest.mark.parametrize(("page", "root"), [("index.html", "."), ("cases/pa_R_v1_i1.html", ".."), ("patients/pa.html", "..")])
def test_axe_finds_nothing_serious(report: Path, page: str, root: str, tmp_path: Path) -> None:
    told = run(report / page, SCRIPT % root, tmp_path)
    assert told["found"] == []
    assert told["rules"] > 10, "the rules were asked"
