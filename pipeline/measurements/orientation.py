"""One of the eight ways of holding a picture, chosen by its pixels alone: what is measured in it is the same for a mirrored eye, exactly.

Thinning a mask, or laying boxes over it, favours one side of a pixel. Turned to the same orientation first, a right eye and its mirror
image are the same pixels, and so have the same numbers to the last digit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def same_orientation(*masks: BoolArray) -> tuple[BoolArray, ...]:
    """Masks bool (H, W) of one picture, turned or mirrored together: the same arrays for each of the picture's eight orientations.

    The first mask decides; where it is symmetrical, the next.
    """
    ways = [tuple(_turned(mask, quarters, mirror) for mask in masks) for quarters in range(4) for mirror in (False, True)]
    shape = min(way[0].shape for way in ways)
    return min((way for way in ways if way[0].shape == shape), key=lambda way: [np.packbits(mask).tobytes() for mask in way])


def _turned(mask: BoolArray, quarters: int, mirror: bool) -> BoolArray:
    return np.rot90(mask[:, ::-1] if mirror else mask, quarters)
