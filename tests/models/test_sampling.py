"""What trains a detector hangs on the image alone: not on its neighbours in the batch, and not on which process looks at it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from pipeline.models.sampling import BalancedSampler, drawn, over_processes
from pipeline.types import Target
from tests.models.test_two_stage import SMALL

LABELS = torch.tensor([1, 0, -1, 2, 0, 0, 1, 0, 0, 3, 0, -1] * 4)


def test_a_place_more_leaves_the_others_where_they_are() -> None:
    wanted = torch.arange(200) % 3 == 0
    (before,) = drawn([(wanted, 20)], seed=7)
    (after,) = drawn([(torch.cat([wanted, torch.tensor([True])]), 20)], seed=7)
    assert len(set(before.tolist()) - set(after.tolist())) <= 1
    assert wanted[before].all()
    assert set(drawn([(wanted, 20)], seed=8)[0].tolist()) != set(before.tolist())
    assert sorted(drawn([(wanted, 500)], seed=7)[0].tolist()) == wanted.nonzero().flatten().tolist()


def test_what_is_drawn_of_an_image_hangs_on_its_seed_and_not_on_its_neighbours() -> None:
    sampler = BalancedSampler(samples=8, positive=0.25)
    sampler.seeds = [3, 5]
    positive, negative = sampler([LABELS, LABELS.flip(0)])
    assert (sampler.positives, sampler.total) == (4, 16)
    assert (LABELS[positive[0] > 0] >= 1).all()
    assert (LABELS[negative[0] > 0] == 0).all()
    sampler.seeds = [5]
    alone = sampler([LABELS.flip(0)])
    assert torch.equal(alone[0][0], positive[1])
    assert torch.equal(alone[1][0], negative[1])
    sampler.seeds = [3]
    sampler([torch.zeros(5, dtype=torch.int64)])
    assert (sampler.positives, sampler.total) == (0, 5), "as many as there are"


def test_two_halves_of_a_batch_have_the_losses_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = MaskRCNN(MaskRCNNConfig(**SMALL, mask_width=8, mask_layers=1, weights="none"), 3, 2).eval()
    images = [torch.randn(3, 64, 96) for _ in range(4)]
    targets = [objects(count) for count in (1, 2, 0, 1)]

    def losses(*places: int) -> dict[str, Tensor]:
        with net.measuring():
            return net([images[p] for p in places], [targets[p] for p in places], None, [100 + p for p in places])

    whole, halves = losses(0, 1, 2, 3), []
    for own, others in (((0, 1), (2, 3)), ((2, 3), (0, 1))):
        losses(*others)
        anchors, regions = net.rpn.fg_bg_sampler, net.roi_heads.fg_bg_sampler
        told = iter([[anchors.total] * 2, [regions.total, regions.total, regions.positives]])
        with monkeypatch.context() as two:  # as in a process of two, of which the other has told its counts
            two.setattr(torch.distributed, "is_initialized", lambda: True)
            two.setattr(torch.distributed, "get_world_size", lambda: 2)
            two.setattr(torch.distributed, "all_reduce", lambda counts: counts.add_(torch.tensor(next(told), dtype=torch.float32)))  # noqa: B023
            halves.append(losses(*own))
    assert whole.keys() == halves[0].keys() == {"rpn_objectness", "rpn_box", "class", "box", "mask"}
    for name, loss in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, loss, rtol=1e-5, atol=1e-7)


def test_alone_losses_stay_as_they_are() -> None:
    losses = {"a": torch.tensor(0.1234567), "b": torch.tensor(0.7)}
    assert over_processes(losses, {"a": 3, "b": 7}) == losses


def objects(count: int) -> Target:
    boxes = torch.tensor([[5.0 + 20 * n, 8 + 10 * n, 25 + 20 * n, 30 + 10 * n] for n in range(count)]).reshape(-1, 4)
    masks = torch.zeros(count, 64, 96, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return Target(boxes=boxes, labels=torch.ones(count, dtype=torch.int64), instance_masks=masks)
