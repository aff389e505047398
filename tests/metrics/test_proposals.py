"""Recall of proposals, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.proposals import recall

LESION, OTHER, AWAY = (10, 10, 30, 20), (100, 40, 120, 60), (60, 70, 70, 80)
Truth = tuple[np.ndarray, np.ndarray]


def truth(*rows: tuple[int, tuple[int, ...]]) -> Truth:
    return np.array([box for _, box in rows], np.float32).reshape(-1, 4), np.array([label for label, _ in rows], np.int64)


def test_recall_by_hand() -> None:
    # Image 1: the lesion is covered by the first proposal, the other object by the third. Image 2 has an object but no proposal.
    proposals = [np.array([LESION, AWAY, OTHER], np.float32), np.zeros((0, 4), np.float32), np.array([AWAY], np.float32)]
    found = recall(proposals, [truth((1, LESION), (2, OTHER)), truth((1, LESION)), truth()], classes=3, at=(1, 2, 3))
    assert found.every == {1: pytest.approx(1 / 3), 2: pytest.approx(1 / 3), 3: pytest.approx(2 / 3)}
    assert found.by_class == {1: {1: 0.5, 2: 0.5, 3: 0.5}, 2: {1: 0.0, 2: 0.0, 3: 1.0}, 3: {1: None, 2: None, 3: None}}
    assert found.objects == {1: 2, 2: 1, 3: 0}
    assert found.to_json(["disc", "cup", "drusen"])["by_class"]["cup"] == {"1": 0.0, "2": 0.0, "3": 1.0}


def test_the_overlap_that_covers_is_asked_for() -> None:
    half = [np.array([(10, 10, 20, 20)], np.float32)]
    assert recall(half, [truth((1, LESION))], 1).every[10] == 1.0, "exactly half is enough at .5"
    assert recall(half, [truth((1, LESION))], 1, iou=0.51).every[1000] == 0.0


def test_one_proposal_may_cover_two_objects() -> None:
    near = (10, 10, 30, 22)
    assert recall([np.array([LESION], np.float32)], [truth((1, LESION), (1, near))], 1).by_class[1][10] == 1.0


def test_nothing_to_find_is_undefined() -> None:
    assert recall([], [], 1).every == {10: None, 100: None, 1000: None}
    with pytest.raises(ValueError, match="proposals of 1 images, but truths of 0"):
        recall([np.zeros((0, 4))], [], 1)
