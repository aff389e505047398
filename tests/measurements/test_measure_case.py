"""Every number of a case comes out of the one registry: with its unit, its interval, or the reason why there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.measurements.by_role import MEASUREMENTS, measure_case, place_in_registry
from pipeline.measurements.case import Alternative, BoolArray, MeasuredCase
from pipeline.measurements.quantity import class_key
from pipeline.types import Geometry, LabelClass, LabelMap
from pipeline.types.assessment import MeasureRecord

DISC_CUP = LabelMap(
    (LabelClass(1, "disc", (0, 0, 0), None, None, "optic_disc"), LabelClass(2, "cup", (0, 0, 0), None, "disc", "optic_cup")), True
)
SHAPE = (60, 80)


def box(top: int, left: int, rows: int, columns: int) -> BoolArray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[top : top + rows, left : left + columns] = True
    return mask


DISC, CUP = box(10, 20, 40, 30), box(20, 25, 20, 15)


def case(disc: BoolArray = DISC, cup: BoolArray = CUP, **settings: object) -> MeasuredCase:
    return replace(MeasuredCase(Geometry(SHAPE), DISC_CUP, [disc, cup].__getitem__), **settings)  # type: ignore[arg-type]


def measured(of: MeasuredCase) -> dict[str, MeasureRecord]:
    records = measure_case(of)
    assert len({record.key for record in records}) == len(records)
    return {record.key: record for record in records}


def test_lengths_are_in_mm_only_where_the_size_of_a_pixel_is_known() -> None:
    plain = measured(case())
    assert (plain["disc_height"].value, plain["disc_height"].unit, plain["disc_height"].scale) == (40, "px", None)
    spaced = measured(case(geometry=Geometry(SHAPE, (0.05, 0.01), "estimated")))
    assert (spaced["disc_height"].value, spaced["disc_height"].unit, spaced["disc_height"].scale) == (pytest.approx(2), "mm", "estimated")
    assert (spaced["disc_area"].value, spaced["disc_area"].unit) == (pytest.approx(1200 * 0.0005), "mm2")
    assert spaced["vcdr"].scale is None
    assert spaced["vcdr"].classes == ("disc", "cup")


def test_no_number_of_a_withheld_class_is_given_and_all_say_why() -> None:
    records = measured(case(withheld={"cup": "the cup lies outside the disc"}))
    assert records["disc_height"].value == 40
    assert (records["vcdr"].value, records["vcdr"].undefined) == (None, "the cup lies outside the disc")
    assert case(withheld={"disc": "no"}).of_role("optic_disc") is None


def test_an_interval_spans_the_alternatives_and_says_what_they_are() -> None:
    others = tuple(Alternative([DISC, box(20, 25, rows, 15)].__getitem__) for rows in (16, 24))
    ratio = measured(case(alternatives=others, spread="two thresholds"))["vcdr"]
    assert (ratio.low, ratio.value, ratio.high) == (pytest.approx(0.4), pytest.approx(0.5), pytest.approx(0.6))
    assert ratio.interval == "least and greatest over two thresholds"
    lost = measured(case(alternatives=(*others, Alternative([DISC, box(0, 0, 0, 0)].__getitem__)), spread="two thresholds"))["vcdr"]
    assert (lost.low, lost.high) == (None, None)
    assert "there is no cup" in lost.interval
    assert measured(case())["vcdr"].interval == ""


def test_keys_of_classes_differ_and_begin_with_a_letter() -> None:
    names = ("Hard Exudates", "hard-exudates", "出血", "RNFL")
    classes = LabelMap(tuple(LabelClass(k, name, (0, 0, 0)) for k, name in enumerate(names, 1)), True)
    assert [class_key(classes, place) for place in range(4)] == ["hard_exudates_1", "hard_exudates_2", "class_3", "rnfl"]


def test_a_key_of_any_class_finds_its_place_in_the_registry() -> None:
    keys = [quantity.key for measurement in MEASUREMENTS for quantity in measurement.quantities]
    assert [place_in_registry(key.replace("{class}", "any_thing")) for key in keys] == [keys.index(key) for key in keys]
    assert place_in_registry("unheard-of") == len(keys)


def test_every_quantity_has_a_key_of_its_own_and_a_definition() -> None:
    quantities = {
        quantity for measurement in MEASUREMENTS for quantity in measurement.quantities
    }  # vessels, arteries and veins share theirs
    assert len({quantity.key for quantity in quantities}) == len(quantities)
    assert all(quantity.definition and quantity.title for quantity in quantities)
