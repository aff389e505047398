"""The types every part of ocuseg speaks: frozen, checked when made, always valid.

Arrays are numpy wherever data is in the SOURCE frame (Scan, Prediction) and torch wherever a network is near (Target, Batch).
Nothing here imports torch or any reader, so that the command line stays quick.
"""

from __future__ import annotations

from pipeline.types.label import IGNORE, VESSELS, LabelClass, LabelMap, Role
from pipeline.types.progress import ProgressCallback, duration, no_progress
from pipeline.types.result import Measure, Prediction, Unit
from pipeline.types.sample import PARTS, Batch, EvaluatedPart, OnDisk, Part, Placement, Target
from pipeline.types.scan import (
    CaseKey,
    Geometry,
    Laterality,
    LateralitySource,
    Modality,
    NiftiFrame,
    PatientSource,
    Scan,
    SeriesSlice,
    Spacing,
    SpacingSource,
    known_spacing,
)

__all__ = [
    "IGNORE",
    "PARTS",
    "VESSELS",
    "Batch",
    "CaseKey",
    "EvaluatedPart",
    "Geometry",
    "LabelClass",
    "LabelMap",
    "Laterality",
    "LateralitySource",
    "Measure",
    "Modality",
    "NiftiFrame",
    "OnDisk",
    "Part",
    "PatientSource",
    "Placement",
    "Prediction",
    "ProgressCallback",
    "Role",
    "Scan",
    "SeriesSlice",
    "Spacing",
    "SpacingSource",
    "Target",
    "Unit",
    "duration",
    "known_spacing",
    "no_progress",
]
