"""How far a case may be believed, and what is measured of it: one step after the other, each knowing what those before it said.

It runs once a case, in a writer's thread, after all networks have looked at the scan.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.inference.case_files import CaseResult
from pipeline.inference.doubts import doubt_of, flags_of
from pipeline.inference.measured_case import measured_case
from pipeline.measurements.by_role import measure_case
from pipeline.quality.judge import Opinion, judge

_PARTS = (np.arange(256) / 255).astype(np.float16)
"""0..255 as 0..1."""


def assess(result: CaseResult) -> CaseResult:
    """The case with its :class:`Assessment`."""
    opinions = [Opinion(dict(zip(one.names, map(float, one.probabilities), strict=True))) for one in result.answers]
    quality, flags = judge(result.scan, result.label_map, result.mask, result.surfaces, opinions)
    result = replace(result, assessment=replace(result.assessment, quality=quality, flags=(*result.assessment.flags, *flags)))
    result = _doubted(result)
    measures = measure_case(measured_case(result))
    return replace(result, assessment=replace(result.assessment, measures=measures))


def _doubted(result: CaseResult) -> CaseResult:
    found = result.evidence
    doubt = doubt_of(found, result.answers, result.scan.geometry.slices)
    uncertainty = None if found.uncertainty is None else _PARTS[found.uncertainty]
    flags = (*result.assessment.flags, *flags_of(doubt))
    return replace(result, assessment=replace(result.assessment, doubt=doubt, uncertainty=uncertainty, flags=flags))
