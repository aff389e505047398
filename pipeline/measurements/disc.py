"""How large the cup is in the disc: cup-to-disc ratios of two masks, and how far readers agree on one number.

The vertical ratio is the one that glaucoma care reports, because damage thins the rim above and below first (Jonas, Budde and
Panda-Jonas, Survey of Ophthalmology 43, 1999, doi:10.1016/S0039-6257(98)00049-6). A ratio along one axis needs no spacing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.measurements.case import BoolArray, MeasuredCase, Places, Value
from pipeline.measurements.pieces import labelled
from pipeline.measurements.quantity import Quantity
from pipeline.types import Measure

JONAS = "Jonas, Budde and Panda-Jonas, Survey of Ophthalmology 43, 1999, doi:10.1016/S0039-6257(98)00049-6"

CROWSTON = "Crowston et al., British Journal of Ophthalmology 88, 2004, doi:10.1136/bjo.2003.028548, people of 49 years and older"
VCDR_PERCENTILES = ((1.2, 0.60), (1.3, 0.59), (1.4, 0.67), (1.5, 0.68), (1.6, 0.70), (1.7, 0.71), (1.8, 0.74), (1.9, 0.75))
"""(height of the disc in mm, 97.5th percentile of the vertical ratio): table 4 there, right and left eyes without glaucoma."""

VERTICAL = "rows that the cup's largest piece spans / rows that the disc's largest piece spans"
HORIZONTAL = "columns that the cup's largest piece spans / columns that the disc's largest piece spans"
AREA = "pixels of the cup's largest piece / pixels of the disc's largest piece"

RATIO_QUANTITIES = (
    Quantity("vcdr", "vertical cup-to-disc ratio", "1", VERTICAL, JONAS),
    Quantity("hcdr", "horizontal cup-to-disc ratio", "1", HORIZONTAL, JONAS),
    Quantity("area_cdr", "cup-to-disc area ratio", "1", AREA, JONAS),
)
DISC_QUANTITIES = (
    Quantity("disc_height", "disc height", "mm", "rows that the disc's largest piece spans, times the distance of rows", JONAS),
    Quantity("disc_area", "disc area", "mm2", "area of the disc's largest piece", JONAS),
)


def measure_disc(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Height and area of the disc."""
    extent, scale = _extents(case.mask_of(places[0])), case.scale
    if extent is None:
        return {q.key: Value.none("there is no disc") for q in DISC_QUANTITIES}
    rows, _, pixels = extent
    area = pixels * scale.rows * scale.columns
    return {"disc_height": Value(rows * scale.rows, scale.length), "disc_area": Value(area, scale.area)}


