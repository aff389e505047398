"""The field of view of a video: found in a frame, and kept until it moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_COARSE_SIDE = 128
"""Longest side, about, of the picture in which each frame's field is sought: it takes a tenth of the time of the full one."""
_MOVED = 0.03
"""Fraction of the coarse field's area that may differ from where it was before the field is sought anew: a shift by 1 % of its diameter."""


class TrackedField:
    """``find`` (pixels (C, H, W) -> bool (H, W)) runs on a coarse picture of each frame, and on the whole one only where that says that
    the field has moved, grown or shrunk. A field that stays keeps its mask to the bit, and with it the network its size."""

    def __init__(self, find: Callable[[npt.NDArray[Any]], Mask]) -> None:
        self._find = find
        self._coarse: Mask | None = None
        self._field: Mask | None = None
        self.found = 0

    def of(self, pixels: npt.NDArray[Any]) -> Mask:
        """bool (H, W) of a frame (C, H, W)."""
        step = max(1, round(max(pixels.shape[-2:]) / _COARSE_SIDE))
        coarse = self._find(np.ascontiguousarray(pixels[:, ::step, ::step]))
        same_size = self._field is not None and self._field.shape == pixels.shape[-2:]
        if self._coarse is None or self._field is None or not same_size or _apart(coarse, self._coarse) > _MOVED:
            self._coarse, self._field = coarse, self._find(pixels)
            self.found += 1
        return self._field


def _apart(one: Mask, other: Mask) -> float:
    return float(np.count_nonzero(one ^ other)) / max(1, int(np.count_nonzero(other)))
