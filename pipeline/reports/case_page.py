"""One page a case: the scan beside its overlay, what was found, and what made it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pipeline.drawing.thumbnail import write_thumbnail
from pipeline.reports import wording
from pipeline.reports.case_values import page_values
from pipeline.reports.neighbours import Neighbours
from pipeline.reports.objects import CaseObjects, read_objects
from pipeline.reports.page_facts import PageFacts, fingerprint, read_facts
from pipeline.reports.pages import write_page, write_text
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.slices import DrawnCase, draw_case


def write_case_page(report: Path, case: ReportCase, run: RunFacts, near: Neighbours) -> PageFacts:
    """Write ``report/cases/<case>.html`` with its thumbnail and, for a volume, its outlines; an up-to-date page is left alone.

    ``near``: where one goes from it.

    Raises
    ------
    OcusegError: a picture or mask is damaged. OSError: it cannot be read or written.
    """
    name, run = str(case.key), run.of(case)
    state = fingerprint(case, run, near)
    sidecar = report / "data" / f"{name}.json"
    known = read_facts(sidecar, state)
    written = (report / "cases" / f"{name}.html", report / "thumbs" / f"{name}.jpg", report / "views" / f"{name}.jpg")
    if known is not None and all(path.exists() for path in written):
        return known

    objects = read_objects(case, run) if run.objects else None
    drawn = draw_case(report / "data", case, run, objects)
    facts = PageFacts(
        tuple(drawn.total[:, 0].tolist()),
        tuple(drawn.total[:, 1].tolist()),
        tuple(_warnings(case, run, objects, drawn)),
        None if objects is None else objects.counts(),
        objects is not None and objects.boxes_only,
    )
    shown = case.planes[drawn.start]
    boxes = () if objects is None or objects.has_masks else [o for o in objects.in_slice(drawn.start) if objects.above(o)]
    write_thumbnail(
        written[1],
        case.image(shown),
        run.label_map.layers(case.mask(shown)),
        run.label_map,
        [(one.label, one.box) for one in boxes],
        large=written[2],
    )
    write_page(written[0], "case.html", page_values(case, run, facts, drawn, objects, near))
    for old in (report / "data").glob(f"{name}_????.js"):
        if old.name not in drawn.scripts:
            old.unlink()
    write_text(sidecar, json.dumps({"fingerprint": state} | asdict(facts)))
    return facts


def _warnings(case: ReportCase, run: RunFacts, objects: CaseObjects | None, drawn: DrawnCase) -> Iterator[str]:
    """What the reader must be told, the weightiest first."""
    yield from filter(None, [run.useless])
    yield from case.warnings
    if not set(case.bundle_id.split("+")) <= set(run.bundle_id.split("+")):
        yield f"This case was made with bundle {case.bundle_id or 'unknown'}, not with {run.bundle_id or 'the one of this folder'}."
    if objects is not None:
        yield from objects.warnings
    yield from drawn.warnings
    if drawn.smallest > 1:
        yield f"The mask is so ragged that parts below {drawn.smallest} px are not drawn here; the mask itself and all numbers are whole."
    for name, pixels in zip(run.label_map.names, drawn.total[:, 0].tolist(), strict=True):
        if name in case.found and case.found[name].pixels != pixels:  # somebody changed the mask or case.json
            held, stated = wording.count(pixels), wording.count(case.found[name].pixels)
            if case.record.withheld(name):
                yield f"{name}: the mask was changed since the prediction."
            else:
                yield f"{name}: the mask holds {held} px where the prediction recorded {stated}; the mask was changed since."
