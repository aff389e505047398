"""RetinaNet: its start, its loss and its anchors, in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.models import dense
from pipeline.models.retinanet import STRIDES, RetinaNet, RetinaNetConfig
from pipeline.types import Target

ROWS, COLUMNS, CLASSES = 64, 96, 2
CELLS = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 * 1  # strides 8 to 128


def tiny(**settings: object) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(RetinaNetConfig(backbone="resnet18", width=16, head_layers=1, **settings), 3, CLASSES)  # type: ignore[arg-type]


def same_everywhere(net: RetinaNet) -> RetinaNet:
    """Without its last weights the network says what its last biases say."""
    nn.init.zeros_(net.head.classification_head.cls_logits.weight)
    nn.init.zeros_(net.head.regression_head.bbox_reg.weight)
    return net


def target(*boxes: tuple[float, float, float, float]) -> Target:
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Target(boxes=table, labels=torch.ones(len(boxes), dtype=torch.int64))


def test_nine_anchors_a_cell_on_five_levels() -> None:
    net = tiny().eval()
    with torch.no_grad():
        logits, codes, anchors = net._outputs(torch.zeros(2, 3, ROWS, COLUMNS))
    assert logits.shape == (2, 9 * CELLS, CLASSES)
    assert codes.shape == (2, 9 * CELLS, 4)
    sides = (anchors[:, 2:] - anchors[:, :2]).prod(1).sqrt()
    first = [int(9 * sum(-(-ROWS // s) * -(-COLUMNS // s) for s in STRIDES[:level])) for level in range(5)]
    torch.testing.assert_close(sides[first], torch.tensor([32.0, 64, 128, 256, 512]), rtol=1e-3, atol=0.1)


def test_anchors_come_from_the_boxes_where_none_are_given() -> None:
    fitted = RetinaNetConfig().with_fitted_anchors(np.full((30, 2), 12, np.float32))
    assert fitted.anchors is not None
    assert [len(level) for level in fitted.anchors.sizes] == [3] * 5
    first, second = np.array(fitted.anchors.sizes)[:2]
    assert first[0] < 20  # the paper's 32 pixels would overlap such a box by a seventh
    np.testing.assert_allclose(first / first[0], [1, 2 ** (1 / 3), 2 ** (2 / 3)], atol=0.01)
    np.testing.assert_allclose(second, 2 * first, atol=0.2)
    given = RetinaNetConfig(anchors=fitted.anchors)
    assert given.with_fitted_anchors(np.full((30, 2), 50, np.float32)) is given


def test_every_score_begins_at_a_hundredth_and_the_focal_loss_says_so() -> None:
    net = same_everywhere(tiny()).train()
    losses = net([torch.zeros(3, ROWS, COLUMNS)] * 2, [target(), target()])
    expected = 2 * 9 * CELLS * CLASSES * 0.75 * 0.01**2 * -math.log(0.99)
    assert losses["class"].item() == pytest.approx(expected, rel=1e-3)
    assert losses["box"].item() == 0


def test_losses_are_those_of_one_positive_whatever_the_other_images_hold() -> None:
    net = same_everywhere(tiny(anchors={"sizes": ((16,), (32,), (64,), (128,), (256,)), "ratios": (1.0,)})).train()
    box = (16.0, 16.0, 32.0, 32.0)
    anchors = net._outputs(torch.zeros(1, 3, ROWS, COLUMNS))[2]
    index = dense.match(torch.tensor([box]), anchors, 0.5, 0.4)
    positive, background = int((index >= 0).sum()), int((index == dense.BACKGROUND).sum())
    hit, miss = 0.25 * 0.99**2 * -math.log(0.01), 0.75 * 0.01**2 * -math.log(0.99)
    empty = [target()] * 2
    losses = net([torch.zeros(3, ROWS, COLUMNS)] * 3, [target(box), *empty])
    misses = positive * (CLASSES - 1) + background * CLASSES + 2 * CELLS * CLASSES
    assert positive >= 1
    assert losses["class"].item() == pytest.approx((positive * hit + misses * miss) / positive, rel=1e-4)
    moved = dense.encode(torch.tensor([box]).expand(positive, 4), anchors[index >= 0]).abs().sum() / positive
    assert losses["box"].item() == pytest.approx(moved.item(), rel=1e-4)


def test_with_weights_the_first_stages_and_all_statistics_stay() -> None:
    net = tiny(weights="imagenet", frozen_stages=2)
    names = {name for name, p in net.backbone.named_parameters() if not p.requires_grad}
    assert {"conv1.weight", "layer1.0.conv1.weight"} <= names
    assert not any(name.startswith("layer2") for name in names)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
