"""Curves as pictures: their size, and that lines lie where their numbers say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.drawing.curves import draw_curves, draw_froc, draw_precision_recall
from pipeline.metrics.detection import ImageObjects, average_precision
from pipeline.metrics.froc import froc
from pipeline.types import LabelMap
from pipeline.types.label import LabelClass

ORANGE, BLUE = (230, 159, 0), (0, 114, 178)
MAP = LabelMap((LabelClass(1, "disc", ORANGE), LabelClass(2, "cup", BLUE), LabelClass(3, "drusen", (0, 158, 115))))


def rows_of(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """Rows where the left half, which the legend leaves free, has pixels of a colour."""
    near = np.abs(picture[:, : picture.shape[1] // 2].astype(int) - colour).sum(axis=-1) < 12
    return np.flatnonzero(near.any(axis=1))


def test_a_higher_line_lies_higher() -> None:
    flat = {"high": ([0.0, 1.0], [0.9, 0.9]), "low": ([0.0, 1.0], [0.3, 0.3])}
    picture = draw_curves(flat, "title", "recall", "precision", [ORANGE, BLUE])
    assert (picture.shape, picture.dtype) == ((480, 640, 3), np.uint8)
    high, low = rows_of(picture, ORANGE).mean(), rows_of(picture, BLUE).mean()
    # The axes take most of 480 rows for 0 .. 1.02, so .6 apart is more than half of them.
    assert 200 < low - high < 280


def test_curves_of_scores_are_drawn_for_classes_with_objects() -> None:
    box = np.array([[10, 10, 30, 20]], np.float32)
    one = np.ones(1, np.int64)
    found = ImageObjects((90, 150), box, one, box, one, np.array([0.5], np.float32))
    missed = ImageObjects((90, 150), box, one * 2, box[:0], one[:0], np.zeros(0, np.float32))
    scores = average_precision([found, missed], 3)
    assert set(scores.curves) == {1, 2}
    picture = draw_precision_recall(scores, MAP)
    assert rows_of(picture, ORANGE).size
    assert not rows_of(picture, MAP.classes[2].colour).size

    curve, nothing = froc([found, missed], 1), froc([found, missed], 2)
    assert curve is not None
    assert nothing is not None
    picture = draw_froc({"disc": curve, "cup": nothing}, MAP)
    assert picture.shape == (480, 640, 3)
    # Found without an alarm, and missed at any rate: two lines along the whole axis, at 1 and at 0.
    assert rows_of(picture, BLUE).max() - rows_of(picture, ORANGE).min() > 350


def test_nothing_to_draw_is_an_empty_frame() -> None:
    assert draw_froc({}, MAP).shape == (480, 640, 3)
