"""The doubt of a case: one record and one map from what its networks know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.doubt.evidence import Evidence
from pipeline.inference.answers import Answer
from pipeline.inference.assessment import Assessment
from pipeline.scans.raster import write_png
from pipeline.types.assessment import DoubtRecord, FlagRecord

FLAGGED = 0.5
"""From here on a scan is flagged as unlike training: twice the distance that 99 of 100 validation pictures keep. A good photograph of
another camera lies between (docs/results/predicted_dice.md)."""
_LARGEST = 1024
"""Rows and columns of a map as it is kept: finer it would tell no more, and take longer to write than all else that is known of doubt."""
_STEPS = 17
"""Distance of the grey levels in which a map is kept: sixteen take a third of the bytes."""


def doubt_of(evidence: Evidence, answers: Sequence[Answer], planes: int) -> DoubtRecord | None:
    """None where the networks say nothing of pixels and nothing of the whole."""
    predicted = {one.name: round(one.predicted, 4) for one in evidence.classes if one.predicted is not None}
    border = {one.name: round(one.border, 4) for one in evidence.classes if one.border is not None}
    sure = [*predicted.values(), *(float(answer.probabilities.max()) for answer in answers)]
    known = {
        "maps": tuple(f"uncertainty_{plane:03d}.png" for plane in range(planes)) if evidence.uncertainty is not None else (),
        "predicted_dice": predicted,
        "border": border,
        "unlike_training": evidence.unlike,
        "score": score(sure, evidence.unlike),
        "disagreement": None if evidence.disagreement is None else round(evidence.disagreement, 4),
    }
    told = {name: value for name, value in known.items() if value not in (None, (), {})}
    return DoubtRecord(**told) if told else None


def score(sure: Sequence[float], unlike: float | None) -> float | None:
    """0 sure to 1 in doubt: by what is least sure, predicted Dice or confidence of an answer, and by how far the scan is from training."""
    if not sure and unlike is None:
        return None
    return round(min(max(1 - min(sure, default=1.0) * (1 - (unlike or 0.0)), 0.0), 1.0), 4)


def flags_of(doubt: DoubtRecord | None) -> tuple[FlagRecord, ...]:
    """That a scan looks unlike all that the networks were trained on."""
    if doubt is None or (doubt.unlike_training or 0.0) < FLAGGED:
        return ()
    text = "The picture's light, colour, sharpness or shape is unlike that of the training pictures; what was found may be wrong."
    return (FlagRecord(code="unlike_training", text=text),)


def write_maps(folder: Path, assessment: Assessment) -> None:
    """The pictures that ``assessment.doubt.maps`` names, uint8, white where most uncertain, at most 1024 pixels a side."""
    whole, names = assessment.uncertainty, () if assessment.doubt is None else assessment.doubt.maps
    if whole is None:
        return
    for name, plane in zip(names, whole[None] if whole.ndim == 2 else whole, strict=True):
        step = -(-max(plane.shape) // _LARGEST)
        rows, columns = (side // step * step for side in plane.shape)
        small = plane[:rows, :columns].reshape(rows // step, step, columns // step, step).mean(axis=(1, 3), dtype=np.float32)
        write_png(folder / name, (np.rint(small * (255 / _STEPS)) * _STEPS).astype(np.uint8))
