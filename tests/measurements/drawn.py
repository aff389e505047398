"""Vessels drawn pixel by pixel: what lies within half a calibre of a line."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def tubes(lines: Iterable[tuple[Floats, float]], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Mask bool of lines (n, 2), each with its calibre in pixels."""
    mask = np.zeros(shape, dtype=bool)
    for line, calibre in lines:
        for a, b in pairwise(line):
            low = np.floor(np.minimum(a, b) - calibre).astype(int).clip(0)
            high = np.ceil(np.maximum(a, b) + calibre).astype(int) + 1
            rows, columns = np.ogrid[low[0] : min(high[0], shape[0]), low[1] : min(high[1], shape[1])]
            along = b - a
            part = (((rows - a[0]) * along[0] + (columns - a[1]) * along[1]) / max(along @ along, 1e-12)).clip(0, 1)
            far = np.hypot(rows - a[0] - part * along[0], columns - a[1] - part * along[1])
            mask[low[0] : high[0], low[1] : high[1]] |= far <= calibre / 2
    return mask


def turned(line: Floats, degrees: float, centre: tuple[float, float]) -> Floats:
    """A line (n, 2) about its middle, which comes to lie at ``centre``."""
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (line - line.mean(axis=0)) @ matrix.T + centre


def ray(start: tuple[float, float], degrees: float, length: float) -> Floats:
    """A straight line from ``start`` (row, column), of two points; 0 degrees: to the right, 90: downwards."""
    angle = np.radians(degrees)
    return np.array([start, (start[0] + length * np.sin(angle), start[1] + length * np.cos(angle))])
