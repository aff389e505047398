from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.doubt.look import FEATURES, distance, learn_look, look, unlike
from pipeline.doubt.model import DoubtModel
from pipeline.phantoms.fundus import draw_fundus


def looks(seeds: range) -> list[npt.NDArray[np.float64]]:
    drawn = [draw_fundus(seed, "R", (64, 80)) for seed in seeds]
    return [look(np.moveaxis(one.image, -1, 0), one.field_of_view) for one in drawn]


def test_a_form_and_a_grey_picture_are_unlike_photographs_and_other_photographs_are_not() -> None:
    training = learn_look(looks(range(30)), looks(range(50, 62)))
    assert max(unlike(training, one) for one in looks(range(70, 74))) < 0.5
    form = np.full((3, 64, 80), 250, np.uint8)
    form[:, 6:60:8, 8:70] = 20
    grey = np.random.default_rng(1).integers(0, 255, (1, 64, 80), dtype=np.uint8)
    for strange in (form, grey):
        assert unlike(training, look(strange, np.ones((64, 80), bool))) > 0.7


def test_a_look_is_that_of_the_mirrored_picture() -> None:
    one = draw_fundus(3, "R", (64, 80))
    pixels = np.moveaxis(one.image, -1, 0)
    found = look(pixels, one.field_of_view)
    assert len(found) == len(FEATURES)
    assert look(pixels[:, :, ::-1], one.field_of_view[:, ::-1]) == pytest.approx(found, abs=1e-5)


def test_the_usual_distance_is_that_of_validation_and_the_record_keeps_it() -> None:
    training = learn_look(looks(range(8)), looks(range(20, 23)))
    kept = DoubtModel.model_validate_json(DoubtModel(look=training).to_text()).look
    assert kept == training
    away = np.array(training.mean)
    assert (distance(training, away), unlike(training, away)) == (0, 0)
    with pytest.raises(ValueError, match="do not say what is usual"):
        learn_look(looks(range(1)), [])
