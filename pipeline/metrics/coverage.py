"""Whether doubt is worth its name: the mean score of the cases that are kept, when those most in doubt are left to a person first.

Area under the risk-coverage curve: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017,
arXiv:1705.08500.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.metrics.classification import auroc

Floats = npt.NDArray[np.float64]

LOW = 0.7
"""A Dice below this is not good enough to be used as it is."""


@dataclass(frozen=True, eq=False)
class CoverageRisk:
    """``coverage`` (N): fraction of the cases that is kept, 1/N to 1 · ``score`` (N): their mean score · ``area``: mean of 1 - score over
    all coverages · ``best``, ``random``: what it would be if doubt knew the scores, and if it knew nothing."""

    coverage: Floats
    score: Floats
    area: float
    best: float
    random: float

    @classmethod
    def of(cls, doubt: npt.ArrayLike, scores: npt.ArrayLike) -> CoverageRisk:
        """Of N cases, at least one. Cases in equal doubt stand in no order: each counts as their mean.

        Raises
        ------
        ValueError: not one doubt for each score, or no case.
        """
        doubts, values = np.asarray(doubt, np.float64), np.asarray(scores, np.float64)
        if doubts.shape != values.shape or doubts.ndim != 1 or not len(doubts):
            raise ValueError(f"doubt {doubts.shape} and scores {values.shape} must be one each of at least one case")
        _, places, numbers = np.unique(doubts, return_inverse=True, return_counts=True)
        shared = (np.bincount(places, values) / numbers)[places]
        kept = _means_of_first(shared[np.argsort(doubts, kind="stable")])
        best = _means_of_first(np.sort(values)[::-1])
        number = len(values)
        return cls(np.arange(1, number + 1) / number, kept, float(1 - kept.mean()), float(1 - best.mean()), float(1 - values.mean()))


def finds_low(predicted: npt.ArrayLike, scores: npt.ArrayLike, low: float = LOW, weights: Floats | None = None) -> Floats:
    """AUROC of the predicted score for "the true one is below ``low``", (D,) for weights (D, N), by default every case once; NaN where
    no case, or every one, is below."""
    guesses, values = np.asarray(predicted, np.float64), np.asarray(scores, np.float64)
    return auroc(-guesses, values < low, np.ones((1, len(values))) if weights is None else weights)


def _means_of_first(values: Floats) -> Floats:
    return np.asarray(np.cumsum(values) / np.arange(1, len(values) + 1))
