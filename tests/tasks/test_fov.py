"""What lies outside the field of view counts on neither side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.metrics.detection import ImageObjects, average_precision
from pipeline.tasks.fov import centres_inside, counted_area, restrict_to_fov, target_in_fov
from pipeline.types import Prediction, Target

SIZE = (20, 31)
BOXES = np.array([[3, 2, 11, 8], [20, 10, 30, 14], [25, 0, 31, 4]], dtype=np.float32)


def masks() -> np.ndarray:
    out = np.zeros((3, *SIZE), dtype=bool)
    out[0, 2:8, 3:11] = out[1, 10:14, 20:30] = out[2, 0:4, 25:31] = True
    return out


def view() -> np.ndarray:
    """The first object's left five columns, all but two rows of the third, nothing of the second's left half."""
    valid = np.zeros(SIZE, dtype=bool)
    valid[:, :8] = True
    valid[2:, 26:] = True
    return valid


def both() -> tuple[Prediction, Target]:
    labels = np.array([1, 2, 1])
    prediction = Prediction(boxes=BOXES, labels=labels, scores=np.array([0.9, 0.8, 0.7], np.float32), instance_masks=masks())
    return prediction, Target(boxes=torch.from_numpy(BOXES), labels=torch.from_numpy(labels), instance_masks=torch.from_numpy(masks()))


def test_truth_and_prediction_are_cut_alike() -> None:
    prediction, target = both()
    found, true = restrict_to_fov(prediction, view()), target_in_fov(target, view())
    assert found.boxes is not None
    assert true.boxes is not None
    assert true.instance_masks is not None
    assert found.boxes.tolist() == true.boxes.tolist() == BOXES[[0, 2]].tolist()
    assert true.labels.tolist() == [1, 1]
    assert [int(mask.sum()) for mask in true.instance_masks] == [6 * 5, 2 * 5]
    np.testing.assert_array_equal(found.instance_masks, true.instance_masks.numpy())  # type: ignore[arg-type]


def test_a_perfect_mask_at_the_rim_stays_perfect() -> None:
    prediction, target = both()
    images = [ImageObjects.of(restrict_to_fov(prediction, view()), target_in_fov(target, view()))]
    assert average_precision(images, 2, "mask").ap == pytest.approx(1.0)


def test_where_all_is_seen_nothing_is_copied() -> None:
    prediction, target = both()
    everything = np.ones(SIZE, dtype=bool)
    assert restrict_to_fov(prediction, everything) is prediction
    assert target_in_fov(target, everything) is target


def test_ignored_pixels_do_not_count_and_centres_are_single_pixels() -> None:
    mask = torch.zeros(SIZE, dtype=torch.int64)
    mask[:, :7] = -1
    area = counted_area(Target(mask=mask), view())
    assert area.sum() == view().sum() - 20 * 7
    assert centres_inside(BOXES, area).tolist() == [True, False, True]
    area[:, 7] = False
    assert centres_inside(BOXES, area).tolist() == [False, False, True]
    assert counted_area(Target(), area) is area
    assert centres_inside(np.zeros((0, 4), np.float32), area).shape == (0,)
