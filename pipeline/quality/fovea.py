"""Whether the fovea is in view, from the optic disc and the eye: where it lies beside the disc varies little from eye to eye.

Its distance from the disc's centre is 2.65 +- 0.30 disc diameters (Jonas et al. 2015, doi:10.1371/journal.pone.0138701), temporally and
7.76 +- 3.63 degrees below the disc's centre (Jonas et al. 2015, doi:10.1371/journal.pone.0141771); 2,836 and 3,052 people of Beijing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.types.scan import Laterality

DISTANCE, ANGLE = (2.65, 0.30), (7.76, 3.63)
"""Mean and standard deviation: disc diameters, and degrees below the horizontal."""
DIAMETER_ERROR = 0.1
"""Of the diameter of a disc that a network outlined, relative; it adds to how much the distance varies."""
_STEPS = np.linspace(-2, 2, 17)

Mask = npt.NDArray[np.bool_]


def fovea_in_view(centre: tuple[float, float], diameter: float, eye: Laterality, field: Mask) -> float:
    """Chance that the fovea of an eye lies in a field of view bool (H, W) of an upright photograph, whose optic disc has this centre
    (row, column) and ``diameter`` in pixels."""
    deviation = float(np.hypot(DISTANCE[1], DIAMETER_ERROR * DISTANCE[0]))
    away = (DISTANCE[0] + deviation * _STEPS[:, None]) * diameter
    below = np.deg2rad(ANGLE[0] + ANGLE[1] * _STEPS[None])
    temporal = -1 if eye == "R" else 1  # the disc of a right eye lies on the right, as the photograph is seen
    rows = np.rint(centre[0] + away * np.sin(below)).astype(np.int64)
    columns = np.rint(centre[1] + temporal * away * np.cos(below)).astype(np.int64)
    weights = np.exp(-(_STEPS[:, None] ** 2 + _STEPS[None] ** 2) / 2)
    in_picture = (rows >= 0) & (rows < field.shape[0]) & (columns >= 0) & (columns < field.shape[1])
    seen = np.zeros(rows.shape, dtype=bool)
    seen[in_picture] = field[rows[in_picture], columns[in_picture]]
    return float((weights * seen).sum() / weights.sum())
