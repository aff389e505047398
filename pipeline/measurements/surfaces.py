"""Surfaces of the retina: the lines between layers, one depth a column, and how far they lie from those of a reader.

Layer masks may be torn, hold islands or stand in the wrong order; a surface is one depth in every column and never crosses another
one. The cut that disagrees least with a column's probabilities is the region term of graph search for surfaces (Li et al. 2006,
doi:10.1109/TPAMI.2006.19; Garvin et al. 2009, doi:10.1109/TMI.2009.2016958) without its smoothness, which the network has learnt; the
sub-pixel place is an expected one, as in He et al. 2021 (doi:10.1016/j.media.2020.101856), whose network says a distribution of each
surface in a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.metrics.threshold import ODDS
from pipeline.types import LabelMap

Floats = npt.NDArray[np.float32]

WINDOW = 4
"""Rows above and below a cut whose probabilities place it between pixels."""


@dataclass(frozen=True, eq=False)
class Surfaces:
    """``names`` (S), from the vitreous down; ``depth`` float32 (S, D, W) in pixels from the top edge of the image, never crossing.

    Row r holds depths r to r + 1. NaN: the column has no layer, or the surface lies outside the picture. ``up`` and ``down`` (S, D, W):
    by how many pixels each lies higher or lower if what contradicts it above weighs :data:`ODDS` times as much as what does below, or
    the other way round; None where no probabilities say so.
    """

    names: tuple[str, ...]
    depth: Floats
    up: Floats | None = None
    down: Floats | None = None

    def __post_init__(self) -> None:
        if self.depth.ndim != 3 or len(self.depth) != len(self.names):
            raise ValueError(f"depths {self.depth.shape} must be ({len(self.names)} surfaces, slices, columns)")

    def only(self, names: Sequence[str]) -> Surfaces:
        """These surfaces, in this order."""
        places = [self.names.index(name) for name in names]
        up, down = (None if own is None else own[places] for own in (self.up, self.down))
        return Surfaces(tuple(names), self.depth[places], up, down)


def find_surfaces(
    probabilities: npt.NDArray[np.floating[Any]] | npt.NDArray[np.bool_],
    label_map: LabelMap,
    known: npt.NDArray[np.bool_] | None = None,
    window: int = WINDOW,
) -> Surfaces:
    """The top of each layer and the bottom of the last one, of layers that lie on each other.

    In each column a surface is the cut with the least sum of what contradicts it: probability of what belongs below, above the cut, and
    of what belongs above, below it. Background above the middle of the column's layers belongs above all of them, the rest below;
    classes that are no layers (fluid) count with neither side. Each further surface has more above and less below, so its cut
    cannot lie higher (Topkis 1978, doi:10.1287/opre.26.2.305), and of equally good cuts the lowest is taken: surfaces keep their order, and
    the top of a layer under a pocket of fluid is below the pocket. Between pixels a surface lies where the probability of "above" in
    a window around its cut, added up, ends.

    Parameters
    ----------
    probabilities: of the K classes of ``label_map``, (K, H, W) or (K, D, H, W), 0 to 1; or boolean layers of that shape.
    known: bool ([D,] H, W); what is False (ignored, outside the field of view) counts with neither side, and a surface next to it is NaN.
    window: rows above and below the cut, at least 1.

    Returns
    -------
    Surfaces of D slices, 1 for a picture. NaN where no layer is likelier than what is not a layer in the whole column, and where
    the cut falls on the picture's edge. A layer that a column lacks, between others, has no thickness there.

    Raises
    ------
    ValueError: the label map has no layers, or the shapes do not fit.
    """
    if not label_map.layered:
        raise ValueError("the label map has no layers; a card names them by layers: [...]")
    if probabilities.ndim not in (3, 4) or len(probabilities) != len(label_map) or window < 1:
        raise ValueError(
            f"probabilities {probabilities.shape} must be ({len(label_map)} classes, [slices,] rows, columns), window {window} >= 1"
        )
    if known is not None and known.shape != probabilities.shape[1:]:
        raise ValueError(f"known {known.shape} must be {probabilities.shape[1:]}")
    volume = probabilities if probabilities.ndim == 4 else probabilities[:, None]
    places = [label_map.names.index(name) for name in label_map.layered]
    depth, up, down = np.empty((3, len(places) + 1, volume.shape[1], volume.shape[3]), np.float32)
    for index in range(volume.shape[1]):  # a slice at a time: a volume's cumulative sums would not fit
        seen = None if known is None else known.reshape(volume.shape[1:])[index]
        depth[:, index], up[:, index], down[:, index] = _slice(volume[:, index], places, seen, window)
    return Surfaces(label_map.surface_names, depth, up, down)


@dataclass(frozen=True)
class SurfaceError:
    """One surface of one scan. ``mean_abs``, ``bias`` (found less true; above 0: too deep) and ``p95`` (of the absolute error) in ``unit``,
    over ``columns`` (A-scans) where both are known, None where there are none; ``missing``: columns where it was not found."""

    name: str
    unit: Literal["um", "px"]
    mean_abs: float | None
    bias: float | None
    p95: float | None
    columns: int
    missing: int


def axial_scale(spacing_mm: Sequence[float | None] | None) -> tuple[float, Literal["um", "px"]]:
    """What a depth in pixels is multiplied by, and the unit of the product, from spacing ([slices,] rows, columns): that of rows alone."""
    axial_mm = None if spacing_mm is None else spacing_mm[-2]
    return (1.0, "px") if axial_mm is None else (1000 * axial_mm, "um")


def surface_errors(found: Surfaces, true: Surfaces, spacing_mm: Sequence[float | None] | None) -> list[SurfaceError]:
    """How far each surface lies from the true one, along the columns.

    Raises
    ------
    ValueError: other names, slices or columns on the two sides.
    """
    _check_pair(found, true)
    scale, unit = axial_scale(spacing_mm)
    out = []
    for name, ours, theirs in zip(found.names, found.depth, true.depth, strict=True):
        both = ~np.isnan(ours) & ~np.isnan(theirs)
        missing = int((np.isnan(ours) & ~np.isnan(theirs)).sum())
        error = scale * (ours[both].astype(np.float64) - theirs[both])
        far = np.abs(error)
        mean, bias, p95 = (float(far.mean()), float(error.mean()), float(np.quantile(far, 0.95))) if error.size else (None, None, None)
        out.append(SurfaceError(name, unit, mean, bias, p95, int(both.sum()), missing))
    return out


def jumps(surfaces: Surfaces, spacing_mm: Sequence[float | None] | None, where: npt.NDArray[np.bool_] | None = None) -> list[float | None]:
    """Mean absolute step of each surface from one slice to the next, less the slices' common step, which is the eye's motion.

    The common step is the median over all surfaces and columns of two neighbouring slices. In um, or px where the spacing is unknown.
    True surfaces step, too, because the retina is not flat: labels are consistent across slices where their steps are no larger than
    the true ones. Always None for a picture.

    Parameters
    ----------
    where: bool (S, D, W), columns that count, to compare two sets of surfaces in the same ones.

    Returns
    -------
    One number a surface; None where no column is known in two neighbouring slices.
    """
    depth = surfaces.depth if where is None else np.where(where, surfaces.depth, np.float32(np.nan))
    step = np.diff(depth.astype(np.float64), axis=1)  # (S, D - 1, W)
    for pair in range(step.shape[1]):
        values = step[:, pair][~np.isnan(step[:, pair])]
        if values.size:
            step[:, pair] -= np.median(values)
    far = [np.abs(own[~np.isnan(own)]) for own in step]
    scale, _ = axial_scale(spacing_mm)
    return [scale * float(own.mean()) if own.size else None for own in far]


def thickness_between(surfaces: Surfaces, upper: int, lower: int, lean: int = 0) -> npt.NDArray[np.float64]:
    """float64 (D, W) in pixels from one surface to a lower one, whatever fluid lies between; NaN where one of the two is not known.
    ``lean``: 1 with both surfaces moved apart, -1 towards each other, as far as each is in doubt."""
    top, bottom = surfaces.depth[upper].astype(np.float64), surfaces.depth[lower].astype(np.float64)
    if lean and surfaces.up is not None and surfaces.down is not None:
        apart = lean > 0
        top += -surfaces.up[upper] if apart else surfaces.down[upper]
        bottom += surfaces.down[lower] if apart else -surfaces.up[lower]
    thick: npt.NDArray[np.float64] = np.maximum(bottom - top, 0)
    return thick


def together(parts: Sequence[Surfaces]) -> Surfaces:
    """The surfaces of several slices as those of one volume."""
    joined = [np.concatenate([getattr(one, name) for one in parts], axis=1) for name in ("depth", "up", "down")]
    return Surfaces(parts[0].names, *joined)


def _check_pair(found: Surfaces, true: Surfaces) -> None:
    if found.names != true.names or found.depth.shape != true.depth.shape:
        raise ValueError(f"surfaces {found.names} {found.depth.shape} cannot be compared with {true.names} {true.depth.shape}")


def _slice(
    chances: npt.NDArray[Any], places: Sequence[int], known: npt.NDArray[np.bool_] | None, window: int
) -> tuple[Floats, Floats, Floats]:
    """Depths (S, W) of one slice, (K, H, W), and how far each may lie higher and lower. Columns are rows here, so that sums along depth
    run through memory in order."""
    columns = np.ascontiguousarray(chances.transpose(0, 2, 1), np.float32)  # (K, W, H)
    layers = columns[places]
    tissue, total = layers.sum(axis=0), columns.sum(axis=0)
    background = np.clip(1 - total, 0, 1)
    # In a pocket the little that is left for the layers says nothing: which of them it favours would move the cut through all of it.
    neutral = total - tissue > 0.5
    if known is not None:
        neutral |= ~known.T
    for part in (*layers, tissue, background):
        part[neutral] = 0
    mass = _cumulative(tissue)
    middle = (mass[:, 1:] < 0.5 * mass[:, -1:]).sum(axis=1, keepdims=True)
    rows = np.arange(tissue.shape[1])
    over = np.where(rows < middle, background, 0)
    neither = _cumulative(np.clip(1 - tissue - background, 0, 1))

    # above[c]: sum of what belongs above the surface, over the rows before c; below likewise. Layer by layer the sum moves across.
    above, below = _cumulative(over), mass + _cumulative(background - over)
    bare = (tissue < 0.5).all(axis=1)
    height = tissue.shape[1]
    cuts = np.zeros(len(tissue), np.int64)
    out, up, down = np.empty((3, len(places) + 1, len(tissue)), np.float32)
    for surface in range(len(places) + 1):
        if surface:
            moved = _cumulative(layers[surface - 1])
            above, below = above + moved, below - moved
        cost = below - above  # what is below but lies above the cut, less what is above and rightly so; a constant is missing
        # Rounding alone could put a cut higher than the one before it.
        cuts = np.maximum(cuts, _lowest_best(cost))
        up[surface] = np.maximum(cuts - _lowest_best(ODDS * below - above), 0)
        down[surface] = np.maximum(_lowest_best(below - ODDS * above) - cuts, 0)
        first, last = np.maximum(cuts - window, 0), np.minimum(cuts + window, height)
        part = _at(above, last) - _at(above, first) + _at(neither, cuts) - _at(neither, first)
        out[surface] = np.clip(first + part, 0, height)
        lost = bare | (cuts == 0) | (cuts == height)
        if known is not None:
            both = known.T
            lost |= ~(np.take_along_axis(both, _inside(cuts - 1, height), 1) & np.take_along_axis(both, _inside(cuts, height), 1))[:, 0]
        out[surface][lost] = np.nan
    ordered = np.fmax.accumulate(out, axis=0)  # sums over different windows may differ in their last digit
    ordered[np.isnan(out)] = np.nan
    return ordered, up, down


def _lowest_best(cost: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(W, H + 1) -> (W): the last place of the least cost."""
    last: npt.NDArray[np.int64] = cost.shape[1] - 1 - np.argmin(cost[:, ::-1], axis=1)
    return last


def _cumulative(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(W, H) -> (W, H + 1): sums of the rows before each one."""
    out = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=out[:, 1:])
    return out


def _at(sums: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.take_along_axis(sums, rows[:, None], axis=1)[:, 0]


def _inside(rows: npt.NDArray[np.int64], height: int) -> npt.NDArray[np.int64]:
    return np.clip(rows, 0, height - 1)[:, None]
