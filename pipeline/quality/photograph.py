"""What can be measured of a photograph's quality, in its own field of view."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.quality.view import DIAMETER, Floats, View

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Rec. ITU-R BT.601."""
_RIDGE = 0.03
"""Curvature across a dark line, of green relative to its surroundings, from which on it may be a vessel."""
_LONG = 0.12
"""Of the field's diameter: lines at least so long are vessels rather than texture."""


def measured(view: View) -> dict[str, float]:
    """Raw values by name; what cannot be known is left out."""
    from scipy import ndimage

    inside = view.inside
    luma = view.colours @ _LUMA
    relative = _relative(view.green, view)
    bands = _bands(relative, inside)
    out = {"sharpness": float(np.log((bands[0].std() + 1e-6) / (bands[1].std() + 1e-6)))}
    out["contrast"] = float(-np.percentile(bands[1], 3))
    out["range"] = float(np.ptp(np.percentile(relative[inside], (3, 97))))
    if view.absolute:
        out["brightness"] = float(np.median(luma[inside]))
        out["bright"] = float(((view.green > 235) | (luma > 240))[inside].mean())
    smallest, largest = view.colours.min(axis=-1), view.colours.max(axis=-1)
    if not view.grey:
        out["veil"] = float(np.median((smallest / np.maximum(largest, 1))[inside]))
        red, green, blue = np.moveaxis(view.colours, -1, 0)
        out["colour"] = float(((red > 1.1 * green) & (green >= 0.9 * blue))[inside].mean())
    out["cover"] = _cover(luma, view)
    out["shadow"], out["glare"] = _artefacts(luma, inside)
    out["vessels"] = _long_lines(relative, inside)
    across = ndimage.gaussian_filter(luma, 1.0, truncate=3)
    step = np.hypot(*np.gradient(across))
    out["edges"] = float((step > 12)[inside].mean())
    return out


def _relative(green: Floats, view: View) -> Floats:
    """Green by its surroundings' mean: 1 where nothing is to be seen."""
    field = view.field.astype(np.float32)
    filled = np.where(view.field, green, np.median(green[view.inside])).astype(np.float32)
    around = _coarse_mean(filled * field) / np.maximum(_coarse_mean(field), 1e-3)
    return np.asarray(filled / np.maximum(around, 8), np.float32)


def _coarse_mean(plane: Floats) -> Floats:
    """Mean of a wide neighbourhood: three box filters are a Gaussian, several times as fast."""
    from scipy import ndimage

    side = DIAMETER // 10
    for _ in range(2):
        plane = ndimage.uniform_filter(plane, side, mode="nearest")
    return plane


def _bands(relative: Floats, inside: npt.NDArray[np.bool_]) -> list[Floats]:
    """What there is of detail from 1 to 2 and from 2 to 4 pixels (standard deviations of Gaussians), inside the field."""
    from scipy import ndimage

    blurred = [ndimage.gaussian_filter(relative, sigma, truncate=3) for sigma in (0.8, 1.6, 3.2)]
    return [(fine - coarse)[inside] for fine, coarse in pairwise(blurred)]


def _cover(luma: Floats, view: View) -> float:
    """How much of the camera's round field, as far as it lies in the picture, is lit; of a picture without one, how much of all of it."""
    from scipy import ndimage

    disc = np.ones(luma.shape, bool)
    if view.circle is not None:
        y, x, radius = view.circle
        rows, columns = np.ogrid[: luma.shape[0], : luma.shape[1]]
        disc = (rows - y) ** 2 + (columns - x) ** 2 < (0.97 * radius) ** 2
    lit = ndimage.uniform_filter(luma, 9) > 0.25 * np.percentile(luma[view.inside], 75)
    return float((lit & disc).sum() / disc.sum())


def _artefacts(luma: Floats, inside: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Parts of the field that are less than half as bright as what is around them, and more than 1.8 times."""
    from scipy import ndimage

    small = ndimage.uniform_filter(luma, 4)[::4, ::4]
    around = ndimage.median_filter(small, 21)
    seen = inside[::4, ::4]
    total = max(int(seen.sum()), 1)
    return float(((small < 0.6 * around) & seen).sum() / total), float(((small > 1.8 * around) & (small > 200) & seen).sum() / total)


def _long_lines(relative: Floats, inside: npt.NDArray[np.bool_]) -> float:
    """Length of long dark lines, in diameters of the field: ridges by the Hessian's eigenvalues, as Frangi et al. find vessels
    (doi:10.1007/BFb0056195), at one scale."""
    from scipy import ndimage

    sigma = 1.7
    soft = ndimage.gaussian_filter(relative, sigma, truncate=3)
    down, across = np.gradient(soft)
    (yy, yx), xx = np.gradient(down), np.gradient(across, axis=1)
    middle, half = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    most, least = sigma**2 * (middle + half), sigma**2 * (middle - half)
    pieces, _ = ndimage.label((most > _RIDGE) & (np.abs(least) < 0.5 * most) & inside, np.ones((3, 3), int))
    spans = np.array([np.hypot(y.stop - y.start, x.stop - x.start) for y, x in ndimage.find_objects(pieces)])
    return float(spans[spans > _LONG * DIAMETER].sum() / DIAMETER) if spans.size else 0.0
