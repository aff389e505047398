"""Where a network is in doubt, and how much of what it marked would probably stay, from the probabilities of pixels alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.calibration import CODES, calibrated, codes, counted

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

BAND = 250
"""A border's band reaches so many parts of the picture's larger side to either side of it, and at least one pixel."""


class ClassChances:
    """Of one class, gathered plane by plane: how many pixels have each probability in the mask, beside it, and along its border."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.calibrated = calibrated(temperature)
        self._uncertain = np.rint(255 * entropy(self.calibrated)).astype(np.uint8)
        self.inside, self.outside, self.border = np.zeros(CODES), np.zeros(CODES), np.zeros(CODES)

    def add(self, chance: npt.NDArray[np.floating[Any]], mask: Mask) -> Bytes:
        """Of a plane (H, W): its uncertainty, 0..255."""
        own = codes(chance)
        inside = counted(own[mask])
        self.inside += inside
        self.outside += counted(own) - inside
        self.border += counted(own[border(mask)])
        return self._uncertain[own]

    @property
    def pixels(self) -> float:
        """Of the mask."""
        return float(self.inside.sum())

    @property
    def expected_dice(self) -> float | None:
        """2 E[|M and T|] / (|M| + E[|T|]) of the mask M, where each pixel is truly of the class with its calibrated probability: the
        first-order estimate of its Dice with the truth T; None where there is neither a mask nor any probability."""
        return expected_dice(self.inside, self.outside, self.calibrated)

    @property
    def border_doubt(self) -> float | None:
        """Mean uncertainty within a band around the mask's outline, 0..1; None without one."""
        return float(self.border @ entropy(self.calibrated) / self.border.sum()) if self.border.any() else None


def expected_dice(inside: npt.NDArray[np.float64], outside: npt.NDArray[np.float64], chances: npt.NDArray[np.float64]) -> float | None:
    """Of a mask whose pixels, and those beside it, have each of ``chances`` so many times."""
    hit, missed = float(inside @ chances), float(outside @ chances)
    whole = float(inside.sum()) + hit + missed
    return 2 * hit / whole if whole > 0 else None


def entropy(chances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """In bits, of yes or no: 0 where it is sure, 1 at one half."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(p > 0, -p * np.log2(p), 0.0) for p in (chances, 1 - chances)]
    return np.asarray(np.clip(parts[0] + parts[1], 0, 1))


def border(mask: Mask) -> Mask:
    """Pixels of (H, W) within a narrow band around the outlines of ``mask``, along rows and columns; the picture's edge is no outline."""
    reach = max(1, round(max(mask.shape) / BAND / 2))
    band = np.zeros_like(mask)
    for one, other in (
        ((slice(None, -reach), slice(None)), (slice(reach, None), slice(None))),
        ((slice(None), slice(None, -reach)), (slice(None), slice(reach, None))),
    ):
        differ = mask[one] ^ mask[other]
        band[one] |= differ
        band[other] |= differ
    return band
