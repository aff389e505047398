"""Spacing that cannot be true for an eye is dropped: sizes are then in pixels, and a warning says why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pipeline.scans.nifti_header import stated_mm
from pipeline.types import Geometry

LARGEST_MM = 60.0
"""No picture of an eye shows more: the retina measures some 45 mm from edge to edge along its curve."""
_SAME = 0.01  # pixdim and affine agree within this fraction; float32 and rounded decimals lie far closer


def check_spacing(geometry: Geometry) -> tuple[Geometry, tuple[str, ...]]:
    """``geometry`` without a stated spacing that cannot be true, and the warnings.

    Converters write pixels of exactly 1 mm if they do not know the size. The affine is kept, so that masks still lie over their image.
    """
    if geometry.spacing_source != "tag" or geometry.spacing_mm is None:
        return geometry, ()
    stated = [(count, size) for count, size in zip(geometry.shape, geometry.spacing_mm, strict=True) if size is not None]
    reason = ""
    if geometry.spacing_mm[-2:] == (1.0, 1.0):
        reason = "pixels of exactly 1 mm, which is what converters write where they know no size"
    elif max(count * size for count, size in stated) > LARGEST_MM:
        reason = f"a size of {_shown(count * size for count, size in stated)} mm, which is larger than an eye"
    if reason:
        return replace(geometry, spacing_mm=None, spacing_source="unknown"), (f"the file states {reason}: not believed, sizes are in px",)
    return geometry, _disagreement(geometry)


def _disagreement(geometry: Geometry) -> tuple[str, ...]:
    """The warning if pixdim and affine of a NIfTI header disagree, as some programs leave them."""
    if geometry.nifti is None or geometry.affine is None:
        return ()
    pixdim = stated_mm(geometry.nifti)[: len(geometry.shape)]
    affine = np.linalg.norm(geometry.affine[:3, : len(geometry.shape)], axis=0).tolist()
    counts = geometry.shape[::-1]
    if all(n == 1 or abs(own - true) <= _SAME * true for n, own, true in zip(counts, pixdim, affine, strict=True)):
        return ()
    return (f"the NIfTI header's pixdim ({_shown(pixdim)} mm) and its affine ({_shown(affine)} mm) disagree: the affine's spacing is used",)


def _shown(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
