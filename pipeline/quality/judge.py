"""Gate before numbers: the quality of a scan, and whether what was found in it can be true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from pipeline.measurements.surfaces import Surfaces
from pipeline.quality.bscan import bscan_quality
from pipeline.quality.findings import fovea_chance, photograph_flags
from pipeline.quality.grade import photograph_quality
from pipeline.quality.layers import layer_flags
from pipeline.quality.view import view_of
from pipeline.scans.field_of_view import field_of_view
from pipeline.types import LabelMap, Modality, Scan
from pipeline.types.assessment import FlagRecord, QualityGrade, QualityRecord
from pipeline.types.label import VESSELS

_GRADES: tuple[QualityGrade, ...] = get_args(QualityGrade)
_PHOTOGRAPH = {"optic_disc", "optic_cup", *VESSELS, "fovea", "right_eye", "left_eye"}
SURE = 0.8
"""From this probability on a network's opinion on the picture counts."""
FOVEA_SCORE, FOVEA_UNSEEN = "fovea_in_view", "The fovea may lie outside the field of view, by the place and size of the optic disc."
KINDS = {"fundus": "a fundus photograph", "oct": "an OCT scan", "octa": "an OCT angiography", "slo": "a laser ophthalmoscopy"}


@dataclass(frozen=True)
class Opinion:
    """What a network says of a picture as a whole: the probability of each class, by name. One whose classes are grades of quality, or
    kinds of pictures and "other" (data_cards/quality.md and picture_kind.md), is a second opinion."""

    chances: Mapping[str, float]

    @property
    def best(self) -> tuple[str, float]:
        return max(self.chances.items(), key=lambda pair: pair[1])


def judge(
    scan: Scan, label_map: LabelMap, mask: npt.NDArray[np.unsignedinteger], surfaces: Surfaces | None, opinions: Iterable[Opinion] = ()
) -> tuple[QualityRecord, tuple[FlagRecord, ...]]:
    """Quality of a scan, and flags on the ``mask`` (in the encoding of ``label_map``) and ``surfaces`` that were found in it."""
    kind = judged_as(scan, label_map)
    flags: list[FlagRecord] = []
    if kind == "fundus":
        view = view_of(scan.pixels, field_of_view(scan) if scan.pixels.dtype == np.uint8 else None)
        quality = photograph_quality(view)
        if label_map.classes:
            layers = label_map.layers(mask)
            flags += photograph_flags(label_map, layers, view.valid)
            believed = not any(flag.code.startswith("disc_") for flag in flags)
            if believed and scan.geometry.laterality is not None:
                quality = with_fovea(quality, fovea_chance(label_map, layers, view.valid, scan.geometry.laterality))
    elif kind == "oct":
        quality = bscan_quality(scan.pixels)
    else:
        quality = plain_quality(scan.pixels, kind)
    if surfaces is not None:
        flags += layer_flags(surfaces, label_map, scan.geometry)
    for opinion in opinions:
        quality = with_opinion(quality, opinion, kind)
    return quality, tuple(flags)


def with_fovea(quality: QualityRecord, chance: float | None) -> QualityRecord:
    """With the chance that the fovea is in view, where it is known. It changes no grade: a photograph of the disc is as good without it."""
    if chance is None or quality.grade == "not_measurable":
        return quality
    unseen = () if chance >= 0.5 else (FOVEA_UNSEEN,)
    return quality.model_copy(update={"reasons": (*quality.reasons, *unseen), "scores": {**quality.scores, FOVEA_SCORE: round(chance, 4)}})


def without_fovea(quality: QualityRecord) -> QualityRecord:
    """What is left of it where the eye, from which the fovea's place follows, turns out to be in doubt."""
    reasons = tuple(reason for reason in quality.reasons if reason != FOVEA_UNSEEN)
    return quality.model_copy(
        update={"reasons": reasons, "scores": {name: score for name, score in quality.scores.items() if name != FOVEA_SCORE}}
    )


def judged_as(scan: Scan, label_map: LabelMap) -> Modality:
    """What kind of scan it is: as its file says, else by what is sought in it, else by its colours."""
    if scan.modality != "unknown":
        return "unknown" if scan.modality == "fundus" and scan.pixels.ndim == 4 else scan.modality
    if label_map.layered:
        return "oct"
    if scan.pixels.ndim == 3 and (len(scan.pixels) == 3 or _PHOTOGRAPH & set(label_map.roles)):
        return "fundus"
    return "unknown"


def plain_quality(pixels: npt.NDArray[np.generic], kind: Modality) -> QualityRecord:
    """Of a kind of scan for which nothing but an empty picture can be told."""
    values = pixels[..., ::4, ::4].astype(np.float64)
    span = float(np.ptp(np.percentile(values, (1, 99)))) if np.isfinite(values).all() else 1.0
    if span <= 0:
        return QualityRecord(grade="not_measurable", reasons=("The picture is empty.",), scores={"contrast": 0.0})
    what = KINDS.get(kind, "a scan of unknown kind")
    return QualityRecord(
        grade="usable", reasons=(f"The quality of {what} is not judged, but for empty pictures.",), scores={"contrast": 1.0}
    )


def with_opinion(quality: QualityRecord, opinion: Opinion, kind: Modality) -> QualityRecord:
    """The worse of what was measured and what a network is sure of."""
    name, chance = opinion.best
    if chance < SURE:
        return quality
    grade: QualityGrade
    if name == "poor" and set(opinion.chances) <= set(_GRADES):
        grade, reason = "poor", "A network that grades photographs calls it poor."
    elif (
        "other" in opinion.chances
        and set(opinion.chances) <= {"other", *KINDS}
        and name not in (kind, *(() if kind != "unknown" else KINDS))
    ):
        what = KINDS.get(name, "no picture of an eye's inside")
        grade, reason = "not_measurable", f"A network that tells kinds of pictures apart takes it for {what}."
    else:
        return quality
    worse = max(quality.grade, grade, key=_GRADES.index)
    first, rest = ((reason,), quality.reasons) if worse != quality.grade else (quality.reasons, (reason,))
    return quality.model_copy(update={"grade": worse, "reasons": (*first, *rest)})
