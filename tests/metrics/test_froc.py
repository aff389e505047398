"""Per-lesion sensitivity against false positives an image, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.detection import ImageObjects
from pipeline.metrics.froc import RATES, froc

LESION, OTHER = (10, 10, 30, 20), (100, 40, 120, 60)


def image(truths: list[tuple[float, ...]], found: list[tuple[float, ...]]) -> ImageObjects:
    """Truths (box) and detections (box, score) of class 1 in an image of 90 x 150."""
    true, guess = np.array(truths, np.float32).reshape(-1, 4), np.array(found, np.float32).reshape(-1, 5)
    ones = np.ones(len(guess), np.int64)
    return ImageObjects((90, 150), true, np.ones(len(true), np.int64), guess[:, :4], ones, guess[:, 4])


def by_hand() -> list[ImageObjects]:
    """Two lesions in four images. By score: hit, alarm, repeat, hit, alarm (tied with the hit), then seven alarms."""
    away = (60, 70, 70, 80)
    return [
        image([LESION, OTHER], [(*LESION, 0.9), (12, 11, 28, 19, 0.7), (*OTHER, 0.6)]),
        image([], [(*away, 0.8), (*away, 0.6)]),
        image([], [(*away, 0.5)] * 7),
        image([], []),
    ]


def test_curve_by_hand() -> None:
    curve = froc(by_hand(), 1)
    assert curve is not None
    np.testing.assert_allclose(curve.false_positives, np.array([0, 0, 1, 1, 2, 9]) / 4)
    np.testing.assert_allclose(curve.sensitivity, [0, 1 / 2, 1 / 2, 1 / 2, 1, 1])
    np.testing.assert_allclose(curve.thresholds, [np.inf, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert (curve.images, curve.lesions) == (4, 2)


def test_sensitivity_at_the_rates_and_their_mean() -> None:
    curve = froc(by_hand(), 1)
    assert curve is not None
    assert [curve.at(rate) for rate in RATES] == [0.5, 1, 1, 1, 1, 1]
    assert curve.at(0.49) == 0.5, "nothing is interpolated"
    assert curve.score == pytest.approx(5.5 / 6)
    assert curve.to_json() == {
        "images": 4,
        "lesions": 2,
        "score": pytest.approx(5.5 / 6),
        "sensitivity_at": {"0.25": 0.5, "0.5": 1.0, "1": 1.0, "2": 1.0, "4": 1.0, "8": 1.0},
    }


def test_a_first_alarm_leaves_low_rates_without_a_point() -> None:
    curve = froc([image([LESION], [(60, 70, 70, 80, 0.9), (*LESION, 0.5)])], 1)
    assert curve is not None
    assert [curve.at(rate) for rate in RATES] == [0, 0, 1, 1, 1, 1], "one alarm in one image comes before the lesion"


def test_centre_and_overlap_differ() -> None:
    inside = image([LESION], [(18, 13, 22, 17, 0.9)])
    by_centre, by_overlap = froc([inside], 1, "centre"), froc([inside], 1, "iou")
    assert by_centre is not None
    assert by_overlap is not None
    assert (by_centre.score, by_overlap.score) == (1.0, 0.0)


def test_nothing_found_is_nought_and_nothing_to_find_is_undefined() -> None:
    curve = froc([image([LESION], [])], 1)
    assert curve is not None
    assert (curve.score, curve.false_positives.tolist()) == (0.0, [0.0])
    assert froc([image([], [(*LESION, 0.9)])], 1) is None
    assert froc([], 1) is None
    assert froc(by_hand(), 2) is None
