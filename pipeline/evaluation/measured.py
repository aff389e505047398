"""What is measured of masks (the vertical cup-to-disc ratio), found against the reference, wherever the classes allow it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.summary import by_patient, mean_of
from pipeline.measurements.by_role import OF_MASKS, MaskMeasurement
from pipeline.types import CaseKey, LabelMap, Measure


@dataclass(frozen=True)
class Measured:
    """One measurement of one picture: the value found and the reference's."""

    case: CaseKey
    of: MaskMeasurement
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


def measure_masks(case: CaseKey, label_map: LabelMap, predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> Iterator[Measured]:
    """Every measurement that the classes of a picture's layers (K, H, W) allow; none of a volume."""
    for of in OF_MASKS if predicted.ndim == 3 else ():
        if places := list(of.places(label_map)):
            yield Measured(case, of, of.measure(*predicted[places]), of.measure(*truth[places]))


def measured_table(of: MaskMeasurement, measured: Sequence[Measured]) -> list[list[str]]:
    """``vcdr.csv``: a heading, then one line a picture; an undefined number is an empty cell."""
    lines = [["case", "patient", of.name, f"{of.name}_reference", "absolute_error", "undefined"]]
    for one in measured:
        values = (one.found.value, one.reference.value, None if one.error is None else abs(one.error))
        cells = ["" if value is None else f"{value:.6f}" for value in values]
        lines.append([str(one.case), one.case.patient, *cells, one.undefined])
    return lines


def summarise_measured(of: MaskMeasurement, measured: Sequence[Measured]) -> dict[str, Any]:
    """The value of ``summary["vcdr"]``: mean absolute error and bias (found less reference), with intervals over patients."""
    reasons = Counter(one.undefined for one in measured if one.undefined)
    known = [(one.case.patient, one.error) for one in measured if one.error is not None]
    return {
        "definition": of.definition,
        "mean_absolute_error": mean_of(by_patient((patient, abs(error)) for patient, error in known)) | {"undefined": dict(reasons)},
        "bias": mean_of(by_patient(known)) | {"undefined": dict(reasons)},
    }
