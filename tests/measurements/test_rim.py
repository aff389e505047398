"""The rim of drawn discs, whose width follows from two circles, and the published percentile of their ratio."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measurements.by_role import measure_case
from pipeline.measurements.case import BoolArray, MeasuredCase
from pipeline.measurements.disc import percentile_of_height
from pipeline.types import Geometry, LabelClass, LabelMap, Laterality
from pipeline.types.assessment import MeasureRecord

DISC_CUP = LabelMap(
    (LabelClass(1, "disc", (0, 0, 0), None, None, "optic_disc"), LabelClass(2, "cup", (0, 0, 0), None, "disc", "optic_cup")), True
)
SHAPE = (120, 160)


def ellipse(row: float, column: float, height: float, width: float) -> BoolArray:
    """Semi-axes ``height`` and ``width`` in pixels."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside: BoolArray = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 <= 1
    return inside


def rim(
    disc: BoolArray, cup: BoolArray, eye: Laterality | None = "R", spacing: tuple[float, float] | None = None
) -> dict[str, MeasureRecord]:
    geometry = Geometry(disc.shape, spacing, "unknown" if spacing is None else "tag", None, eye, "unknown" if eye is None else "tag")
    records = measure_case(MeasuredCase(geometry, DISC_CUP, [disc, cup].__getitem__))
    return {record.key.removeprefix("rim_"): record for record in records}


def exact(shift: float, towards: float, outer: float, inner: float) -> float:
    """Mean width of the rim within 45 degrees of ``towards``, with the centre of the cup ``shift`` to the right of the disc's."""
    angles = np.radians(np.linspace(towards - 45, towards + 45, 2001))
    return float(np.mean(outer - (shift * np.cos(angles) + np.sqrt(inner**2 - (shift * np.sin(angles)) ** 2))))


def widths(records: dict[str, MeasureRecord]) -> npt.NDArray[np.float64]:
    return np.array([records[side].value for side in ("inferior", "superior", "nasal", "temporal")], float)


def test_a_cup_in_the_middle_leaves_a_rim_of_one_width() -> None:
    assert widths(rim(ellipse(60, 80, 45, 45), ellipse(60, 80, 20, 20))) == pytest.approx(np.full(4, 25), abs=0.3)


def test_a_cup_towards_the_right_narrows_the_nasal_rim_of_a_right_eye() -> None:
    disc, cup = ellipse(60, 80, 45, 45), ellipse(60, 88, 20, 20)
    expected = [exact(8, 270, 45, 20), exact(8, 90, 45, 20), exact(8, 0, 45, 20), exact(8, 180, 45, 20)]
    right = widths(rim(disc, cup, "R"))
    assert right == pytest.approx(expected, abs=0.3)
    assert widths(rim(disc[:, ::-1], cup[:, ::-1], "L")) == pytest.approx(right, abs=1e-9), "a mirrored left eye is a right one"
    turned = widths(rim(disc[::-1, ::-1], cup[::-1, ::-1], "L"))
    assert turned == pytest.approx(right, abs=1e-9), "turned by 180 degrees, up is down, and both are as wide here"


def test_pixels_that_are_not_square_are_measured_in_mm() -> None:
    records = rim(ellipse(60, 80, 45, 22.5), ellipse(60, 80, 20, 10), spacing=(0.02, 0.04))
    assert widths(records) == pytest.approx(np.full(4, 0.5), abs=0.015)
    assert {records[side].unit for side in ("inferior", "nasal")} == {"mm"}
    assert records["disc_area"].value == pytest.approx(np.pi * 0.9**2, rel=0.01)


def test_without_the_side_of_the_eye_nobody_knows_where_nasal_is() -> None:
    records = rim(ellipse(60, 80, 45, 45), ellipse(60, 88, 20, 20), None)
    assert records["superior"].value is not None
    assert records["nasal"].value is records["temporal"].value is None
    assert "which eye" in (records["nasal"].undefined or "")
    empty = rim(ellipse(60, 80, 45, 45), ellipse(60, 80, 20, 20) & False)
    assert {empty[side].undefined for side in ("inferior", "nasal")} == {"there is no cup"}


def test_the_percentile_goes_with_a_height_in_trusted_millimetres() -> None:
    assert "below 0.60 " in percentile_of_height(1.2)
    assert "below 0.75 " in percentile_of_height(1.9)
    assert "below 0.69 " in percentile_of_height(1.55)
    assert percentile_of_height(1.1) == percentile_of_height(2.0) == ""
    disc, cup = ellipse(60, 80, 45, 45), ellipse(60, 80, 20, 20)
    assert "1.55 mm high" in rim(disc, cup, spacing=(1.55 / 91, 1.55 / 91))["vcdr"].reference
    assert rim(disc, cup)["vcdr"].reference == ""
    guess = Geometry(SHAPE, (0.017, 0.017), "estimated")
    records = measure_case(MeasuredCase(guess, DISC_CUP, [disc, cup].__getitem__))
    assert {record.reference for record in records} == {""}
