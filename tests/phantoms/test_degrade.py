"""Degradations: nothing at amount 0, more with more, in the picture's own size and type."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phantoms.degrade import DEGRADATIONS


def photograph() -> np.ndarray:
    """A bright disc with lines on it, 90 x 120, in a black surround."""
    y, x = np.mgrid[0:90, 0:120]
    lit = (y - 45) ** 2 + (x - 60) ** 2 < 40**2
    lines = 40 * ((x // 4) % 2)
    return (lit[..., None] * np.stack([150 + lines, 90 + lines, 50 + lines], axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_more_of_it_is_further_from_the_picture_and_none_of_it_is_the_picture(name: str) -> None:
    picture, change = photograph(), DEGRADATIONS[name]
    distances = []
    for amount in (0.0, 0.3, 1.0):
        changed = change(picture, amount, np.random.default_rng(3))
        assert changed.shape == picture.shape
        assert changed.dtype == np.uint8
        distances.append(float(np.abs(changed.astype(int) - picture).mean()))
    assert distances[0] == 0
    assert 0 < distances[1] < distances[2]


def test_haze_leaves_the_surround_black() -> None:
    hazed = DEGRADATIONS["haze"](photograph(), 1.0, np.random.default_rng(0))
    assert hazed[0].max() == 0
    assert hazed[45, 60].min() > 100
