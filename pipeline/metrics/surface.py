"""How far two outlines lie apart: NSD, HD95, ASSD, in millimetres where the spacing is known, else in pixels.

A distance to a structure that is not there does not exist: it is undefined, with its reason, and is counted as such. It is never
0 (which would reward a missed structure) and never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.types import Measure

FloatArray = npt.NDArray[np.float64]
_Ways = tuple[FloatArray, FloatArray] | str


def hd95(pred: npt.ArrayLike, true: npt.ArrayLike, spacing: Sequence[float] | None = None, valid: npt.ArrayLike | None = None) -> Measure:
    """95th percentile Hausdorff distance: the larger of the two directed 95th percentiles between the outlines.

    ``pred`` and ``true`` bool (H, W) or (D, H, W); ``spacing`` in mm in the same order as the axes, or None for pixels.
    """
    return _hd95(_distances(pred, true, spacing, valid), spacing)


def hd95_and_assd(
    pred: npt.ArrayLike, true: npt.ArrayLike, spacing: Sequence[float] | None = None, valid: npt.ArrayLike | None = None
) -> tuple[Measure, Measure]:
    """:func:`hd95` and :func:`assd` from distances that are computed once."""
    ways = _distances(pred, true, spacing, valid)
    return _hd95(ways, spacing), _assd(ways, spacing)


def _hd95(ways: _Ways, spacing: Sequence[float] | None) -> Measure:
    definition = "larger of the two directed 95th percentiles of outline distances"
    if isinstance(ways, str):
        return Measure(None, _unit(spacing), definition, ways)
    return Measure(float(max(np.percentile(way, 95) for way in ways)), _unit(spacing), definition)


def assd(pred: npt.ArrayLike, true: npt.ArrayLike, spacing: Sequence[float] | None = None, valid: npt.ArrayLike | None = None) -> Measure:
    """Average symmetric surface distance: the mean over the pixels of both outlines of the distance to the other one."""
    return _assd(_distances(pred, true, spacing, valid), spacing)


def _assd(ways: _Ways, spacing: Sequence[float] | None) -> Measure:
    definition = "mean distance of both outlines' pixels to the other outline"
    if isinstance(ways, str):
        return Measure(None, _unit(spacing), definition, ways)
    return Measure(float(np.concatenate(ways).mean()), _unit(spacing), definition)


def nsd(
    pred: npt.ArrayLike, true: npt.ArrayLike, tolerance: float, spacing: Sequence[float] | None = None, valid: npt.ArrayLike | None = None
) -> Measure:
    """Normalised surface Dice: fraction of both outlines within ``tolerance`` (mm or px, as ``spacing``) of the other one.

    Nikolov et al. 2021, doi:10.2196/26151, with outline pixels in place of surface elements. 0 where the prediction alone is empty;
    undefined where the reference is.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance {tolerance} must not be negative")
    definition = f"fraction of both outlines within {tolerance:g} {_unit(spacing)} of the other, doi:10.2196/26151"
    ways = _distances(pred, true, spacing, valid)
    if isinstance(ways, str):
        return Measure(0.0, "1", definition) if ways == MISSED else Measure(None, "1", definition, ways)
    return Measure(float((np.concatenate(ways) <= tolerance).mean()), "1", definition)


BOTH_ABSENT = "the structure is absent from the reference and the prediction"
MISSED = "the prediction misses the structure"
INVENTED = "the reference does not hold the structure"


def _distances(pred: npt.ArrayLike, true: npt.ArrayLike, spacing: Sequence[float] | None, valid: npt.ArrayLike | None) -> _Ways:
    """Distances (prediction's outline to reference's, and back), or why there are none."""
    from scipy.ndimage import distance_transform_edt

    guess, truth = np.asarray(pred), np.asarray(true)
    if guess.dtype != np.bool_ or truth.dtype != np.bool_ or guess.shape != truth.shape:
        raise ValueError(f"two boolean masks of one shape are needed, not {guess.dtype} {guess.shape} and {truth.dtype} {truth.shape}")
    if spacing is not None and (len(spacing) != guess.ndim or min(spacing) <= 0):
        raise ValueError(f"spacing {tuple(spacing)} must be one positive number an axis of {guess.shape}")
    if valid is not None:
        inside = np.asarray(valid)
        guess, truth = guess & inside, truth & inside
    if not guess.any() or not truth.any():
        return BOTH_ABSENT if not guess.any() and not truth.any() else (MISSED if truth.any() else INVENTED)
    box = _bounding_box(guess | truth)
    guess_edge, truth_edge = _outline(guess[box]), _outline(truth[box])
    to_truth = distance_transform_edt(~truth_edge, sampling=spacing)[guess_edge]
    to_guess = distance_transform_edt(~guess_edge, sampling=spacing)[truth_edge]
    return to_truth, to_guess


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds ``mask``: distances between its pixels need nothing outside it."""
    out = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        out.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(out)


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Pixels of ``mask`` with a direct neighbour outside it; the image's edge counts as outside."""
    from scipy.ndimage import binary_erosion

    edge: npt.NDArray[np.bool_] = mask & ~binary_erosion(mask)
    return edge


def _unit(spacing: Sequence[float] | None) -> Literal["px", "mm"]:
    return "px" if spacing is None else "mm"
