"""Where the one object of a picture was found, against distances worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.localisation import Located
from pipeline.metrics.objects import ImageObjects


def image(truths: list[list[float]], found: list[list[float]], scores: list[float]) -> ImageObjects:
    boxes = np.array(found, np.float32).reshape(-1, 4)
    true_boxes, labels = np.array(truths, np.float32).reshape(-1, 4), np.ones(len(truths), np.int64)
    return ImageObjects((100, 100), true_boxes, labels, boxes, np.ones(len(found), np.int64), np.array(scores, np.float32))


DISC = [20.0, 20.0, 60.0, 60.0]
OFF = [30.0, 20.0, 70.0, 60.0]  # a quarter of its diameter to the right: IoU 30 / 50
IMAGES = [image([DISC], [OFF, DISC], [0.9, 0.8]), image([DISC], [DISC], [0.1]), image([DISC], [], []), image([], [DISC], [0.9])]


def test_the_highest_scoring_detection_counts_and_a_picture_without_one_is_infinitely_far() -> None:
    told = Located.of(IMAGES, ["a", "b", "c", "d"], 1).to_json(200, 0, 0.95)
    assert told is not None
    assert (told["images"], told["missed"]) == (3, 1)
    assert told["centre_error"] == {"value": pytest.approx(0.25), "low": pytest.approx(0.0), "high": None}
    assert told["overlap"]["value"] == pytest.approx((0.6 + 1 + 0) / 3)


def test_without_an_object_or_with_several_there_is_no_place_to_be_off() -> None:
    assert Located.of(IMAGES[3:], ["d"], 1).to_json(10, 0, 0.95) is None
    assert Located.of([*IMAGES, image([DISC, OFF], [], [])], ["a"] * 5, 1).to_json(10, 0, 0.95) is None
