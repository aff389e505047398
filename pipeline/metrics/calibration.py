"""What the probabilities of pixels are worth: counted by value, brought to what is true by a temperature, and their expected error.

Millions of pixels of many images become one table: how many had each probability, as float16 has it, and how many of those are truly of
the class. A temperature, an error and an expected overlap are sums over that table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.classification import calibration_error, fit_temperature, tempered

Floats = npt.NDArray[np.float64]

CODES = 0x3C01
"""float16 from 0 to 1 is as many numbers, whose bits count up from 0."""
VALUES: Floats = np.arange(CODES, dtype=np.uint16).view(np.float16).astype(np.float64)


def codes(chances: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint16]:
    """Probabilities 0..1 of any shape as places in :data:`VALUES`."""
    return np.asarray(np.ascontiguousarray(chances, dtype=np.float16).view(np.uint16) & 0x7FFF)  # without the sign of -0


def counted(values: npt.NDArray[np.uint16]) -> Floats:
    """(CODES,): how many of ``values`` (:func:`codes`) are each."""
    return np.bincount(values.ravel(), minlength=CODES).astype(np.float64)


def calibrated(temperature: float) -> Floats:
    """(CODES,): each of :data:`VALUES` with its log odds divided by ``temperature``; what is certainly not there stays so."""
    if temperature == 1:
        return VALUES
    return np.asarray(np.where(VALUES > 0, tempered(np.stack([1 - VALUES, VALUES], axis=1), temperature)[:, 1], 0.0))


class PixelReliability:
    """Of one class: pixels by their probability, those of the class (``true``) and the others (``false``), each (CODES,)."""

    def __init__(self) -> None:
        self.true, self.false = np.zeros(CODES), np.zeros(CODES)

    def add(self, chance: npt.NDArray[np.floating[Any]], truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> None:
        """One image: probabilities, what is true, and where that is known (inside the field of view), of one shape."""
        own = codes(chance)
        self.true += counted(own[truth & known])
        self.false += counted(own[known & ~truth])

    def include(self, other: PixelReliability) -> None:
        """Pixels of further images."""
        self.true += other.true
        self.false += other.false

    def temperature(self) -> float:
        """What log odds are to be divided by to be likeliest; 1 where one of the two kinds of pixels was never seen."""
        if not (self.true.any() and self.false.any()):
            return 1.0
        there = np.concatenate([self.false, self.true]) > 0
        pairs = np.tile(np.stack([1 - VALUES, VALUES], axis=1), (2, 1))[there]
        weights = np.concatenate([self.false, self.true])[there]
        return fit_temperature(pairs, np.repeat([0, 1], CODES)[there], weights)

    def error(self, temperature: float = 1.0) -> float | None:
        """Expected calibration error: distance of probability and fraction that is true, in ten ranges of probability, by their pixels;
        None without pixels."""
        weights = np.concatenate([self.false, self.true])
        if not weights.any():
            return None
        claimed = np.tile(calibrated(temperature), 2)
        return float(calibration_error(claimed, np.repeat([False, True], CODES), weights[None])[0])
