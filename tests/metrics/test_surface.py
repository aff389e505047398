"""Outline distances against geometry that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from pipeline.metrics.surface import assd, hd95, nsd

masks = hnp.arrays(bool, (6, 9))


def square(row: int, column: int, size: int = 5) -> np.ndarray:
    mask = np.zeros((20, 31), dtype=bool)
    mask[row : row + size, column : column + size] = True
    return mask


def test_equal_masks_have_no_distance():
    one = square(4, 6)
    assert hd95(one, one).value == 0.0
    assert assd(one, one).value == 0.0
    assert nsd(one, one, 0).value == 1.0


def test_two_pixels_apart():
    first, second = np.zeros((9, 12), dtype=bool), np.zeros((9, 12), dtype=bool)
    first[2, 3] = second[5, 7] = True  # 3 rows, 4 columns
    assert hd95(first, second).value == pytest.approx(5.0)
    assert assd(first, second).value == pytest.approx(5.0)
    assert hd95(first, second).unit == "px"
    measured = hd95(first, second, spacing=(0.01, 0.02))
    assert measured.value == pytest.approx(np.hypot(0.03, 0.08))
    assert measured.unit == "mm"
    assert nsd(first, second, 4.9).value == 0.0
    assert nsd(first, second, 5.0).value == 1.0


def test_a_shifted_line():
    first, second = np.zeros((9, 30), dtype=bool), np.zeros((9, 30), dtype=bool)
    first[2, 4:20] = second[4, 4:20] = True
    assert hd95(first, second).value == pytest.approx(2.0)
    assert assd(first, second, spacing=(0.5, 9.0)).value == pytest.approx(1.0)


def test_spacing_order_is_rows_then_columns():
    moved = hd95(square(4, 6), square(4, 9), spacing=(7.0, 0.5)).value
    assert moved == pytest.approx(1.5)


def test_slices_have_their_own_spacing():
    first, second = np.zeros((4, 5, 6), dtype=bool), np.zeros((4, 5, 6), dtype=bool)
    first[0, 2, 2] = second[3, 2, 2] = True
    assert hd95(first, second, spacing=(0.2, 1.0, 1.0)).value == pytest.approx(0.6)


def test_missing_structures_are_undefined_and_say_why():
    there, nothing = square(4, 6), np.zeros((20, 31), dtype=bool)
    for distance in (hd95, assd):
        assert distance(nothing, there).undefined == "the prediction misses the structure"
        assert distance(there, nothing).undefined == "the reference does not hold the structure"
        assert "absent" in (distance(nothing, nothing).undefined or "")
    assert nsd(nothing, nothing, 1).value is None
    assert nsd(nothing, there, 1).value == 0.0
    assert nsd(there, nothing, 1).undefined == "the reference does not hold the structure"


def test_outside_the_field_of_view_nothing_counts():
    true = square(4, 6)
    pred = true | square(14, 25)
    valid = np.ones_like(true)
    valid[12:] = False
    assert (hd95(pred, true).value or 0) > 10
    assert hd95(pred, true, valid=valid).value == 0.0


def test_a_structure_cut_by_the_edge_has_an_outline_there():
    mask = np.ones((4, 7), dtype=bool)
    assert hd95(mask, mask).value == 0.0


@settings(max_examples=60)
@given(masks, masks)
def test_symmetric_and_ordered(first, second):
    forth, back = hd95(first, second), hd95(second, first)
    assert forth.value == back.value
    if forth.value is not None:
        mean = assd(first, second).value
        assert mean is not None
        assert 0 <= mean <= np.hypot(6, 9)
        assert nsd(first, second, np.hypot(6, 9)).value == 1.0
        doubled = hd95(first, second, spacing=(2.0, 2.0)).value
        assert doubled == pytest.approx(2 * forth.value)


def test_wrong_input_is_refused():
    mask = square(1, 1)
    with pytest.raises(ValueError, match="one shape"):
        hd95(mask, mask.T)
    with pytest.raises(ValueError, match="spacing"):
        hd95(mask, mask, spacing=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="tolerance"):
        nsd(mask, mask, -1)
