"""Which eye a picture itself shows, where a bundle says so: a side that nobody stated, or a conflict that somebody must look at.

What a file's header, its name or the user says stays: a conflict is a flag for a person to resolve.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inference.answers import Answer
from pipeline.inference.case_files import CaseResult, write_json
from pipeline.measurements.rim import NO_SIDE
from pipeline.quality.judge import without_fovea
from pipeline.scans.field_of_view import field_diameter, field_of_view
from pipeline.scans.originals import OTHER_EYE, Other
from pipeline.scans.place import SIDE_CONFLICT
from pipeline.types import Geometry, Laterality, Role, Scan
from pipeline.types.assessment import FlagRecord, MeasureRecord
from pipeline.types.case_record import CASE_FILE, CaseRecord

SIDES: dict[Role, Laterality] = {"right_eye": "R", "left_eye": "L"}
WORDS = {"R": "right", "L": "left"}
SHORT = {"R": "OD", "L": "OS"}
SOURCES = {
    "tag": "the file's header",
    "functional_group": "the file's header",
    "filename": "the file's name",
    "card": "the data card",
    "user": "the user",
    "picture": "another model",
}
_OFF_CENTRE, _LEVEL = 0.1, 0.25
"""Of the field's diameter: a disc at least so far to a side of the centre, and no further above or below it, is one that a photograph
centred on the macula shows. Nearer, the photograph is centred on the disc and shows no side."""
_DISC = (0.05, 0.3)
"""A disc's diameter as a fraction of the field's: what is smaller or larger was no disc."""


_NAMED_TWICE = (
    "The same picture lies in the folder under the names of both eyes; look which it is, remove the wrong file and this case's folder, and "
    "run the command again."
)


def with_sides(result: CaseResult) -> CaseResult:
    """The case with the side that its picture shows where nothing else states one, and a flag for each contradiction: of the reader's (a
    tag and a name, two sizes of a pixel), of a bundle that knows the sides, and of where the disc lies."""
    scan, found = with_side(result.scan, result.answers)
    if not found and scan.geometry.laterality_source != "picture":  # one flag for one conflict
        found = disc_side(scan, result)
    doubts = (*scan.doubts, *((flag.code, flag.text) for flag in found))
    flags = (*result.assessment.flags, *(FlagRecord(code=code, text=f"{text[0].upper()}{text[1:]}.") for code, text in doubts))
    return replace(result, scan=scan, assessment=replace(result.assessment, flags=flags))


def side_of(answer: Answer) -> Laterality | None:
    """The eye that an answer names; None where it is about something else, or not sure."""
    return None if answer.answer is None else SIDES.get(answer.roles[answer.names.index(answer.answer)] or "layer")


def with_side(scan: Scan, answers: tuple[Answer, ...]) -> tuple[Scan, tuple[FlagRecord, ...]]:
    """The scan, with the side found in the picture where nothing else states it; and flags where the two disagree."""
    flags: list[FlagRecord] = []
    for answer in answers:
        side, stated = side_of(answer), scan.geometry.laterality
        if side is None or side == stated:
            continue
        if stated is None:
            geometry: Geometry = replace(scan.geometry, laterality=side, laterality_source="picture")
            scan = replace(scan, geometry=geometry)
            continue
        flags.append(_conflict(scan.geometry, side, f"{answer.name}, probability {float(answer.probabilities.max()):.2f}"))
    return scan, tuple(flags)


def doubt_side(out: Path, kept: Other, case: str) -> str:
    """How the reason of a duplicate ends, named ``case``: "", or that the ``kept`` one, which is finished, is named as of the other eye.

    That case in ``out`` gets a flag, and no number any more for which one must know the side.
    """
    if not kept.of_other_eye(case):
        return ""
    with suppress(OSError, ValueError):  # a slice has no folder of its own yet; of a damaged record the report tells
        folder = out / "cases" / kept.case
        record = CaseRecord.read(folder)
        flag = FlagRecord(code=SIDE_CONFLICT, text=_NAMED_TWICE)
        if flag not in record.flags:
            changed: dict[str, Any] = {"flags": (*record.flags, flag), "measures": tuple(map(_without_side, record.measures))}
            if record.quality is not None:
                changed["quality"] = without_fovea(record.quality)
            write_json(folder / CASE_FILE, record.model_copy(update=changed).to_json())
    return OTHER_EYE


def _without_side(measure: MeasureRecord) -> MeasureRecord:
    if measure.value is None or not {"nasal", "temporal"} & {*measure.key.split("_")}:
        return measure
    return measure.model_copy(update={"value": None, "low": None, "high": None, "undefined": NO_SIDE})


def disc_side(scan: Scan, result: CaseResult) -> tuple[FlagRecord, ...]:
    """A flag where the optic disc does not lie nasally, as seen in a photograph that is centred on the macula: right of the centre in a
    right eye, left of it in a left one. No flag where the picture shows no side."""
    discs = [place for place, role in enumerate(result.label_map.roles) if role == "optic_disc"]
    if scan.geometry.laterality is None or scan.modality not in ("fundus", "slo") or scan.pixels.ndim != 3 or not discs:
        return ()
    disc: npt.NDArray[np.bool_] = np.asarray(result.label_map.layers(result.mask)[discs].any(axis=0))
    side = side_by_disc(disc, field_of_view(scan)) if disc.any() else None
    if side is None or side == scan.geometry.laterality:
        return ()
    lies = "right" if side == "R" else "left"
    return (_conflict(scan.geometry, side, f"the optic disc lies {lies} of the centre"),)


def side_by_disc(disc: npt.NDArray[np.bool_], field: npt.NDArray[np.bool_]) -> Laterality | None:
    """The eye of a photograph centred on the macula, from its disc bool (H, W), not empty, and its field of view; None where it shows
    none. Of several pieces the largest counts."""
    from scipy import ndimage

    step = max(1, max(disc.shape) // 512)
    disc, field = disc[::step, ::step], field[::step, ::step]
    pieces, _ = ndimage.label(disc)
    sizes = np.bincount(pieces.ravel())
    if len(sizes) < 2:
        return None
    diameter = field_diameter(field)
    (top, left), (bottom, right) = _ends(pieces == 1 + int(sizes[1:].argmax()))
    height, width = bottom - top + 1, right - left + 1
    if not all(_DISC[0] <= side / diameter <= _DISC[1] for side in (height, width)):
        return None
    (field_top, field_left), (field_bottom, field_right) = _ends(field)
    across = (left + right - field_left - field_right) / 2 / diameter
    down = (top + bottom - field_top - field_bottom) / 2 / diameter
    if abs(across) < _OFF_CENTRE or abs(down) > _LEVEL:
        return None
    return "R" if across > 0 else "L"


def _ends(mask: npt.NDArray[np.bool_]) -> Sequence[tuple[int, int]]:
    """First and last (row, column) of what is set."""
    lines = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    return [(int(lines[0][end]), int(lines[1][end])) for end in (0, -1)]


def _conflict(geometry: Geometry, shown: Laterality, why: str) -> FlagRecord:
    stated = geometry.laterality or shown
    source = SOURCES.get(geometry.laterality_source, "somebody")
    text = (
        f"the picture looks like {SHORT[shown]}, a {WORDS[shown]} eye ({why}), but {source} says {SHORT[stated]}, a {WORDS[stated]} eye; "
        "look which it is"
    )
    return FlagRecord(code=SIDE_CONFLICT, text=text)
