"""A photograph as its quality is judged: at one size of its field of view, so that what is measured hangs on no camera's resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.scans.display import displayed
from pipeline.scans.field_of_view import detect_field_of_view, field_diameter

DIAMETER = 320
"""Pixels of the field of view's diameter as it is judged: a large vessel is then about three pixels wide."""
_RIM = 0.03
"""Of the diameter: so far from the field's edge nothing is judged, as its own gradient lies there."""
_TOLERANCE = 0.012
"""Of the radius: points of the field's edge that lie so near to a circle are on it."""

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """``colours`` float32 (h, w, 3), 0..255 · ``valid`` bool (H, W): the field of view in the scan's own frame · ``field`` (h, w) as it is
    judged, and ``inside``, the same without its rim · ``circle``: centre (y, x) and radius of the camera's round field, None where the
    picture shows none · ``grey``: red, green and blue are the same · ``absolute``: brightness means something, because the file has 8
    bits · ``diameter`` of the field in source pixels."""

    colours: Floats
    valid: Mask
    field: Mask
    inside: Mask
    circle: tuple[float, float, float] | None
    grey: bool
    absolute: bool
    diameter: int

    @property
    def green(self) -> Floats:
        return self.colours[..., 1]


def view_of(pixels: npt.NDArray[Any], field_of_view: Mask | None = None) -> View:
    """Of stored pixels (C, H, W); ``field_of_view`` bool (H, W), where it is known, of 8-bit ones, which are judged as they are stored."""
    from scipy import ndimage

    shown = displayed(pixels)
    valid = detect_field_of_view(shown) if field_of_view is None else field_of_view
    if valid.all() and (lit := _lit(shown)) is not None:
        valid = lit
    diameter = field_diameter(valid)
    scale = DIAMETER / diameter
    colours = np.stack([_resized(plane, scale) for plane in (shown if len(shown) == 3 else shown.repeat(3, axis=0))], axis=-1)
    field = _resized(valid.view(np.uint8) * np.uint8(255), scale) > 127
    margin = round(_RIM * DIAMETER)
    inside = np.asarray(ndimage.uniform_filter(field.astype(np.float32), 2 * margin + 1, mode="constant") > 0.9999)
    grey = len(shown) == 1 or bool(np.abs(colours - colours[..., :1]).max() < 3)
    return View(colours, valid, field, inside, _circle(field), grey, pixels.dtype == np.uint8, diameter)


def _lit(shown: npt.NDArray[np.uint8]) -> Mask | None:
    """What is not dark, (H, W), of a picture in which no field of view has a clear edge, where that is round: a field cut by the pupil."""
    from scipy import ndimage

    step = max(1, max(shown.shape[-2:]) // DIAMETER)
    luma = shown[:, ::step, ::step].mean(axis=0)
    soft = ndimage.uniform_filter(luma, 5)
    lit = soft > 0.25 * np.percentile(soft, 90)
    if lit.mean() > 0.97 or lit.mean() < 0.1 or _circle(lit, field_diameter(lit)) is None:
        return None
    rows, columns = shown.shape[-2:]
    return np.asarray(lit.repeat(step, axis=0).repeat(step, axis=1)[:rows, :columns])


def _resized(plane: npt.NDArray[np.uint8], scale: float) -> Floats:
    from PIL import Image

    size = tuple(max(round(side * scale), 8) for side in plane.shape[::-1])
    return np.asarray(
        Image.fromarray(plane).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC), dtype=np.float32
    )


def _circle(field: Mask, diameter: int = DIAMETER) -> tuple[float, float, float] | None:
    """The circle on which most of the field's edge within the picture lies; None where less than a third of that does.

    A robust fit (RANSAC, doi:10.1145/358669.358692) with fixed random numbers: a cut field has straight edges besides.
    """
    inner = np.zeros_like(field)
    inner[1:-1, 1:-1] = field[:-2, 1:-1] & field[2:, 1:-1] & field[1:-1, :-2] & field[1:-1, 2:]
    y, x = np.nonzero(field & ~inner)
    rows, columns = field.shape
    within = (y > 2) & (x > 2) & (y < rows - 3) & (x < columns - 3)
    y, x = y[within].astype(float), x[within].astype(float)
    if len(y) < 40:
        return None
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(y), (200, 3))
    ax, bx, cx = x[chosen].T
    ay, by, cy = y[chosen].T
    twice = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
    fine = np.abs(twice) > diameter
    squares = [u**2 + v**2 for u, v in ((ax, ay), (bx, by), (cx, cy))]
    with np.errstate(divide="ignore", invalid="ignore"):
        mid_x = (squares[0] * (by - cy) + squares[1] * (cy - ay) + squares[2] * (ay - by)) / twice
        mid_y = (squares[0] * (cx - bx) + squares[1] * (ax - cx) + squares[2] * (bx - ax)) / twice
    radius = np.hypot(ax - mid_x, ay - mid_y)
    fine &= (radius > 0.3 * diameter) & (radius < 0.85 * diameter)
    if not fine.any():
        return None
    mid_x, mid_y, radius = mid_x[fine], mid_y[fine], radius[fine]
    away = np.abs(np.hypot(y - mid_y[:, None], x - mid_x[:, None]) - radius[:, None])
    near = (away < _TOLERANCE * radius[:, None] + 0.7).mean(axis=1)
    best = int(near.argmax())
    return (float(mid_y[best]), float(mid_x[best]), float(radius[best])) if near[best] > 1 / 3 else None
