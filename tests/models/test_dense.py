"""Matching, encoding and choosing of boxes: what RetinaNet and SSD share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.models import dense

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [10.0, 0, 20, 10], [0.0, 0, 20, 20], [40.0, 40, 50, 50]])


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_an_anchor_takes_the_object_it_overlaps_most() -> None:
    # IoU with the first object: 1, 0, 100 / 400, 0; with the second: 40 / 160, 60 / 140, 100 / 400 and 0
    found = dense.match(boxes((0, 0, 10, 10), (6, 0, 16, 10)), ANCHORS, foreground=0.5, background=0.3)
    assert found.tolist() == [0, 1, dense.BACKGROUND, dense.BACKGROUND]


def test_an_anchor_between_the_two_limits_is_neither_object_nor_background() -> None:
    found = dense.match(boxes((0, 0, 10, 10)), ANCHORS, foreground=0.5, background=0.2)
    assert found.tolist() == [0, dense.BACKGROUND, dense.BETWEEN, dense.BACKGROUND]


def test_each_object_has_an_anchor_and_the_nearest_one_where_many_overlap_alike() -> None:
    row = torch.tensor([[8.0 * i - 12, 0, 8.0 * i + 20, 32] for i in range(4)])  # 32 pixels wide, centres at 4, 12, 20, 28
    found = dense.match(boxes((10, 14, 14, 18)), row, foreground=0.5, background=0.4)
    assert found.tolist() == [dense.BACKGROUND, 0, dense.BACKGROUND, dense.BACKGROUND]


def test_an_anchor_that_two_objects_want_goes_to_the_one_it_overlaps_more() -> None:
    for order in (1, -1):
        pair = boxes(*((0, 0, 4, 4), (0, 0, 5, 5))[::order])  # both lie in the first anchor alone: 16 and 25 of its 100 pixels
        found = dense.match(pair, ANCHORS[[0, 1, 3]], foreground=0.5, background=0.4)
        assert pair[found[0]].tolist() == [0, 0, 5, 5]
        assert found[1:].tolist() == [dense.BACKGROUND] * 2


def test_no_object_makes_everything_background() -> None:
    found = dense.match(boxes(), ANCHORS, 0.5, 0.4)
    assert found.tolist() == [dense.BACKGROUND] * 4
    assert dense.encode(boxes(), ANCHORS[:0]).shape == (0, 4)


def test_a_box_is_encoded_by_its_anchors_sides() -> None:
    code = dense.encode(boxes((12, 4, 32, 9)), boxes((10, 0, 20, 10)))  # centres (22, 6.5) and (15, 5); sides (20, 5) and (10, 10)
    torch.testing.assert_close(code, torch.tensor([[0.7, 0.15, math.log(2), -math.log(2)]]))


def test_decoding_undoes_encoding_and_stays_finite() -> None:
    some = boxes((3, 4, 17, 9), (11, -2, 31, 12), (1, 1, 2, 30), (39, 42, 45, 58))
    torch.testing.assert_close(dense.decode(dense.encode(some, ANCHORS)[None], ANCHORS)[0], some)
    assert torch.isfinite(dense.decode(torch.full((4, 4), 1e4), ANCHORS)).all()


def test_choosing_suppresses_within_a_class_clips_and_drops_what_lies_outside() -> None:
    candidates = boxes((0, 0, 10, 10), (1, 0, 11, 10), (30, 5, 60, 20), (50, 50, 60, 60))
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.6, 0.0], [1.0, 1.0]])  # the last lies beside the image of 20 x 40
    config = dense.DenseConfig(score_threshold=0.3, nms=0.5)
    found = dense.select(candidates, scores, (20, 40), config)
    assert found.boxes.tolist() == [[0, 0, 10, 10], [1, 0, 11, 10], [30, 5, 40, 20]]
    assert found.labels.tolist() == [1, 2, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7, 0.6]))
    assert len(dense.select(candidates, scores, (20, 40), config.model_copy(update={"detections": 2})).boxes) == 2
    assert len(dense.select(candidates, scores * 0, (20, 40), config).boxes) == 0


def test_groups_hold_eight_channels_at_least_so_that_a_single_pixel_is_not_normalised_away() -> None:
    for width, groups in ((8, 1), (24, 3), (64, 8), (320, 8)):
        norm = dense.group_norm(width)
        assert norm.num_groups == groups
        assert norm(torch.randn(1, width, 1, 1, generator=torch.Generator().manual_seed(0))).std() > 0.5
