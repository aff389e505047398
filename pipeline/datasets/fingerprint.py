"""Small descriptions of pictures by which the same picture is known again after recompression, resizing, another contrast,
or a mirror."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.scans.field_of_view import detect_field_of_view

SIDE = 64
# Correlation of two fingerprints from which on two pictures count as one. Measured: copies saved again as JPEG or resized stay
# above 0.80 and mostly above 0.95; of 200,000 pairs of different pictures in five sets none is above 0.61.
SAME_PICTURE = 0.8
_BLOCK = 1024


def fingerprint(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(C, H, W) or (C, D, H, W) as stored -> float32 (SIDE * SIDE), mean 0 and length 1 (all 0 for a picture without content).

    The green channel (vessels are clearest in it), of a volume the middle slice, is shrunk to SIDE x SIDE. Its broad light and
    shade, which all pictures from one camera share, is taken away, and local contrast is evened out.
    """
    import torch
    import torch.nn.functional as nn_functional
    from scipy.ndimage import binary_erosion, gaussian_filter

    planes = image[:, image.shape[1] // 2] if image.ndim == 4 else image
    wide = torch.from_numpy(planes.astype(np.float32))[None]
    medium = nn_functional.interpolate(wide, size=(4 * SIDE, 4 * SIDE), mode="area")
    small = nn_functional.avg_pool2d(medium[:, len(planes) // 2, None], 4)[0, 0].numpy().astype(np.float64)
    # Inside the field of view alone: its rim is the strongest edge of a fundus photograph, and every photograph has it.
    view = torch.from_numpy(detect_field_of_view(medium[0].numpy()).astype(np.float32))[None, None]
    inside = binary_erosion(nn_functional.avg_pool2d(view, 4)[0, 0].numpy() > 0.5, iterations=2, border_value=1).astype(np.float64)
    weight = np.maximum(gaussian_filter(inside, 3.0, mode="nearest"), 1e-3)
    detail = (small - gaussian_filter(small * inside, 3.0, mode="nearest") / weight) * inside
    contrast = np.sqrt(gaussian_filter(detail**2, 6.0, mode="nearest"))
    # A floor keeps flat regions (the surround) flat instead of blowing up their noise.
    detail = detail / (contrast + 0.25 * contrast.mean() + 1e-12)
    detail -= detail.mean() * (inside > 0)
    length = float(np.linalg.norm(detail))
    if length < 1e-6:
        return np.zeros(SIDE * SIDE, dtype=np.float32)
    return np.asarray(detail / length, dtype=np.float32).reshape(-1)


def same_pictures(
    first: Sequence[npt.NDArray[np.float32]], second: Sequence[npt.NDArray[np.float32]], threshold: float = SAME_PICTURE
) -> Iterator[tuple[int, int, float]]:
    """(index in first, index in second, correlation) of every pair that shows one picture, mirrored or turned by 180 degrees too."""
    if not first or not second:
        return
    stacked = np.stack(second)
    for start in range(0, len(first), _BLOCK):
        grids = np.stack(first[start : start + _BLOCK]).reshape(-1, SIDE, SIDE)
        views = (grids, grids[:, ::-1], grids[:, :, ::-1], grids[:, ::-1, ::-1])
        for column in range(0, len(stacked), _BLOCK):
            block = stacked[column : column + _BLOCK].T
            best = np.max([view.reshape(len(grids), -1) @ block for view in views], axis=0)
            for i, j in zip(*np.nonzero(best >= threshold), strict=True):
                yield start + int(i), column + int(j), float(best[i, j])
