"""How fast the worklist of many cases opens and searches, in headless Chromium, from the disk.

    python workflows/benchmarks/worklist.py --cases 3000

Records are drawn: patients with both eyes, five classes, flags, reasons, measures and doubt. Times are the page's own clock, from the
start of loading to the end of the first layout, and of each key typed into the search field to the layout that shows what fits; of several
repeats the fastest, because other work on the machine can only add. Results: docs/results/speed.md.
"""

from __future__ import annotations

import argparse
import html
import json
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.reports import wording, worklist
from pipeline.reports.need import asymmetries, needs_eyes_first
from pipeline.reports.page_facts import PageFacts
from pipeline.reports.pages import write_assets, write_page, write_text
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.row_files import ROWS_FILE, TABLE_FILE, as_csv, as_script
from pipeline.types import CaseKey, LabelClass, LabelMap
from pipeline.types.case_record import CaseRecord

CLASSES = ("optic_disc", "optic_cup", "vessel", "hard_exudate", "haemorrhage")
GRADES = ("good", "good", "good", "usable", "poor", "not_measurable")
TYPED = "haemorrhage eye:OD"
REASONS = (
    "Blurred: the finest vessels are missing.",
    "The periphery is dark.",
    "The field is cut at the left.",
    "Haze over the whole picture.",
)
PROBE = """
addEventListener('DOMContentLoaded', () => {
  document.body.offsetHeight;
  const told = { open: performance.now(), nodes: document.getElementsByTagName('*').length, keys: [], rows: [] };
  const search = document.getElementById('search'), typed = %s;
  for (let end = 1; end <= typed.length; end += 1) {
    const start = performance.now();
    search.value = typed.slice(0, end);
    search.dispatchEvent(new Event('input'));
    document.body.offsetHeight;
    told.keys.push(performance.now() - start);
    told.rows.push(document.querySelectorAll('tr.case').length);
  }
  const out = document.createElement('pre'); out.id = 'told'; out.textContent = JSON.stringify(told); document.body.append(out);
});
"""


def record(name: str, eye: str, chance: random.Random) -> CaseRecord:
    grade = chance.choice(GRADES)
    flags = (
        [{"code": "two_discs", "text": "Two discs were found.", "withholds": True, "classes": ["optic_disc"]}]
        if chance.random() < 0.1
        else []
    )
    return CaseRecord.model_validate(
        {
            "case": name,
            "modality": "fundus",
            "geometry": {"shape": (1168, 1752), "laterality": eye, "laterality_source": "filename"},
            "sha256": "ab" * 32,
            "bundle_id": "0123456789ab",
            "warnings": ["the scan's scale is unknown, so lengths are in px"],
            "seconds": 1.2,
            "classes": {cls: {"pixels": chance.randrange(40_000), "slices": 1} for cls in CLASSES},
            "planes": [{"index": 0, "image": "image_000.png", "mask": "mask_000.png"}],
            "quality": {"grade": grade, "reasons": [] if grade == "good" else chance.sample(REASONS, 2)},
            "flags": flags,
            "measures": [
                {
                    "key": "vcdr",
                    "title": "vertical cup-to-disc ratio",
                    "value": round(chance.uniform(0.2, 0.9), 3),
                    "unit": "1",
                    "definition": "heights",
                }
            ],
            "doubt": {"score": round(chance.random(), 3)},
        }
    )


def drawn_case(number: int, chance: random.Random) -> ReportCase:
    eye = "RL"[number % 2]
    patient = f"{random.Random(number // 2).getrandbits(64):016x}"
    key = CaseKey.parse(f"{patient}_{eye}_v1_{chance.getrandbits(64):016x}")
    own = record(str(key), eye, chance)
    places = (key, Path(str(key)), own.modality, own.geometry.geometry(), own.sha256, own.bundle_id, own.warnings, own.seconds, own.classes)
    return ReportCase(*places, own.planes, own)


def write(report: Path, number: int) -> None:
    """The worklist alone: its cases have neither pages nor pictures."""
    chance = random.Random(0)
    run = RunFacts(
        LabelMap(tuple(LabelClass(k, cls, (40 * k, 200 - 20 * k, 90)) for k, cls in enumerate(CLASSES, start=1)), overlapping=True)
    )
    cases = [drawn_case(k, chance) for k in range(number)]
    found = asymmetries(cases)
    cases.sort(key=lambda case: needs_eyes_first(case, found))
    facts = [PageFacts(tuple(case.found[cls].pixels for cls in CLASSES), (1,) * len(CLASSES), case.warnings) for case in cases]
    rows, styles = worklist._rows(run, list(zip(cases, facts, strict=True)), found), wording.class_styles(run.label_map)
    write_assets(report)
    write_text(report / ROWS_FILE, as_script(rows, styles))
    write_text(report / TABLE_FILE, as_csv(rows, styles))
    write_page(report / "index.html", "worklist.html", worklist._values(run, [], rows, []) | {"files": [TABLE_FILE]})
    write_text(report / "probe.js", PROBE % json.dumps(TYPED))
    page = (report / "index.html").read_text(encoding="utf-8")
    write_text(report / "probe.html", page.replace("</body>", '<script src="probe.js"></script></body>'))


def browse(chromium: str, page: Path, profile: Path) -> str:
    """The page as it stands after loading."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--window-size=1280,900")
    command = [chromium, *options, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    return done.stdout.decode(errors="replace")


def measure(number: int, repeats: int) -> dict[str, Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as home:
        report = Path(home) / "report"
        report.mkdir()
        start = time.perf_counter()
        write(report, number)
        written = time.perf_counter() - start
        sizes = {name: (report / name).stat().st_size for name in ("index.html", ROWS_FILE, TABLE_FILE)}
        told = []
        for _ in range(repeats):
            text = browse(chromium, report / "probe.html", Path(home) / "profile")
            told.append(json.loads(html.unescape(re.findall(r'<pre id="told">(.*?)</pre>', text, re.S)[0])))
    keys = [min(own) for own in zip(*(one["keys"] for one in told), strict=True)]
    return {
        "cases": number,
        "write_s": round(written, 2),
        "bytes": sizes,
        "nodes": told[0]["nodes"],
        "open_ms": round(min(one["open"] for one in told)),
        "key_ms_median": round(statistics.median(keys), 1),
        "key_ms_largest": round(max(keys), 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(measure(given.cases, given.repeats), indent=1))
