from __future__ import annotations

import numpy as np
import pytest

from pipeline.doubt.evidence import Gathering, agreement, features, united
from pipeline.doubt.model import DiceModel, DoubtModel
from pipeline.doubt.uncertainty import ClassChances, border, entropy
from pipeline.types import LabelClass, LabelMap, Prediction

VESSELS = LabelMap((LabelClass(1, "vessel", (86, 180, 233), "SCT:59820001"),))


def test_expected_dice_is_the_closed_form() -> None:
    chance = np.zeros((6, 8), np.float32)
    chance[1:3, 2:6] = 0.75  # 8 pixels are marked, 4 others are not
    chance[4, 2:6] = 0.25
    own = ClassChances()
    own.add(chance, chance >= 0.5)
    assert own.expected_dice == pytest.approx(2 * 8 * 0.75 / (8 + 8 * 0.75 + 4 * 0.25))
    assert own.pixels == 8


def test_a_certain_mask_is_expected_to_be_right_and_nothing_of_nothing() -> None:
    sure = np.zeros((5, 7), np.float32)
    sure[2:4, 1:5] = 1
    own, none = ClassChances(), ClassChances()
    own.add(sure, sure > 0)
    none.add(np.zeros((5, 7), np.float32), np.zeros((5, 7), bool))
    assert (own.expected_dice, own.border_doubt) == (1, 0)
    assert (none.expected_dice, none.border_doubt) == (None, None)


def test_uncertainty_is_largest_at_one_half_and_a_temperature_spreads_it() -> None:
    assert entropy(np.array([0, 0.5, 1])).tolist() == [0, 1, 0]
    chance = np.array([[0.0, 0.5, 0.9, 1.0]], np.float32)
    usual, hot = (ClassChances(t).add(chance, chance >= 0.5) for t in (1.0, 3.0))
    assert (usual[0, 0], usual[0, 1], usual[0, 3]) == (0, 255, 0)
    assert usual[0, 2] < hot[0, 2] < 255


def test_a_border_is_a_band_around_the_outline_but_not_at_the_pictures_edge() -> None:
    mask = np.zeros((6, 9), bool)
    mask[:, :4] = True
    assert np.flatnonzero(border(mask).any(axis=0)).tolist() == [3, 4]
    assert not border(np.ones((6, 9), bool)).any()
    assert (border(mask[:, ::-1])[:, ::-1] == border(mask)).all()


def test_a_class_that_is_always_there_and_not_found_is_predicted_at_0() -> None:
    found = Gathering(VESSELS, DoubtModel())
    found.add(Prediction(probabilities=np.zeros((1, 5, 6), np.float32)), np.zeros((1, 5, 6), bool))
    assert found.evidence(True).classes[0].predicted == 0
    drusen = LabelMap((LabelClass(1, "drusen", (0, 0, 0)),))
    found = Gathering(drusen, DoubtModel())
    found.add(Prediction(probabilities=np.zeros((1, 5, 6), np.float32)), np.zeros((1, 5, 6), bool))
    assert found.evidence(True).classes[0].predicted is None


def test_boxes_without_probabilities_say_nothing() -> None:
    found = Gathering(VESSELS, DoubtModel())
    found.add(Prediction(boxes=np.zeros((0, 4), np.float32)), None)
    assert found.evidence(True).uncertainty is None


def test_where_folds_disagree_the_map_is_white_and_less_is_promised() -> None:
    one, other = np.zeros((2, 1, 4, 6), bool)
    one[0, 1:3, 1:5], other[0, 1:3, 3:5] = True, True
    parts = []
    for mask in (one, other):
        gathering = Gathering(VESSELS, DoubtModel())
        gathering.add(Prediction(probabilities=mask.astype(np.float32)), mask)
        parts.append(gathering.evidence(True))
    both = LabelMap((VESSELS.classes[0], LabelClass(2, "vessel_b", (0, 0, 0))), overlapping=True)
    found = united(parts, [VESSELS.names] * 2, both.mask(np.concatenate([one, other])).astype(np.uint8), both)
    assert [cls.name for cls in found.classes] == ["vessel", "vessel_b"]
    assert [cls.predicted for cls in found.classes] == [pytest.approx(2 * 4 / (8 + 4))] * 2
    assert found.uncertainty is not None
    assert (found.uncertainty == np.where(one ^ other, 255, 0)[0]).all()
    assert agreement(np.zeros((2, 4, 6), bool)) is None


def test_a_learnt_dice_goes_up_with_what_it_is_learnt_from() -> None:
    model = DiceModel(usual=0.1, weights={"expected": 2.0}, bias=-1.0)
    assert model.predict({"expected": 0.5}) == pytest.approx(0.5)
    assert (model.predict({"expected": 1.0}) or 0) > 0.5
    assert model.predict({"other": 1.0}) is None


def test_what_is_learnt_knows_too_much_and_too_little_of_a_class_by_the_field_of_view() -> None:
    chance = np.zeros((10, 20), np.float32)
    chance[2:6, 3:8] = 1  # 20 of 100 pixels of the field
    own = ClassChances()
    own.add(chance, chance > 0)
    assert features(own, 100, 0.2) | {"expected": 0, "sharp": 0} == pytest.approx({"expected": 0, "sharp": 0, "more": 0, "less": 0})
    assert features(own, 100, 0.1)["more"] == pytest.approx(-np.log(2))
    assert features(own, 100, 0.4)["less"] == pytest.approx(-np.log(2))
    assert features(own, 100, 0.4)["more"] == 0