def measure_ratios(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """The cup in the disc; the vertical ratio with the percentile of healthy discs of this height, where that is known in mm."""
    disc, cup = map(case.mask_of, places)
    values = {name: Value(own.value, undefined=own.undefined) for name, own in cup_to_disc(disc, cup).items()}
    extent = _extents(disc)
    if extent is not None and case.scale.trusted:
        values["vcdr"] = replace(values["vcdr"], reference=percentile_of_height(extent[0] * case.scale.rows))
    return values


def percentile_of_height(height_mm: float) -> str:
    """The 97.5th percentile of the vertical ratio among discs of a height, in words; "" of a height that nobody counted."""
    heights, ratios = zip(*VCDR_PERCENTILES, strict=True)
    if not heights[0] <= height_mm <= heights[-1]:
        return ""
    ratio = float(np.interp(height_mm, heights, ratios))
    return f"97.5 % of eyes without glaucoma and a disc {height_mm:.2f} mm high are below {ratio:.2f} ({CROWSTON})"


def cup_to_disc(disc: BoolArray, cup: BoolArray) -> dict[str, Measure]:
    """``vcdr``, ``hcdr`` and ``area_cdr`` of two masks bool (H, W), each of the largest 8-connected piece; the cup is part of the disc.

    A mask with nothing in it gives no ratio: an unseen cup is not a cup of size 0.

    Raises
    ------
    ValueError: the masks are not boolean, or differ in shape.
    """
    if disc.dtype != np.bool_ or disc.ndim != 2 or cup.dtype != np.bool_ or cup.shape != disc.shape:
        raise ValueError(f"disc {disc.dtype} {disc.shape} and cup {cup.dtype} {cup.shape} must be bool (H, W) of one size")
    outer, inner = _extents(disc), _extents(cup)
    if outer is None or inner is None:
        reason = "there is no disc" if outer is None else "there is no cup"
        return {n: Measure(None, "1", d, reason) for n, d in (("vcdr", VERTICAL), ("hcdr", HORIZONTAL), ("area_cdr", AREA))}
    ratios = [small / large for small, large in zip(inner, outer, strict=True)]
    return {
        name: Measure(ratio, "1", definition)
        for name, ratio, definition in zip(("vcdr", "hcdr", "area_cdr"), ratios, (VERTICAL, HORIZONTAL, AREA), strict=True)
    }


def vcdr(disc: BoolArray, cup: BoolArray) -> Measure:
    """Vertical cup-to-disc ratio of two masks bool (H, W)."""
    return cup_to_disc(disc, cup)["vcdr"]


def vcdr_by_agreement(disc: npt.NDArray[Any], cup: npt.NDArray[Any], levels: Iterable[float] = (64, 128, 191, 255)) -> list[Measure]:
    """Vertical ratio of soft maps (H, W) at each level of agreement: one reader at least, two at least, ... as the maps store it."""
    return [vcdr(disc >= level, cup >= level) for level in levels]


@dataclass(frozen=True)
class Agreement:
    """Mean absolute differences of one quantity that several readers gave of each of ``images`` images.

    ``between``: of two readers, over all pairs. ``to_others``: of one reader from the mean of the others, for each reader; this is
    what a model's ``to_mean`` compares with, because neither had a say in its own reference. ``own_to_each``: of the model from
    each reader, and ``own_to_mean`` from their mean; None without a model.
    """

    images: int
    between: float
    to_others: tuple[float, ...]
    own_to_each: tuple[float, ...] | None = None
    own_to_mean: float | None = None


def agreement(readers: Mapping[str, Sequence[float]], own: Mapping[str, float | None] | None = None) -> Agreement:
    """How far readers, and a model beside them, agree on a number an image.

    Parameters
    ----------
    readers: for each image one value of each reader, in the same order.
    own: the model's values; only images with a value of its own (not None) count then, for the readers too.

    Raises
    ------
    ValueError: no image to compare, fewer than two readers, or images with different numbers of them.
    """
    names = [name for name in readers if own is None or own.get(name) is not None]
    if not names or len({len(readers[name]) for name in names}) != 1 or len(readers[names[0]]) < 2:
        raise ValueError("agreement needs at least one image, and the same two or more readers of each")
    values = np.array([readers[name] for name in names], dtype=np.float64)
    count = values.shape[1]
    between = float(np.mean([np.abs(values[:, a] - values[:, b]).mean() for a, b in combinations(range(count), 2)]))
    others = (values.sum(axis=1, keepdims=True) - values) / (count - 1)
    to_others = tuple(np.abs(values - others).mean(axis=0).tolist())
    if own is None:
        return Agreement(len(names), between, to_others)
    model = np.array([own[name] for name in names], dtype=np.float64)[:, None]
    to_each = tuple(np.abs(model - values).mean(axis=0).tolist())
    to_mean = float(np.abs(model[:, 0] - values.mean(axis=1)).mean())
    return Agreement(len(names), between, to_others, to_each, to_mean)


def _extents(mask: BoolArray) -> tuple[int, int, int] | None:
    """(rows, columns, pixels) of the largest 8-connected piece; None of an empty mask."""
    from scipy.ndimage import find_objects

    numbers, count, _ = labelled(mask)
    if not count:
        return None
    sizes = np.bincount(numbers.ravel())[1:]
    largest = int(sizes.argmax())
    rows, columns = find_objects(numbers)[largest]
    return rows.stop - rows.start, columns.stop - columns.start, int(sizes[largest])
