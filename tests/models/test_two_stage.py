"""Anchors, proposals and losses of Faster R-CNN and Mask R-CNN (two_stage.py)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.anchors import Anchors, LevelAnchors, Sizes, coverage, fitted_anchors, kmeans_anchors, overlap
from pipeline.models.faster_rcnn import FasterRCNN, FasterRCNNConfig
from pipeline.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from pipeline.models.sparse_gradient import SparseGradientConv2d
from pipeline.models.two_stage import TwoStage, TwoStageConfig
from pipeline.types import Target

SMALL: dict[str, Any] = {
    "backbone": "mobilenet_v2",
    "fpn_channels": 32,
    "representation": 64,
    "rpn_samples": 64,
    "roi_samples": 32,
    "rpn_before_nms": (200, 200),
    "rpn_after_nms": (100, 100),
    "anchors": Anchors(sizes=((16,), (32,), (64,), (128,), (256,))),
}


def sizes(*pairs: tuple[float, float]) -> Sizes:
    return np.array(pairs, np.float32).reshape(-1, 2)


def all_levels(anchors: Anchors) -> Sizes:
    return np.concatenate([anchors.shapes(level) for level in range(len(anchors.sizes))])


@pytest.mark.parametrize(("heads", "plain", "masked"), [("v1", 41_755_286, 44_401_393), ("v2", 43_712_278, 46_359_409)])
def test_by_default_they_are_torchvisions_on_resnet50(heads: str, plain: int, masked: int) -> None:
    """Parameters as published for COCO's 90 classes; of version 1 without those of its frozen normalisation."""
    settings: dict[str, Any] = {"heads": heads, "weights": "imagenet" if heads == "v1" else "none"}
    with torch.device("meta"):
        networks = FasterRCNN(FasterRCNNConfig(**settings), 3, 90), MaskRCNN(MaskRCNNConfig(**settings), 3, 90)
    assert [sum(p.numel() for p in net.parameters()) for net in networks] == [plain, masked]


@pytest.mark.parametrize(("network", "config"), [(FasterRCNN, FasterRCNNConfig), (MaskRCNN, MaskRCNNConfig)])
def test_an_encoder_may_end_at_stride_16_and_the_pyramid_with_it(network: type[TwoStage], config: type[TwoStageConfig]) -> None:
    settings = SMALL | {"anchors": None, "encoder_halvings": 4}
    net = network(config(**settings), 3, 2).eval()
    assert sum(p.numel() for p in net.backbone.body.parameters()) == 542_528  # MobileNetV2's first 14 blocks
    fitted = config(**settings).with_fitted_anchors(sizes((20, 20), (50, 40)))
    assert fitted.anchors is not None
    assert len(fitted.anchors.sizes) == len(fitted.strides) == 4
    with torch.no_grad():
        assert len(net.detect([torch.randn(3, 96, 128)])) == 1
    with pytest.raises(ConfigError, match="encoder_halvings: resnet18 always has 5"):
        network(config(**settings | {"backbone": "resnet18"}), 3, 2)


def test_overlap_of_boxes_at_one_centre() -> None:
    np.testing.assert_allclose(overlap(sizes((4, 2), (1, 1)), sizes((2, 4), (4, 2))), [[4 / 12, 1], [1 / 8, 1 / 8]])
    assert coverage(sizes((4, 2), (1, 1)), sizes((2, 4), (4, 2))) == pytest.approx((1 + 1 / 8) / 2)
    np.testing.assert_allclose(overlap(sizes((4, 4)), sizes((4, 4), (2, 2), (4, 4)), np.array([1, 1, 9])), [[9 / 23, 4 / 16, 0]])


def test_kmeans_finds_groups_that_are_there() -> None:
    random = np.random.default_rng(3)
    groups = sizes((10, 20), (30, 30), (100, 60))
    boxes = np.concatenate([group * random.uniform(0.95, 1.05, (40, 2)) for group in groups]).astype(np.float32)
    found = kmeans_anchors(boxes, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, groups, rtol=0.02)
    np.testing.assert_array_equal(found, kmeans_anchors(boxes, 3))


