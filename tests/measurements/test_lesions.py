"""Lesions that are drawn: their number, area and distance to the fovea, and which ETDRS ring they lie in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.measurements.by_role import measure_case
from pipeline.measurements.case import BoolArray, MeasuredCase
from pipeline.types import Geometry, LabelClass, LabelMap
from pipeline.types.assessment import MeasureRecord

CLASSES = LabelMap(
    (LabelClass(1, "fovea", (0, 0, 0), "SCT:67046006"), LabelClass(2, "exudate", (0, 0, 0), None, None, "lesion")), overlapping=True
)
SHAPE = (140, 180)
FOVEA = (70, 90)


def box(top: int, left: int, rows: int, columns: int) -> BoolArray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[top : top + rows, left : left + columns] = True
    return mask


def measured(lesions: BoolArray, fovea: BoolArray | None = None, **settings: Any) -> dict[str, MeasureRecord]:
    there = box(69, 89, 3, 3) if fovea is None else fovea
    case = MeasuredCase(Geometry(SHAPE, (0.05, 0.05), "tag"), CLASSES, [there, lesions].__getitem__)
    records = measure_case(replace(case, **settings))
    return {record.key.removeprefix("lesion_").removesuffix("_exudate"): record for record in records}


def values(records: dict[str, MeasureRecord]) -> dict[str, tuple[float | None, str]]:
    return {key: (record.value, record.unit) for key, record in records.items()}


def test_lesions_are_counted_and_measured_ring_by_ring() -> None:
    lesions = box(70, 95, 2, 4) | box(50, 88, 3, 3) | box(47, 91, 3, 3) | box(70, 10, 5, 5)
    found = measured(lesions)  # the second and third touch at a corner
    assert values(found) == {
        "number": (3, "1"),
        "area": (pytest.approx((8 + 18 + 25) * 0.0025), "mm2"),
        "fovea_distance": (pytest.approx(5 * 0.05), "mm"),
        "area_centre": (pytest.approx(8 * 0.0025), "mm2"),
        "area_inner": (pytest.approx(18 * 0.0025), "mm2"),
        "area_outer": (0, "mm2"),
    }
    mirrored = measured(lesions[:, ::-1], box(69, 89, 3, 3)[:, ::-1])
    assert values(mirrored) == values(found)


def test_without_a_fovea_or_millimetres_it_is_said() -> None:
    no_fovea = measured(box(70, 95, 2, 4), box(0, 0, 0, 0))
    assert set(no_fovea) == {"number", "area", "fovea_distance"}
    assert (no_fovea["fovea_distance"].value, no_fovea["fovea_distance"].undefined) == (None, "no model of this run found the fovea")
    pixels = measured(box(70, 95, 2, 4), geometry=Geometry(SHAPE))
    assert values(pixels)["fovea_distance"] == (5, "px")
    assert "rings are in mm" in (pixels["area_inner"].undefined or "")
    assert measured(box(0, 0, 0, 0))["fovea_distance"].undefined == "there is no exudate"


def test_a_model_of_boxes_counts_and_measures_no_area() -> None:
    boxes = ((94.0, 60.0, 110.0, 80.0), (0.0, 0.0, 9.0, 9.0))
    found = measured(box(0, 0, 0, 0), objects={"exudate": boxes}, has_masks=False)
    assert values(found)["number"] == (2, "1")
    assert "no pixels" in (found["area"].undefined or "")
    assert values(found)["fovea_distance"] == (pytest.approx(4 * 0.05), "mm")
