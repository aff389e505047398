"""Rings around the optic disc in which vessels are compared between eyes.

Zone B lies 0.5 to 1 disc diameter from the disc's margin (Hubbard et al. 1999, the ARIC study), zone C 0.5 to 2 (Cheung et al. 2010).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ZONES = {"b": (0.5, 1.0), "c": (0.5, 2.0)}
"""Disc diameters from the disc's margin."""
ZONE_SOURCE = "zone B: Hubbard et al., Ophthalmology 106:2269, 1999, doi:10.1016/S0161-6420(99)90525-0; zone C: Cheung et al., \
Microcirculation 17:495, 2010, doi:10.1111/j.1549-8719.2010.00048.x"
LEAST_SEEN = 0.5
"""Fraction of a ring that must be in the field of view."""


@dataclass(frozen=True, eq=False)
class Ring:
    """``area`` bool (H, W): what of it is in the field of view · ``seen``: as a fraction of all of it · radii in pixels from ``centre``."""

    area: BoolArray
    seen: float
    centre: tuple[float, float]
    inner: float
    outer: float

    def holds(self, points: Floats) -> BoolArray:
        """Which of points (n, 2) lie in it."""
        far = np.hypot(*(points - self.centre).T)
        inside: BoolArray = (far >= self.inner) & (far < self.outer)
        return inside


def find_rings(disc: BoolArray, field: BoolArray) -> dict[str, Ring]:
    """Zones by name, of circles around the centre of the disc's largest piece; its diameter is that of a circle of its area."""
    (box,) = ndimage.find_objects(disc.view(np.uint8))  # the rest of the picture need not be looked at
    parts, _ = ndimage.label(disc[box], np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    rows, columns = np.nonzero(parts == sizes.argmax() + 1)
    centre = (box[0].start + float(rows.mean()), box[1].start + float(columns.mean()))
    diameter = 2 * math.sqrt(len(rows) / math.pi)
    far2 = sum((axis - at) ** 2 for axis, at in zip(np.ogrid[: disc.shape[0], : disc.shape[1]], centre, strict=True))
    rings = {}
    for name, bounds in ZONES.items():
        inner, outer = ((0.5 + bound) * diameter for bound in bounds)
        area = (far2 >= inner**2) & (far2 < outer**2) & field
        rings[name] = Ring(area, float(area.sum()) / (math.pi * (outer**2 - inner**2)), centre, inner, outer)
    return rings