def test_fewer_shapes_than_anchors_are_doubled() -> None:
    np.testing.assert_array_equal(kmeans_anchors(sizes((10, 20), (10, 20)), 3), sizes((10, 20), (20, 40), (40, 80)))
    np.testing.assert_array_equal(kmeans_anchors(sizes((30, 30), (10, 20)), 2), sizes((10, 20), (30, 30)))
    with pytest.raises(ValueError, match="at least one box"):
        kmeans_anchors(sizes(), 3)


def test_fitted_anchors_cover_small_flat_boxes_better_than_the_papers() -> None:
    boxes = (np.random.default_rng(1).uniform(6, 12, (200, 1)) * [2.0, 0.7]).astype(np.float32)
    fitted = fitted_anchors(boxes)
    assert len(set(fitted.ratios)) == 3
    assert coverage(boxes, all_levels(fitted)) > 0.7
    assert coverage(boxes, all_levels(Anchors())) < 0.3


def test_large_boxes_alone_get_their_anchors_on_fine_levels() -> None:
    boxes = np.random.default_rng(1).uniform(60, 70, (50, 2)).astype(np.float32)
    finest = [level for level, (size,) in enumerate(fitted_anchors(boxes).sizes) if 50 < size < 80]
    assert finest[0] <= 1


def test_without_boxes_anchors_are_the_papers_and_given_ones_stay() -> None:
    assert fitted_anchors(sizes()) == Anchors()
    boxes = sizes((8, 8))
    assert FasterRCNNConfig().with_fitted_anchors(boxes).anchors == fitted_anchors(boxes) != Anchors()
    given = FasterRCNNConfig(anchors=Anchors(ratios=(1.0,)))
    assert given.with_fitted_anchors(boxes) is given


@pytest.mark.parametrize(("key", "value"), [("sizes", ((8,), (16, 32))), ("sizes", ((), ())), ("ratios", (0.0,)), ("sizes", ((-8,),))])
def test_anchors_that_cannot_be_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match="anchor sizes"):
        Anchors(**{key: value})


def test_anchors_lie_at_a_levels_true_stride() -> None:
    anchors = LevelAnchors(Anchors(sizes=((4,), (16,)), ratios=(1.0, 4.0)), (8, 64))
    maps = [torch.zeros(2, 1, 3, 5), torch.zeros(2, 1, 1, 2)]
    first, second = anchors(SimpleNamespace(image_sizes=[(24, 40)] * 2), maps)
    assert torch.equal(first, second)
    assert first.shape == (2 * 3 * 5 + 2 * 1 * 2, 4)
    centres = (first[:, :2] + first[:, 2:]) / 2
    assert centres[:6].tolist() == [[0, 0], [0, 0], [8, 0], [8, 0], [16, 0], [16, 0]]
    assert centres[-4:].tolist() == [[0, 0], [0, 0], [64, 0], [64, 0]]
    assert first[0].tolist() == [-2, -2, 2, 2]
    assert first[1].tolist() == [-1, -4, 1, 4]  # a ratio is height over width


def a_target() -> Target:
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[0, 12:44, 20:60] = True
    return Target(boxes=torch.tensor([[20.0, 12.0, 60.0, 44.0]]), labels=torch.tensor([2]), instance_masks=masks)


def an_image() -> Tensor:
    image = 0.1 * torch.randn((3, 64, 96), generator=torch.Generator().manual_seed(1))
    image[:, 12:44, 20:60] += 2
    return image


def test_a_tiny_image_is_learnt_by_heart_with_its_mask() -> None:
    torch.manual_seed(0)
    net = MaskRCNN(MaskRCNNConfig(**SMALL, weights="imagenet", frozen_stages=0, mask_width=16, mask_layers=1), 3, 2).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(120):  # after 60, a processor's own rounding decides whether the box is tight already
        losses = net([an_image(), an_image().flip(-1)], [a_target(), flipped(a_target())])
        assert list(losses) == ["rpn_objectness", "rpn_box", "class", "box", "mask"]
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    (found,) = net.eval().detect([an_image()])
    assert found.labels[0] == 2
    assert found.scores[0] > 0.7
    assert _iou(found.boxes[0], a_target()) > 0.7
    assert found.masks is not None
    assert found.masks.shape[1:] == (28, 28)
    assert found.masks[0].mean() > 0.7  # the object fills its box
    (proposed,) = net.proposals([an_image()])
    assert max(_iou(box, a_target()) for box in proposed.boxes[:10]) > 0.6


