"""A predicted case as measurements see it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.inference.case_files import CaseResult
from pipeline.measurements.case import Alternative, Box, Lean, MeasuredCase, encoded
from pipeline.metrics.threshold import ODDS
from pipeline.scans.field_of_view import field_of_view
from pipeline.scans.place import SIDE_CONFLICT
from pipeline.types import Scan
from pipeline.types.quality import withheld
from pipeline.types.scan import SlicesRun

_ALONG = 0.7
"""Cosine of the angle between two directions that count as one: up to 45 degrees."""
LEANS: tuple[Lean, Lean] = (-1, 1)
SPREAD = f"the result and what it would be if the model had to be {ODDS:g} times as sure, or a third as sure, by its odds"


def measured_case(result: CaseResult) -> MeasuredCase:
    """Without the numbers of what its quality and flags withhold, and without a side that is in doubt."""
    scan, label_map = without_doubtful_side(result), result.label_map
    objects: dict[str, tuple[Box, ...]] = {}
    if result.found is not None:
        counted = {cls.name: result.found.counted(cls) for cls in label_map.classes if cls.name in result.found.thresholds}
        objects = {name: tuple(found.box for _, found in own) for name, own in counted.items()}
    return MeasuredCase(
        scan.geometry,
        label_map,
        encoded(label_map, result.mask),
        lambda: field_of_view(scan),
        result.surfaces,
        objects,
        result.found is None or result.found.has_masks,
        withheld(result.assessment.quality, result.assessment.flags, label_map.names),
        scan.pattern,
        slices_run(scan),
        tuple(Alternative(encoded(label_map, mask), lean) for mask, lean in zip(result.leaning, LEANS, strict=False)),
        SPREAD,
    )


def without_doubtful_side(result: CaseResult) -> Scan:
    """The scan, of no known eye where a flag says that its side is in doubt."""
    scan = result.scan
    if all(flag.code != SIDE_CONFLICT for flag in result.assessment.flags):
        return scan
    return replace(scan, geometry=replace(scan.geometry, laterality=None, laterality_source="unknown"))


def slices_run(scan: Scan) -> SlicesRun:
    """As the file states it, or as the places of a volume's slices in the patient do, where A-scans run into the eye (posterior), columns
    to the patient's left, as a photograph shows the eye, and slices up or down: other places are not those of an eye that looks ahead."""
    affine = scan.geometry.affine
    if scan.slices_run != "unknown" or affine is None or len(scan.geometry.shape) != 3 or scan.modality != "oct":
        return scan.slices_run
    columns, rows, slices = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in range(3))
    if columns[0] < _ALONG or rows[1] < _ALONG or abs(slices[2]) < _ALONG:
        return "unknown"
    return "up" if slices[2] > 0 else "down"
