"""What pictures as wholes are and were said to be: the evidence of a classification task and every score of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.metrics.classification import (
    Floats,
    Ints,
    accuracy,
    answered,
    auroc_of_each,
    balanced_accuracy,
    calibration_error,
    confusions,
    macro_auroc,
    quadratic_kappa,
    sensitivities,
)
from pipeline.types import LabelMap


@dataclass(frozen=True, eq=False)
class GradedPicture:
    """``probabilities`` float32 (G) of what a picture is, and its true ``grade``, 0..G - 1."""

    probabilities: npt.NDArray[np.float32]
    grade: int

    @property
    def answer(self) -> int:
        return int(self.probabilities.argmax())

    @property
    def confidence(self) -> float:
        return float(self.probabilities.max())

    @classmethod
    def of_slices(cls, slices: Sequence[GradedPicture]) -> GradedPicture:
        """A volume: the mean of its slices' probabilities."""
        stacked = np.stack([one.probabilities for one in slices])
        return cls(np.asarray(stacked.mean(axis=0, dtype=np.float64), dtype=np.float32), slices[0].grade)


@dataclass(frozen=True, eq=False)
class GradedSet:
    """N pictures: ``probabilities`` (N, G), ``truth`` (N), and ``least`` (N), the confidence from which on each one's answer is given."""

    probabilities: Floats
    truth: Ints
    least: Floats

    @classmethod
    def of(cls, pictures: Sequence[GradedPicture], label_map: LabelMap, thresholds: Mapping[str, float]) -> GradedSet:
        chances = np.array([one.probabilities for one in pictures], dtype=np.float64).reshape(len(pictures), len(label_map))
        of_class = np.array([thresholds.get(name, 0.0) for name in label_map.names])
        return cls(chances, np.array([one.grade for one in pictures], dtype=np.int64), of_class[chances.argmax(axis=1)])

    @property
    def answer(self) -> Ints:
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def confidence(self) -> Floats:
        # As float32 has it, in which thresholds were chosen and cases are answered.
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.answer == self.truth)

    def confusion(self) -> Floats:
        """(G, G), every picture once."""
        return np.asarray(confusions(self.truth, self.answer, self.probabilities.shape[1], np.ones((1, len(self.truth))))[0])

    def scores(self, label_map: LabelMap, weights: Floats | None = None) -> dict[str, Floats]:
        """Every score by name (``auroc``, ``sensitivity/left``), (D,) for weights (D, N), of which the default is every picture once."""
        weights = np.ones((1, len(self.truth))) if weights is None else weights
        matrix = confusions(self.truth, self.answer, len(label_map), weights)
        of_answered, abstained = answered(self.confidence, self.right, self.least, weights)
        out = {
            "accuracy": accuracy(matrix),
            "balanced_accuracy": balanced_accuracy(matrix),
            "auroc": macro_auroc(self.probabilities, self.truth, weights),
            "calibration_error": calibration_error(self.confidence, self.right, weights),
            "accuracy_answered": of_answered,
            "abstained": abstained,
        }
        if label_map.ordered:
            out["quadratic_kappa"] = quadratic_kappa(matrix)
        for kind, values in (
            ("sensitivity", sensitivities(matrix)),
            ("auroc", auroc_of_each(self.probabilities, self.truth, weights)),
        ):
            out |= {f"{kind}/{name}": values[:, place] for place, name in enumerate(label_map.names)}
        return out