def flipped(target: Target) -> Target:
    assert target.boxes is not None
    assert target.instance_masks is not None
    left, top, right, bottom = target.boxes[0].tolist()
    return Target(
        boxes=torch.tensor([[96 - right, top, 96 - left, bottom]]), labels=target.labels, instance_masks=target.instance_masks.flip(-1)
    )


def _iou(box: Tensor, target: Target) -> float:
    from torchvision.ops import box_iou

    assert target.boxes is not None
    return float(box_iou(box[None], target.boxes)[0, 0])


def test_proposals_lie_inside_the_image_highest_scoring_first() -> None:
    torch.manual_seed(0)
    net = FasterRCNN(FasterRCNNConfig(**SMALL), 3, 2).eval()
    small, large = net.proposals([an_image()[:, :37, :53], an_image()])
    for found, (rows, columns) in ((small, (37, 53)), (large, (64, 96))):
        assert 0 < len(found.boxes) <= 100
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([columns, rows, columns, rows])).all()
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert found.labels.unique().tolist() == [1]
        assert found.masks is None


def test_proposals_are_those_that_detection_looks_at() -> None:
    torch.manual_seed(0)
    net = FasterRCNN(FasterRCNNConfig(**SMALL), 3, 2).eval()
    seen: list[Tensor] = []
    net.roi_heads.register_forward_pre_hook(lambda _, given: seen.extend(given[1]))
    net.detect([an_image()])
    assert torch.equal(net.proposals([an_image()])[0].boxes, seen[0])


def test_boxes_without_masks_are_refused_with_what_to_do() -> None:
    boxes_only = Target(boxes=a_target().boxes, labels=a_target().labels)
    with pytest.raises(ConfigError, match=r"choose faster_rcnn, or set data\.weak_masks to ellipse"):
        MaskRCNN(MaskRCNNConfig(**SMALL), 3, 2)([an_image()], [boxes_only])
    losses = FasterRCNN(FasterRCNNConfig(**SMALL), 3, 2)([an_image()], [boxes_only])
    assert list(losses) == ["rpn_objectness", "rpn_box", "class", "box"]


def test_stages_are_frozen_only_where_weights_are_given() -> None:
    def learns(weights: str) -> set[bool]:
        net = FasterRCNN(FasterRCNNConfig(**SMALL, weights=weights), 3, 2)
        return {p.requires_grad for p in net.backbone.body.parameters()}

    assert learns("none") == {True}
    assert learns("imagenet") == {True, False}


@pytest.mark.parametrize("places", [0, 3, 40])
def test_a_gradient_of_few_places_is_that_of_the_ordinary_convolution(places: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, 3, padding=1).double()
    sparse = SparseGradientConv2d.of(nn.Conv2d(5, 7, 3, padding=1).double())
    sparse.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 6, 9, dtype=torch.float64)
    chosen = torch.randperm(2 * 6 * 9)[:places]  # of 40 places the gradient is computed densely
    flat = torch.zeros(2 * 6 * 9, 7, dtype=torch.float64)
    flat[chosen] = torch.randn(places, 7, dtype=torch.float64)
    wanted = flat.view(2, 6, 9, 7).permute(0, 3, 1, 2)
    found = []
    for layer in (plain, sparse):
        image = x.clone().requires_grad_()
        out = layer(image)
        out.backward(wanted)
        found.append((out.detach(), image.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_gradient_of_few_places_may_be_asked_for_in_another_format() -> None:
    sparse, x = SparseGradientConv2d.of(nn.Conv2d(5, 7, 3, padding=1)), torch.randn(2, 5, 6, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        sparse(x)[:, :, 2, 3].sum().backward()
    inside, x.grad = x.grad, None
    sparse(x)[:, :, 2, 3].sum().backward()
    torch.testing.assert_close(inside, x.grad, rtol=0.02, atol=0.02)
