"""How wide the neuroretinal rim is on each side of the disc, in the order in which a healthy rim narrows: inferior, superior, nasal,
temporal (the ISNT rule: Jonas, Gusek and Naumann, Investigative Ophthalmology & Visual Science 29, 1988)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.measurements.case import BoolArray, MeasuredCase, Places, Scale, Value
from pipeline.measurements.pieces import largest_piece
from pipeline.measurements.quantity import Quantity
from pipeline.types import Laterality

Floats = npt.NDArray[np.floating[Any]]

ISNT = "Jonas, Gusek and Naumann, Investigative Ophthalmology & Visual Science 29, 1988 (ISNT rule)"
NO_SIDE = "which eye it is, right or left, is not known or in doubt, and so not where nasal is"

Side = Literal["inferior", "superior", "nasal", "temporal"]
SIDES: tuple[Side, ...] = ("inferior", "superior", "nasal", "temporal")
RIM_QUANTITIES = tuple(
    Quantity(
        f"rim_{side}",
        f"{side} rim width",
        "mm",
        f"mean distance from the cup's border to the disc's along the rays from the disc's centre of area that lie within 45 degrees "
        f"of {side}; of a ray beside the cup, from that centre",
        ISNT,
    )
    for side in SIDES
)
_RAYS = 360
_STEPS_A_PIXEL = 4


def measure_rim(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """The rim's width in each quadrant; nasal and temporal only where the side of the eye is known."""
    disc, cup = (largest_piece(case.mask_of(place)) for place in places)
    for mask, name in ((disc, "disc"), (cup, "cup")):
        if not mask.any():
            return {q.key: Value.none(f"there is no {name}") for q in RIM_QUANTITIES}
    angles, widths = rim_widths(disc, disc & cup, case.scale)
    directions = dict(_directions(case.geometry.laterality))
    out = {}
    for side, quantity in zip(SIDES, RIM_QUANTITIES, strict=True):
        if side not in directions:
            out[quantity.key] = Value.none(NO_SIDE)
            continue
        away = np.abs((angles - directions[side] + 180) % 360 - 180)
        out[quantity.key] = Value(float(widths[away < 45].mean()), case.scale.length)
    return out


def _directions(eye: Laterality | None) -> Iterator[tuple[Side, int]]:
    """(side, degrees counterclockwise from the right edge of the picture), as a photograph shows the eye: nasal of a right eye is right."""
    yield from (("superior", 90), ("inferior", 270))
    if eye is not None:
        nasal = 0 if eye == "R" else 180
        yield from (("nasal", nasal), ("temporal", 180 - nasal))


def rim_widths(disc: BoolArray, cup: BoolArray, scale: Scale) -> tuple[Floats, Floats]:
    """(angles in degrees, widths in the unit of ``scale``) of rays from the centre of a disc that is not empty, masks bool (H, W).

    Rays lie at halves of degrees, so that a mirror makes one of another and none lies between two quadrants.
    """
    rows, columns = np.nonzero(disc)
    y, x = rows.mean(), columns.mean()
    angles = np.arange(_RAYS).astype(np.float64) + 0.5
    up, right = np.sin(np.radians(angles)) / scale.rows, np.cos(np.radians(angles)) / scale.columns  # px for one unit of length
    finest = min(scale.rows, scale.columns) / _STEPS_A_PIXEL
    reach = np.hypot(np.ptp(rows) * scale.rows, np.ptp(columns) * scale.columns) + 2 * finest
    along = (np.arange(int(reach / finest) + 1) + 0.5) * finest
    at_row = np.rint(y - up[:, None] * along).astype(int)
    at_column = np.rint(x + right[:, None] * along).astype(int)
    inside = (at_row >= 0) & (at_row < disc.shape[0]) & (at_column >= 0) & (at_column < disc.shape[1])

    def border(mask: BoolArray) -> Floats:
        held = np.zeros(inside.shape, dtype=bool)
        held[inside] = mask[at_row[inside], at_column[inside]]
        last = held.shape[1] - held[:, ::-1].argmax(axis=1)
        return np.where(held.any(axis=1), last * finest, 0.0)

    widths = np.maximum(border(disc) - border(cup), 0)
    return angles, widths
