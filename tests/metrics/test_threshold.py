"""The rule from probabilities to masks, and the threshold that validation chooses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.metrics.overlap import dice
from pipeline.metrics.threshold import best_threshold, decide, decide_both_ways
from pipeline.types import LabelClass, LabelMap

VESSEL = LabelMap((LabelClass(1, "vessel", (0, 0, 255)),))
ARTERY_VEIN = LabelMap((LabelClass(1, "artery", (255, 0, 0)), LabelClass(2, "vein", (0, 0, 255))))
DISC_CUP = LabelMap((LabelClass(1, "disc", (1, 2, 3)), LabelClass(2, "cup", (4, 5, 6))), overlapping=True)


def test_one_class_is_present_from_its_threshold_on():
    chance = np.array([[[0.2, 0.3, 0.31], [0.5, 0.29, 0.9]]], dtype=np.float32)
    assert decide(chance, VESSEL, {"vessel": 0.3}).tolist() == [[[False, True, True], [True, False, True]]]
    assert decide(chance, VESSEL).sum() == 2


def test_overlapping_classes_are_decided_one_by_one():
    chance = np.array([[[0.9, 0.6]], [[0.7, 0.4]]])
    assert decide(chance, DISC_CUP, {"cup": 0.4}).tolist() == [[[True, True]], [[True, True]]]


def test_no_threshold_lets_a_cup_out_of_its_disc():
    """The cup everywhere likelier than the disc, and let through sooner: it is still found in the disc alone."""
    nested = LabelMap((DISC_CUP.classes[0], LabelClass(2, "cup", (4, 5, 6), inside="disc")), overlapping=True)
    chance = np.stack([np.linspace(0.1, 0.9, 12).reshape(3, 4), np.linspace(0.2, 1, 12).reshape(3, 4)])
    for thresholds in ({"disc": 0.8, "cup": 0.1}, {}, {"disc": 0.5, "cup": 0.95}):
        disc, cup = decide(chance, nested, thresholds)
        free_disc, free_cup = decide(chance, DISC_CUP, thresholds)
        assert (disc == free_disc).all()
        assert (cup == free_cup & free_disc).all()
    assert (decide(chance, DISC_CUP, {"disc": 0.8, "cup": 0.1})[1] & ~decide(chance, nested, {"disc": 0.8})[0]).sum() == 10


def test_exclusive_classes_compete_with_the_background():
    chance = np.array([[[0.4, 0.2, 0.3]], [[0.35, 0.2, 0.3]]])  # background .25, .6, .4
    layers = decide(chance, ARTERY_VEIN, {"artery": 0.99, "vein": 0.01})
    assert layers.tolist() == [[[True, False, False]], [[False, False, False]]]


def test_wrong_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="2 probability layers for 1 classes"):
        decide(np.zeros((2, 3, 4)), VESSEL)


def test_threshold_sits_in_the_middle_of_the_gap():
    chance = np.array([[0.1, 0.2, 0.3], [0.7, 0.8, 0.2]])
    true = chance > 0.5
    assert best_threshold([chance], [true]) == pytest.approx(0.5, abs=0.01)
    assert best_threshold([chance / 4], [true]) == pytest.approx((0.3 + 0.7) / 8, abs=0.01)


def test_outside_the_field_of_view_does_not_move_the_threshold():
    chance = np.array([[0.05, 0.2, 0.95, 0.9]])
    true = np.array([[False, True, False, False]])
    valid = np.array([[True, True, False, False]])
    assert 0.05 < best_threshold([chance], [true], [valid]) <= 0.2


def test_every_image_weighs_the_same():
    small, large = np.array([[0.3, 0.25]]), np.full((50, 70), 0.2)
    small_true, large_true = np.array([[True, False]]), np.zeros((50, 70), dtype=bool)
    large_true[:, :35] = True
    # Pooled, the large image would win with a threshold of at most 0.2; the three small ones are only right above 0.25.
    found = best_threshold([small] * 3 + [large], [small_true] * 3 + [large_true])
    assert 0.25 < found <= 0.3


def test_images_without_the_class_do_not_move_the_threshold():
    """As in the score that it is chosen by: nothing to gain by finding nothing."""
    chance, true = np.array([[0.1, 0.3, 0.35]]), np.array([[False, True, True]])
    without = [np.array([[0.9, 0.4, 0.2]])] * 5
    alone = best_threshold([chance], [true])
    assert 0.1 < alone <= 0.3
    assert best_threshold([chance, *without], [true, *[np.zeros((1, 3), dtype=bool)] * 5]) == alone


def test_without_images_it_is_one_half():
    assert best_threshold([], []) == 0.5


@settings(max_examples=60)
@given(hnp.arrays(np.float32, (5, 9), elements=st.floats(0, 1, width=32)), hnp.arrays(bool, (5, 9)))
def test_no_other_threshold_is_better(chance, true):
    chosen = best_threshold([chance], [true])
    if not true.any():
        assert chosen == 0.5, "an image without the class says nothing of its threshold"
        return
    best = max(dice(chance >= float(t), true) for t in np.arange(1, 200) / 200)  # in the precision of the probabilities, as decide()
    assert dice(decide(chance[None], VESSEL, {"vessel": chosen})[0], true) == pytest.approx(best)


def test_both_ways_is_a_threshold_at_other_odds_and_holds_less_and_more() -> None:
    chance = np.linspace(0, 1, 101)[None]
    for least in (0.5, 0.2):
        few, many = decide_both_ways(chance, VESSEL, {"vessel": least})
        odds = least / (1 - least)
        assert chance[few].min() == pytest.approx(3 * odds / (1 + 3 * odds), abs=0.01)
        assert chance[many].min() == pytest.approx(odds / 3 / (1 + odds / 3), abs=0.01)


@given(hnp.arrays(np.float32, (2, 5, 7), elements=st.floats(0, 0.5, width=32)))
@settings(max_examples=30, deadline=None)
def test_of_exclusive_classes_one_way_only_adds_background_and_the_other_only_takes_it(chance: np.ndarray) -> None:
    few, many = decide_both_ways(chance, ARTERY_VEIN)
    own = decide(chance, ARTERY_VEIN)
    assert (few <= own).all()
    assert (own <= many).all()
    assert (many.sum(axis=0) <= 1).all()
    assert not decide_both_ways(np.zeros((2, 3, 4)), ARTERY_VEIN)[1].any()
