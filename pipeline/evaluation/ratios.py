"""The vertical cup-to-disc ratio of a bundle against the reference mask's, wherever both classes are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.summary import by_patient, mean_of
from pipeline.measurements.disc import VERTICAL, disc_and_cup, vcdr
from pipeline.types import CaseKey, Measure


@dataclass(frozen=True)
class CupRatio:
    """One picture: the ratio found and the reference's."""

    case: CaseKey
    found: Measure
    reference: Measure

    @property
    def error(self) -> float | None:
        """Found less reference; None where one of them is undefined."""
        return None if self.found.value is None or self.reference.value is None else self.found.value - self.reference.value

    @property
    def undefined(self) -> str:
        """Why there is no error, or ""."""
        reasons = [("prediction", self.found.undefined), ("reference", self.reference.undefined)]
        return "; ".join(f"{side}: {reason}" for side, reason in reasons if reason is not None)


def cup_ratio(case: CaseKey, names: Sequence[str], predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> CupRatio | None:
    """The ratios of one picture's layers (K, H, W); None where the classes are not disc and cup, or the layers are of a volume."""
    places = disc_and_cup(names)
    if places is None or predicted.ndim != 3:
        return None
    disc, cup = places
    return CupRatio(case, vcdr(predicted[disc], predicted[cup]), vcdr(truth[disc], truth[cup]))


def ratio_table(ratios: Sequence[CupRatio]) -> list[list[str]]:
    """``vcdr.csv``: a heading, then one line a picture; an undefined number is an empty cell."""
    lines = [["case", "patient", "vcdr", "vcdr_reference", "absolute_error", "undefined"]]
    for ratio in ratios:
        values = (ratio.found.value, ratio.reference.value, None if ratio.error is None else abs(ratio.error))
        cells = ["" if value is None else f"{value:.6f}" for value in values]
        lines.append([str(ratio.case), ratio.case.patient, *cells, ratio.undefined])
    return lines


def summarise_ratios(ratios: Sequence[CupRatio]) -> dict[str, Any]:
    """The value of ``summary["vcdr"]``: mean absolute error and bias (found less reference), with intervals over patients."""
    reasons = Counter(ratio.undefined for ratio in ratios if ratio.undefined)
    known = [(ratio.case.patient, ratio.error) for ratio in ratios if ratio.error is not None]
    return {
        "definition": VERTICAL,
        "mean_absolute_error": mean_of(by_patient((patient, abs(error)) for patient, error in known)) | {"undefined": dict(reasons)},
        "bias": mean_of(by_patient(known)) | {"undefined": dict(reasons)},
    }
