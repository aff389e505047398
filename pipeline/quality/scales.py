"""From measured values to scores of 0 to 1, and from the worst score to a grade.

A scale gives the values at which a picture stops to be good, usable and measurable; between them it is linear. The values were chosen on
part of the photographs of public sets, as they are and spoilt by known amounts; docs/results/quality.md has the rates on the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.types.assessment import QualityGrade

GOOD, USABLE, POOR = 0.75, 0.5, 0.25
"""Lowest scores of these grades; below is not measurable."""


@dataclass(frozen=True)
class Scale:
    """Values that score 1, 0.75 (the least of good), 0.5 (of usable), 0.25 (of poor) and 0, rising or falling."""

    best: float
    good: float
    usable: float
    poor: float
    worst: float

    def score(self, value: float) -> float:
        values: tuple[float, ...] = (self.worst, self.poor, self.usable, self.good, self.best)
        if self.worst > self.best:
            values, value = tuple(-v for v in values), -value
        return float(np.interp(value, values, (0.0, POOR, USABLE, GOOD, 1.0)))


def grade_of(worst: float) -> QualityGrade:
    """The grade of a picture by its worst score."""
    return "good" if worst >= GOOD else "usable" if worst >= USABLE else "poor" if worst >= POOR else "not_measurable"


def graded_words(scores: Mapping[str, float], words: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """A sentence for each score below good, the worst first: ``words`` holds two of each, the second for what cannot be measured."""
    low = sorted((score, name) for name, score in scores.items() if score < GOOD)
    return tuple(words[name][score < POOR] for score, name in low)
