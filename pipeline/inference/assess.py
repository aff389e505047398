"""How far a case may be believed, and what is measured of it: one step after the other, each knowing what those before it said.

It runs once a case, after all networks have looked at the scan: in a writer's thread, or in a process of its own (inference/assessors.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.cards.objects import Objects
from pipeline.inference.case_files import CaseResult
from pipeline.inference.doubts import doubt_of, flags_of
from pipeline.inference.measured_case import measured_case, without_doubtful_side
from pipeline.measurements.by_role import measure_case
from pipeline.quality.judge import Opinion, judge

_PARTS = (np.arange(256) / 255).astype(np.float16)
"""0..255 as 0..1."""


def assess(result: CaseResult) -> CaseResult:
    """The case with its :class:`Assessment`."""
    opinions = [Opinion(dict(zip(one.names, map(float, one.probabilities), strict=True))) for one in result.answers]
    quality, flags = judge(without_doubtful_side(result), result.label_map, _outlined(result), result.surfaces, opinions)
    result = replace(result, assessment=replace(result.assessment, quality=quality, flags=(*result.assessment.flags, *flags)))
    result = _doubted(result)
    measures = measure_case(measured_case(result))
    return replace(result, assessment=replace(result.assessment, measures=measures))


def _outlined(result: CaseResult) -> npt.NDArray[np.unsignedinteger]:
    """The mask of a picture; where boxes alone were found, with the ellipses inscribed in those that count, so that no disc is missed."""
    if result.found is None or result.scan.pixels.ndim != 3:
        return result.mask
    boxes = [one for cls in result.label_map.classes for _, one in result.found.counted(cls) if one.mask is None]
    if not boxes:
        return result.mask
    drawn = Objects.make(result.scan.geometry.plane, [one.box for one in boxes], [one.label for one in boxes]).with_ellipses()
    marked = drawn.codes(result.label_map)
    mask = result.mask | marked if result.label_map.overlapping else np.where(result.mask > 0, result.mask, marked)
    return mask.astype(result.mask.dtype)


def _doubted(result: CaseResult) -> CaseResult:
    found = result.evidence
    doubt = doubt_of(found, result.answers, result.scan.geometry.slices)
    uncertainty = None if found.uncertainty is None else _PARTS[found.uncertainty]
    flags = (*result.assessment.flags, *flags_of(doubt))
    return replace(result, assessment=replace(result.assessment, doubt=doubt, uncertainty=uncertainty, flags=flags))
