"""A case as its reviewers left it: the mask that they corrected, and numbers measured on that, without a network."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.reports import wording
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.review.corrections import model_sha256
from pipeline.review.instances import have_masks
from pipeline.review.log import Verdict
from pipeline.review.reviewed import Labels, read_labels
from pipeline.review.state import ReviewState
from pipeline.scans.field_of_view import detect_field_of_view
from pipeline.types import LabelMap
from pipeline.types.assessment import MeasureRecord
from pipeline.types.case_record import PlaneRecord

CORRECTED = "a reviewer corrected what was found, and this number was measured before"


@dataclass(frozen=True)
class Reviewed:
    """The verdict that counts, with who gave it and when · ``author`` and ``drawn``: who drew the correction, and when · ``outdated``:
    there was one, of what another prediction had found."""

    verdict: Verdict = "unreviewed"
    reviewer: str = ""
    at: str = ""
    comment: str = ""
    author: str = ""
    drawn: str = ""
    outdated: bool = False

    @property
    def edited(self) -> bool:
        return self.verdict == "edited"

    @property
    def rejected(self) -> bool:
        return self.verdict == "rejected"

    @property
    def confirmed(self) -> bool:
        """Whether a named person stands for what is exported."""
        return self.verdict in ("accepted", "edited") and bool(self.reviewer)

    @property
    def words(self) -> str:
        """What was done with a network's output, to follow that; "" where nobody said anything."""
        done = {"accepted": "accepted", "edited": "corrected", "rejected": "rejected"}.get(self.verdict, "")
        whose, by = self.reviewer or "a reviewer", self.author or self.reviewer or "a reviewer"
        if self.edited and by != whose:
            done = f"{by} corrected and {whose} accepted"
        elif done:
            done = f"{whose} {done}"
        return f"that {done} ({wording.moment(self.at)})" if done else ""


NOT_REVIEWED = Reviewed()


@dataclass(frozen=True)
class CorrectedCase(ReportCase):
    """With the reviewer's masks in place of the model's, which stay in the folder."""

    labels: Labels | None = None

    def mask(self, plane: PlaneRecord) -> npt.NDArray[np.int64]:
        assert self.labels is not None
        mask = self.labels.mask
        return (mask[self.planes.index(plane)] if self.volume else mask).astype(np.int64)


def as_reviewed(predictions: Path, case: ReportCase, run: RunFacts, state: ReviewState | None) -> tuple[ReportCase, Reviewed]:
    """The case (with the eye that reviewers set) as it is exported, and the verdict on it.

    Raises
    ------
    OcusegError: the reviewer's correction is missing, was changed or does not fit the case.
    """
    if state is None:
        return case, NOT_REVIEWED
    if state.verdict == "unreviewed":
        return case, replace(NOT_REVIEWED, comment=state.comment)
    if state.mask_sha256 not in ("", model_sha256(case.folder)):
        return case, replace(NOT_REVIEWED, outdated=True)
    reviewed = Reviewed(state.verdict, state.reviewer, state.at, state.comment, state.author, state.drawn)
    if not (reviewed.edited and state.correction):
        return case, reviewed
    labels = read_labels(predictions, run, case, state.correction)
    return corrected_case(case, labels, reviewed), reviewed


def corrected_case(case: ReportCase, labels: Labels, reviewed: Reviewed) -> CorrectedCase:
    """With masks, areas, numbers and a line that says who corrected it."""
    own: dict[str, Any] = {field.name: getattr(case, field.name) for field in fields(ReportCase)}
    out, label_map = CorrectedCase(**own, labels=labels), labels.label_map
    found = {name: own.model_copy(update=_area(out, label_map, name) | _number(labels, name)) for name, own in case.found.items()}
    told = (f"Corrected by {reviewed.author or 'a reviewer'}, {wording.moment(reviewed.drawn)}.", *case.warnings)
    record = case.record.model_copy(update={"classes": found, "measures": _measures(out, labels), "warnings": told})
    if not case.volume:
        # What was odd in the model's mask is not so in another one.
        record = record.model_copy(update={"flags": tuple(flag for flag in record.flags if not flag.classes)})
    return replace(out, found=found, record=record, warnings=told)


def _area(case: ReportCase, label_map: LabelMap, name: str) -> dict[str, int]:
    if name not in label_map.names or case.planes[0].mask is None:
        return {}
    place = label_map.names.index(name)
    sizes = [int(np.count_nonzero(label_map.layers(case.mask(plane))[place])) for plane in case.planes]
    return {"pixels": sum(sizes), "slices": sum(map(bool, sizes))}


def _number(labels: Labels, name: str) -> dict[str, int]:
    return {} if name in labels.by_pixels else {"objects": sum(one.name == name for one in labels.objects)}


def _measures(case: ReportCase, labels: Labels) -> tuple[MeasureRecord, ...]:
    """Of a picture anew, without the model's intervals. What needs more than masks and surfaces has no number: where the slices of a volume
    lie, or what a B-scan's pattern is, only its file says."""
    from pipeline.measurements.by_role import measure_case  # half of the time that a server of reviews takes to start
    from pipeline.measurements.case import MeasuredCase, encoded
    from pipeline.measurements.surfaces import Surfaces

    plane, label_map = case.planes[0], labels.label_map
    bare = {"value": None, "low": None, "high": None, "undefined": CORRECTED}
    if case.volume or plane.mask is None:
        return tuple(one.model_copy(update=bare) for one in case.record.measures)
    image = case.image(plane)
    pixels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    named = [name for name in label_map.names if name not in labels.by_pixels]
    objects = {name: tuple(one.box for one in labels.objects if one.name == name) for name in named}
    names = label_map.surface_names
    there = names and all(name in labels.surfaces for name in names)
    measured = measure_case(
        MeasuredCase(
            case.geometry,
            label_map,
            encoded(label_map, case.mask(plane)),
            lambda: detect_field_of_view(pixels),
            Surfaces(tuple(names), np.stack([labels.surfaces[name] for name in names])) if there else None,
            objects,
            not objects or have_masks(case),
        )
    )
    known = {one.key for one in measured}
    return (*measured, *(one.model_copy(update=bare) for one in case.record.measures if one.key not in known))
