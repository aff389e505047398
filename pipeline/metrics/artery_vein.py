"""How often arteries and veins are told apart, along the centrelines of the true vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.morphology import skeletonize

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CentrelineAccuracy:
    """``pixels`` of the true vessels' centrelines that are either artery or vein · ``found``: those where any vessel was found · ``right``:
    those of them where the true class was found and the other one was not."""

    pixels: int
    found: int
    right: int

    @property
    def accuracy(self) -> float | None:
        """right / found; None where no vessel was found."""
        return self.right / self.found if self.found else None


def centreline_accuracy(found: tuple[BoolArray, BoolArray], true: tuple[BoolArray, BoolArray], known: BoolArray) -> CentrelineAccuracy:
    """Masks of arteries and of veins, bool (H, W), against the true ones; crossings, and pixels that are not ``known``, do not count.

    The centrelines are those of arteries, veins and what is not known together, so that an uncertain stretch does not part a vessel.
    """
    artery, vein = true
    line = skeletonize(artery | vein | ~known) & known & (artery ^ vein)
    seen = line & (found[0] | found[1])
    right = seen & (found[0] == artery) & (found[1] == vein)
    return CentrelineAccuracy(int(line.sum()), int(seen.sum()), int(right.sum()))
