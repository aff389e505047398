"""What whole pictures were said to be against what they are: a row a picture, scores with intervals over patients, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.drawing.grades import draw_confusion, draw_reliability
from pipeline.evaluation.summary import DRAWS, LEVEL, SEED
from pipeline.metrics.grades import GradedPicture, GradedSet
from pipeline.metrics.interval import patient_weights, percentile_interval
from pipeline.types import CaseKey, LabelMap

DEFINITIONS = {
    "accuracy": "fraction of pictures whose most probable class is the true one",
    "balanced_accuracy": "mean over classes of the fraction of their pictures that is answered right",
    "auroc": "area under the ROC curve of each class against the rest, mean over classes",
    "quadratic_kappa": "Cohen's kappa of ordered grades with quadratic weights",
    "calibration_error": "mean distance of confidence and the fraction that is right, in ten ranges of confidence",
    "accuracy_answered": "fraction that is right of the pictures whose confidence reaches the threshold",
    "abstained": "fraction of pictures whose confidence does not reach the threshold, so that they stay unanswered",
}


@dataclass(frozen=True, eq=False)
class ScoredPicture:
    """One picture or volume, its true grade in the bundle's classes."""

    case: CaseKey
    picture: GradedPicture
    sha256: str


def grade_table(scored: Sequence[ScoredPicture], label_map: LabelMap, thresholds: Mapping[str, float]) -> list[list[str]]:
    """``grades.csv``: a heading, then one line a picture; ``answer`` is empty where the confidence is below the threshold."""
    names = label_map.names
    lines = [["case", "patient", "truth", "most_probable", "answer", "confidence", *(f"p_{name}" for name in names), "sha256"]]
    for one in scored:
        best = names[one.picture.answer]
        given = best if one.picture.confidence >= thresholds.get(best, 0.0) else ""
        chances = [f"{chance:.6f}" for chance in one.picture.probabilities]
        true = names[one.picture.grade]
        lines.append([str(one.case), one.case.patient, true, best, given, f"{one.picture.confidence:.6f}", *chances, one.sha256])
    return lines


def summarise_grades(
    scored: Sequence[ScoredPicture], label_map: LabelMap, thresholds: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.uint8]]]:
    """The value of ``summary["grades"]``, and pictures by file name.

    ``scores`` by name: ``value`` (None where it is undefined), ``low`` and ``high`` (95 %, patients drawn with replacement; None with
    fewer than FEWEST_PATIENTS) · ``confusion``: pictures of each true class (rows) by their most probable class, in the order of
    ``names`` · ``definitions``.
    """
    known = GradedSet.of([one.picture for one in scored], label_map, thresholds)
    patients = [one.case.patient for one in scored]
    values, weights = known.scores(label_map), patient_weights(patients, DRAWS, SEED)
    draws = {} if weights is None else known.scores(label_map, weights)
    scores = {}
    for name, (value,) in values.items():
        interval = percentile_interval(draws[name], LEVEL) if draws and not np.isnan(value) else None
        low, high = interval if interval is not None else (None, None)
        scores[name] = {"value": None if np.isnan(value) else float(value), "low": low, "high": high}
    matrix = known.confusion()
    summary = {
        "images": len(scored),
        "patients": len(set(patients)),
        "names": list(label_map.names),
        "ordered": label_map.ordered,
        "scores": scores,
        "confusion": matrix.astype(int).tolist(),
        "definitions": {name: text for name, text in DEFINITIONS.items() if name in scores},
    }
    error = float(values["calibration_error"][0])
    pictures = {
        "confusion.png": draw_confusion(matrix, label_map.names),
        "reliability.png": draw_reliability(known.confidence, known.right, error),
    }
    return summary, pictures


def grade_numbers(grades: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(score, of what, value with its interval): the class, or all of them."""
    for name, found in grades["scores"].items():
        score, _, of = name.partition("/")
        yield score, of or "all", found
