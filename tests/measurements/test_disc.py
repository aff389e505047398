"""Cup-to-disc ratios of shapes whose sides are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measurements.disc import agreement, cup_to_disc, vcdr, vcdr_by_agreement
from pipeline.metrics.threshold import decide
from pipeline.types import LabelClass, LabelMap
from tests.conftest import shared_data

SHAPE = (40, 57)


def box(top: int, left: int, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[top : top + rows, left : left + columns] = True
    return mask


def test_ratios_of_rectangles() -> None:
    found = cup_to_disc(box(5, 10, 20, 30), box(9, 15, 8, 18))
    assert {name: measure.value for name, measure in found.items()} == {
        "vcdr": pytest.approx(8 / 20),
        "hcdr": pytest.approx(18 / 30),
        "area_cdr": pytest.approx(8 * 18 / 600),
    }
    assert {measure.unit for measure in found.values()} == {"1"}
    assert len({measure.definition for measure in found.values()}) == 3


def test_both_eyes_measure_alike_and_a_turned_head_does_not() -> None:
    disc, cup = box(5, 10, 20, 30), box(9, 12, 8, 18)
    assert vcdr(disc[:, ::-1], cup[:, ::-1]) == vcdr(disc, cup)
    assert vcdr(disc.T, cup.T).value == cup_to_disc(disc, cup)["hcdr"].value


def test_a_speck_far_away_changes_nothing() -> None:
    disc, cup = box(5, 10, 20, 30), box(9, 15, 8, 18)
    assert vcdr(disc | box(38, 0, 2, 2), cup | box(0, 55, 1, 2)) == vcdr(disc, cup)


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    assert vcdr(box(0, 0, 20, 30), box(2, 2, 3, 3) | box(5, 5, 3, 3)).value == pytest.approx(6 / 20)


@pytest.mark.parametrize(("disc", "cup", "reason"), [(0, 4, "there is no disc"), (9, 0, "there is no cup"), (0, 0, "there is no disc")])
def test_what_is_not_there_has_no_ratio(disc: int, cup: int, reason: str) -> None:
    for measure in cup_to_disc(box(3, 3, disc, 9), box(4, 4, cup, 4)).values():
        assert (measure.value, measure.undefined) == (None, reason)


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        vcdr(box(0, 0, 3, 3), box(0, 0, 3, 3)[:-1])
    with pytest.raises(ValueError, match="must be bool"):
        cup_to_disc(box(0, 0, 3, 3).astype(np.uint8), box(0, 0, 3, 3))


def test_soft_maps_give_one_ratio_a_level() -> None:
    disc, cup = np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint8)
    for level, rows in ((64, 24), (128, 20), (191, 20), (255, 16)):
        disc[5 : 5 + rows, 5:40] = level
    for level, rows in ((64, 12), (128, 10), (191, 5)):
        cup[8 : 8 + rows, 8:20] = level
    values = [measure.value for measure in vcdr_by_agreement(disc, cup)]
    assert values == [pytest.approx(12 / 24), pytest.approx(10 / 20), pytest.approx(5 / 20), None]


def test_agreement_by_hand() -> None:
    readers = {"a": [0.5, 0.7, 0.6], "b": [0.2, 0.2, 0.5]}
    alone = agreement(readers)
    assert (alone.images, alone.own_to_mean) == (2, None)
    assert alone.between == pytest.approx(((0.2 + 0) / 2 + (0.1 + 0.3) / 2 + (0.1 + 0.3) / 2) / 3)
    assert alone.to_others == pytest.approx(((0.15 + 0.15) / 2, (0.15 + 0.15) / 2, (0 + 0.3) / 2))
    beside = agreement(readers, {"a": 0.6, "b": 0.4})
    assert beside.own_to_each == pytest.approx(((0.1 + 0.2) / 2, (0.1 + 0.2) / 2, (0 + 0.1) / 2))
    assert beside.own_to_mean == pytest.approx((0 + 0.1) / 2)


def test_images_without_a_value_of_the_model_do_not_count() -> None:
    readers = {"a": [0.5, 0.7], "b": [0.2, 0.4], "c": [0.1, 0.9]}
    found = agreement(readers, {"a": 0.5, "b": None})
    assert found.images == 1
    assert found.between == pytest.approx(0.2)


@pytest.mark.parametrize("readers", [{}, {"a": [0.5]}, {"a": [0.5, 0.4], "b": [0.5, 0.4, 0.3]}])
def test_agreement_needs_readers(readers: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        agreement(readers)


def test_drishti_gs_soft_maps_lie_near_what_its_experts_said() -> None:
    """The mask that three of four experts agree on, against the four ratios that they wrote down."""
    from pipeline.scans.raster import read_image

    root = shared_data("drishti_gs_half_train")
    said = json.loads((root / "splits.json").read_text())["cdr_values_per_expert"]
    own = {
        name: vcdr(read_image(root / "softmap_od" / f"{name}.png") >= 191, read_image(root / "softmap_cup" / f"{name}.png") >= 191).value
        for name in said
    }
    found = agreement(said, own)
    assert found.images == 50
    assert found.own_to_mean is not None
    assert found.own_to_mean < min(found.to_others), "as near to their mean as any one of them to the others'"
    assert 0.05 < found.between < 0.12


def test_a_cup_found_beyond_its_disc_no_longer_makes_the_ratio_exceed_one() -> None:
    """Disc rows 10 to 29, cup rows 14 to 35 of the same likelihood: 22 / 20 where nothing is known of the two, 16 / 20 where the cup
    lies inside the disc. A cup that stays inside has the ratio that it had."""
    free = LabelMap((LabelClass(1, "disc", (0, 0, 1)), LabelClass(2, "cup", (0, 1, 0))), overlapping=True)
    nested = LabelMap((free.classes[0], replace(free.classes[1], inside="disc")), overlapping=True)
    chance = np.zeros((2, 44, 52))
    chance[0, 10:30, 8:40], chance[1, 14:36, 16:30] = 0.9, 0.9
    assert vcdr(*decide(chance, free)).value == pytest.approx(22 / 20)
    assert vcdr(*decide(chance, nested)).value == pytest.approx(16 / 20)
    chance[1, 30:] = 0
    assert vcdr(*decide(chance, free)).value == vcdr(*decide(chance, nested)).value == pytest.approx(16 / 20)
