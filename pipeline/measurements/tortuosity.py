"""How tortuous a line is, by three definitions that differ in what they see.

Arc over chord sees one wide bow as well as many small waves; total squared curvature sees sharp bends; the inflection-count metric sees how
often a line turns the other way. None depends on where the line lies, how it is turned, or from which end it is followed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_TURN_DEG = 10.0
"""A line turns the other way where it does so by at least this angle: less is the grid of pixels."""


@dataclass(frozen=True)
class Tortuosity:
    """``arc_chord``: length of the line / distance of its ends, at least 1 (Hart et al. 1999) · ``curvature``: the square of the curvature
    along the line, over its length, in 1/px2 (Hart et al. 1999) · ``inflections``: how often it turns the other way ·
    ``inflection_count``: (inflections + 1) x arc_chord (Bullitt et al. 2003)."""

    arc_chord: float
    curvature: float
    inflections: int

    @property
    def inflection_count(self) -> float:
        return (self.inflections + 1) * self.arc_chord


def tortuosity(points: Floats, trim: int = 0) -> Tortuosity | None:
    """Of a smooth line (n, 2) of about equal steps, n at least 5; ``trim`` points at both ends do not count for curvature, where a line
    that was smoothed has been held. None of a line that comes back to where it began, which has no chord."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    length, chord = float(steps.sum()), float(np.hypot(*(points[-1] - points[0])))
    if chord < 1e-6 * length or length == 0:
        return None
    turns = _turns(points)[trim : len(points) - 2 - trim]
    reach = ((steps[:-1] + steps[1:]) / 2)[trim : len(points) - 2 - trim]
    squared = float((turns**2 / reach).sum() / reach.sum()) if len(reach) else 0.0
    return Tortuosity(length / chord, squared, _inflections(turns))


def _turns(points: Floats) -> Floats:
    """Angle in radians by which the line turns at each inner point (n - 2)."""
    along = np.diff(points, axis=0)
    heading = np.unwrap(np.arctan2(along[:, 0], along[:, 1]))
    return np.diff(heading)


def _inflections(turns: Floats) -> int:
    """Changes of direction between one turn of LEAST_TURN_DEG or more and the next."""
    least, count, side = np.deg2rad(LEAST_TURN_DEG), 0, 0
    heading = np.concatenate([[0.0], np.cumsum(turns)])
    low = high = heading[0]
    for angle in heading.tolist():
        low, high = min(low, angle), max(high, angle)
        if side >= 0 and high - angle >= least:  # it turned back from its furthest
            count, side, low = count + (side > 0), -1, angle
        elif side <= 0 and angle - low >= least:
            count, side, high = count + (side < 0), 1, angle
    return count
