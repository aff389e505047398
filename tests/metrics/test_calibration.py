from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.calibration import CODES, VALUES, PixelReliability, calibrated, codes, counted


def test_every_float16_from_0_to_1_has_its_place() -> None:
    assert (codes(VALUES) == np.arange(CODES)).all()
    assert (VALUES[0], VALUES[-1]) == (0, 1)
    assert codes(np.array([-0.0, 0.0, 1.0], np.float32)).tolist() == [0, 0, CODES - 1]
    assert counted(codes(np.array([[0.5, 0.5], [1, 0]])))[[0, codes(np.array([0.5]))[0], -1]].tolist() == [1, 2, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    random = np.random.default_rng(3)
    logits = random.normal(-1, 2, (300, 401))
    truth = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    known = random.random(logits.shape) < 0.9
    own = PixelReliability()
    own.add(1 / (1 + np.exp(-logits * temperature)), truth, known)  # as much too sure as the temperature says
    found = own.temperature()
    assert found == pytest.approx(temperature, rel=0.03)
    after = own.error(found)
    assert after is not None
    assert after < 0.01
    if temperature != 1:
        assert (own.error() or 0) > 3 * after


def test_pixels_outside_the_field_do_not_count_and_stay_certain() -> None:
    own = PixelReliability()
    own.add(np.array([[0.25, 0.9]]), np.array([[True, True]]), np.array([[True, False]]))
    assert own.error() == pytest.approx(0.75)
    assert PixelReliability().error() is None
    assert PixelReliability().temperature() == 1
    assert calibrated(3.0)[0] == 0


def test_a_temperature_keeps_one_half_and_the_order() -> None:
    warm = calibrated(2.0)
    assert warm[codes(np.array([0.5]))[0]] == pytest.approx(0.5)
    assert (np.diff(warm) >= 0).all()
    assert warm[codes(np.array([0.8]))[0]] == pytest.approx(1 / (1 + 0.25**0.5), abs=1e-3)
