"""A scan for display: 8 bit, in its own colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.types import Scan

_DISPLAYED = (0.5, 99.5)
"""Percentiles of a 16-bit or floating-point scan that are displayed as black and white."""


def displayed(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Stored pixels (C, [D,] H, W) -> 8 bit for display, the same window for all slices; 8-bit pixels stay as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return np.asarray(pixels * np.uint8(255))
    # Every 7th value is enough for two percentiles, and spares a second copy of a volume.
    sample = pixels.ravel()[::7] if pixels.size > 1_000_000 else pixels.ravel()
    finite = sample[np.isfinite(sample)]
    low, high = (float(v) for v in np.percentile(finite, _DISPLAYED)) if finite.size else (0.0, 1.0)
    scale = 255 / (high - low) if high > low else 0.0
    shown = np.nan_to_num((pixels.astype(np.float32) - low) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    eight: npt.NDArray[np.uint8] = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    return eight


def plane_in_colour(scan: Scan, index: int = 0) -> npt.NDArray[np.uint8]:
    """A picture, or slice ``index`` of a volume, as uint8 (H, W, 3); grey ones with three equal channels."""
    plane = displayed(scan.pixels if scan.pixels.ndim == 3 else scan.pixels[:, index])
    return np.ascontiguousarray(np.moveaxis(plane.repeat(3, axis=0) if len(plane) == 1 else plane[:3], 0, -1))
