"""Distances of some pixels to the wall are those of the whole map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.measurements import wall_distance
from pipeline.measurements.wall_distance import distance_to_wall


@pytest.mark.parametrize("smooth", [0.0, 1.5, 6.0, 20.0])
def test_distances_equal_those_of_a_map_of_all_pixels(smooth: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(150, 190)), smooth)
    mask = noise > np.quantile(noise, 0.4)
    whole = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(mask)
    assert np.allclose(distance_to_wall(mask, rows, columns), whole[rows, columns], rtol=0, atol=1e-12)


def test_so_do_those_of_more_pixels_than_are_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall_distance, "_MOST_LOOKS", 500)
    test_distances_equal_those_of_a_map_of_all_pixels(6.0)


def test_a_mask_that_fills_the_picture_ends_at_its_border() -> None:
    mask = np.ones((101, 61), dtype=bool)
    assert distance_to_wall(mask, np.array([50, 0]), np.array([30, 30])).tolist() == [31.0, 1.0]
    assert distance_to_wall(mask, np.zeros(0, np.int64), np.zeros(0, np.int64)).shape == (0,)
