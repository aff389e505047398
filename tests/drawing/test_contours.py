"""What is drawn is the mask: every pixel centre lies on the right side of the drawn contour."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.drawing.contours import drawable, path_data, simplify, small_finding_rings, trace


def parse(path: str) -> list[np.ndarray]:
    """The subset of SVG path syntax that path_data writes, read by SVG's own rules -> loops (N, 2) of x, y in pixels."""
    loops = []
    for part in re.findall(r"M(-?\d+) (-?\d+)l([^zM]*)z", path):
        numbers = [int(n) for n in re.findall(r"-?\d+", part[2])]
        steps = np.array(numbers).reshape(-1, 2)
        start = np.array([[int(part[0]), int(part[1])]])
        loops.append(np.concatenate([start, start + np.cumsum(steps, axis=0)]) / 2)
    return loops


def even_odd(loops: list[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """Which pixel centres lie inside, by counting crossings of a ray to the left."""
    inside = np.zeros((rows, columns), dtype=bool)
    y, x = np.mgrid[:rows, :columns] + 0.5
    for loop in loops:
        for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            if y0 == y1:
                continue
            crosses = (y0 <= y) != (y1 <= y)
            inside ^= crosses & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x)
    return inside


@settings(max_examples=150, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 13), st.integers(1, 17))))
def test_the_drawn_path_holds_exactly_the_mask(layer: np.ndarray) -> None:
    assert (even_odd(parse(path_data(layer)), *layer.shape) == layer).all()


def test_large_smooth_shapes_are_exact_and_small() -> None:
    y, x = np.mgrid[:300, :420]
    ring = ((y - 140) ** 2 + (x - 200) ** 2 < 120**2) & ((y - 140) ** 2 + (x - 230) ** 2 > 50**2)
    path = path_data(ring)
    assert (even_odd(parse(path), 300, 420) == ring).all()
    assert path.count("M") == 2, "an outline and a hole"
    full = sum(len(loop) for loop in trace(ring))
    assert sum(len(loop) for loop in parse(path)) < full / 3


def test_a_rectangle_keeps_its_corners_and_nothing_else() -> None:
    layer = np.zeros((20, 30), dtype=bool)
    layer[4:10, 7:19] = True
    (loop,) = trace(layer)
    assert sorted(set(loop[:, 0])) == [14, 15, 37, 38]  # each corner is cut by half a pixel
    assert sorted(set(loop[:, 1])) == [8, 9, 19, 20]
    assert 4 <= len(simplify(loop)) <= 8


def test_diagonal_neighbours_are_one_outline() -> None:
    assert len(trace(np.eye(7, 9, dtype=bool))) == 1


def test_an_empty_layer_draws_nothing() -> None:
    assert path_data(np.zeros((5, 8), dtype=bool)) == ""
    assert trace(np.zeros((5, 8), dtype=bool)) == []


def test_noise_is_thinned_out_and_the_limit_is_told() -> None:
    noise = np.random.default_rng(5).random((300, 400)) > 0.6
    noise[100:200, 100:300] = True
    thinned, smallest = drawable(noise, most_edges=4000)
    assert smallest > 1
    assert thinned[101:199, 101:299].all()
    assert sum(len(loop) for loop in trace(thinned)) <= 4000
    clean = np.zeros((30, 40), dtype=bool)
    clean[3:5, 6] = True
    same, smallest = drawable(clean)
    assert smallest == 1
    assert (same == clean).all()


def test_rings_mark_small_lesions_but_not_a_vessel_tree_and_its_crumbs() -> None:
    lesions = np.zeros((600, 800), dtype=bool)
    lesions[100:104, 200:206] = True
    lesions[400:430, 500:530] = True  # large enough to be seen without a ring
    assert small_finding_rings(lesions) == [(203.0, 102.0, 10.0)]
    vessels = lesions.copy()
    vessels[300, 50:750] = True
    assert small_finding_rings(vessels) == []
    assert small_finding_rings(np.zeros((600, 800), dtype=bool)) == []


def test_a_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="must be"):
        trace(np.zeros((2, 3, 4), dtype=bool))
