from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.coverage import CoverageRisk, finds_low


def test_area_of_known_scores() -> None:
    found = CoverageRisk.of([0.1, 0.9, 0.5], [1.0, 0.1, 0.7])
    assert found.coverage == pytest.approx([1 / 3, 2 / 3, 1])
    assert found.score == pytest.approx([1.0, 0.85, 0.6])
    assert found.area == pytest.approx(1 - (1.0 + 0.85 + 0.6) / 3)
    assert found.best == pytest.approx(found.area)
    assert found.random == pytest.approx(0.4)


def test_doubt_that_knows_nothing_is_worth_nothing_whatever_the_order() -> None:
    for scores in ([0.2, 0.9, 0.4], [0.9, 0.4, 0.2]):
        found = CoverageRisk.of([0.5] * 3, scores)
        assert found.area == pytest.approx(found.random)
        assert found.best < found.random


def test_a_predicted_dice_is_judged_by_whether_it_finds_low_ones() -> None:
    true = np.array([0.9, 0.8, 0.6, 0.3])
    assert finds_low([0.9, 0.8, 0.7, 0.2], true)[0] == 1
    assert finds_low([0.9, 0.5, 0.7, 0.2], true)[0] == 0.75
    assert np.isnan(finds_low([0.9, 0.8], [0.9, 0.8])[0])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one each"):
        CoverageRisk.of([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="at least one case"):
        CoverageRisk.of([], [])
