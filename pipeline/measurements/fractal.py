"""Fractal dimension of a mask by box counting: how fast the number of boxes that it needs grows as they shrink."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

LEAST_SIZES = 4
"""Sizes of boxes without which no slope is fitted."""
SMALLEST_BOX = 4.0
"""Pixels: in smaller boxes every line is a line, whatever tree it is part of."""


@dataclass(frozen=True)
class FractalDimension:
    """``value``, and its 95 % interval from the ``standard_error`` of the slope. Counts of neighbouring sizes are not independent: another
    photograph of the same eye differs by more."""

    value: float
    low: float
    high: float
    standard_error: float


def fractal_dimension(mask: npt.NDArray[np.bool_]) -> FractalDimension | None:
    """Slope of log(boxes that hold a pixel of a mask bool (H, W)) over log(boxes along a side), by least squares.

    4, 6, 8, 11, 16, ... boxes go along the longer side of the mask's bounding box, each time about the square root of 2 times as many,
    down to boxes of SMALLEST_BOX pixels. None where these are fewer than LEAST_SIZES sizes, as of an empty mask.
    """
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return None
    rows, columns = rows - rows.min(), columns - columns.min()
    longest = int(max(rows.max(), columns.max())) + 1
    along = [n for n in (round(4 * math.sqrt(2) ** k) for k in range(30)) if longest / n >= SMALLEST_BOX]
    if len(along) < LEAST_SIZES:
        return None
    counts = []
    for n in along:
        held = np.zeros((n, n), dtype=bool)
        held[(rows * n) // longest, (columns * n) // longest] = True
        counts.append(int(held.sum()))
    slope, error = _line(np.log(along), np.log(counts))
    reach = float(stdtrit(len(along) - 2, 0.975)) * error
    return FractalDimension(slope, slope - reach, slope + reach, error)


def _line(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Slope of the line of least squares, and its standard error. SciPy's own takes half a second to import."""
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    return slope, math.sqrt(float(rest @ rest) / (len(x) - 2) / float(x @ x))
