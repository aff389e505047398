"""DETR: the set loss against transformers' own and by hand, padding that must not matter, and that it learns."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torchvision.ops import box_iou

from pipeline.errors import ConfigError
from pipeline.models.darknet import Darknet53
from pipeline.models.detr import Detr, DetrConfig, build, match, set_losses
from pipeline.types import Target

SMALL: dict[str, Any] = {
    "backbone": "mobilenet_v2",
    "queries": 6,
    "width": 32,
    "heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "feedforward": 32,
    "dropout": 0.0,
}


def network(classes: int = 2, channels: int = 3, **settings: Any) -> Detr:
    torch.manual_seed(0)
    return build(DetrConfig(**{**SMALL, **settings}), channels, classes)


def some_outputs(batch: int = 3, queries: int = 7, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, queries, classes + 1, generator=generator)
    return logits, torch.rand(batch, queries, 4, generator=generator) * 0.4 + 0.3


def test_the_set_loss_is_transformers_own() -> None:
    from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

    logits, boxes = some_outputs()
    labels = [torch.tensor([0, 3]), torch.tensor([], dtype=torch.int64), torch.tensor([2, 2, 1])]
    truths = [some_outputs(1, len(label), seed=9)[1][0] for label in labels]
    found = set_losses(logits[None], boxes[None], labels, truths, no_object=0.1)
    theirs = ImageLoss(HungarianMatcher(1, 5, 2), 4, 0.1, ["labels", "boxes"])(
        {"logits": logits, "pred_boxes": boxes},
        [{"class_labels": label, "boxes": truth} for label, truth in zip(labels, truths, strict=True)],
    )
    expected = {"class": theirs["loss_ce"], "box": 5 * theirs["loss_bbox"], "giou": 2 * theirs["loss_giou"]}
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name])


def test_the_set_loss_of_one_object_in_closed_form() -> None:
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])  # one class and "no object"
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.3, 0.5, 0.2, 0.4]]])
    found = set_losses(logits[None], boxes[None], [torch.tensor([0])], [torch.tensor([[0.4, 0.5, 0.2, 0.4]])], no_object=0.5)
    # Both boxes are .1 aside (IoU 1/3, and the hull has no empty part); the second is the likelier, so it is matched.
    yes, none = -math.log(1 / (1 + math.exp(-2))), -math.log(0.5)
    assert found["class"].item() == pytest.approx((yes + 0.5 * none) / 1.5, rel=1e-5)
    assert found["box"].item() == pytest.approx(5 * 0.1, rel=1e-5)
    assert found["giou"].item() == pytest.approx(2 * (1 - 1 / 3), rel=1e-5)


def test_each_object_has_its_own_query_and_the_total_cost_is_the_least() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2]])
    truths = torch.tensor([[0.52, 0.5, 0.2, 0.2], [0.42, 0.5, 0.2, 0.2]])  # both are nearest to the first query
    _, _, query, number = match(torch.zeros(1, 1, 3, 2), boxes[None, None], [torch.tensor([0, 0])], [truths])
    assert dict(zip(number.tolist(), query.tolist(), strict=True)) == {0: 2, 1: 0}


def test_more_objects_than_queries_and_numbers_that_are_not_finite() -> None:
    logits, boxes = some_outputs(1, 2, 1)
    labels, truths = [torch.zeros(5, dtype=torch.int64)], [some_outputs(1, 5, seed=3)[1][0]]
    logits, boxes = logits[None], boxes[None]
    _, _, query, number = match(logits, boxes, labels, truths)
    assert len(set(query.tolist())) == len(set(number.tolist())) == 2
    assert all(torch.isfinite(loss) for loss in set_losses(logits, boxes, labels, truths, 0.1).values())
    assert torch.isnan(set_losses(logits, boxes * math.nan, labels, truths, 0.1)["box"])  # the loop stops, and says at which step


@pytest.mark.parametrize("points", [False, True])
def test_empty_targets_teach_the_class_alone(points: bool) -> None:
    net = network(points=points).train()
    none = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    losses = net([torch.randn(3, 64, 96), torch.randn(3, 40, 70)], [none, none])
    assert (losses["box"].item(), losses["giou"].item()) == (0, 0)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("stride", [16, 32])
def test_features_that_are_padding_are_not_looked_at(stride: int) -> None:
    """Whatever the encoder says of the padding, and wherever the picture ends, the answer is the picture's."""
    net = network(stride=stride).eval()
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(1, width, 4, 6, generator=generator) for width in net.net.model.backbone.widths]
    features[2] = torch.randn(1, features[2].shape[1], 8, 12, generator=generator)

    def answer(noise: float, padding: int) -> Tensor:
        def given(_: Tensor) -> list[Tensor]:
            grown = [torch.nn.functional.pad(f, (0, padding * (2 if i == 2 else 1)), value=noise) for i, f in enumerate(features)]
            return grown

        net.net.model.backbone.forward = given
        with torch.no_grad():
            return torch.cat([part.flatten() for part in net.outputs(torch.zeros(1, 3, 128, 192 + 32 * padding), [(128, 192)])])

    torch.testing.assert_close(answer(0.0, 0), answer(50.0, 3), rtol=1e-4, atol=1e-5)


def test_boxes_are_shares_of_the_images_own_sides() -> None:
    net = network(classes=1, auxiliary=False)
    target = Target(boxes=torch.tensor([[10.0, 8.0, 50.0, 24.0]]), labels=torch.tensor([1]))
    fixed = torch.tensor([0.3, 0.4, 0.4, 0.4]).expand(2, 1, 6, 4)  # of 100 x 40: exactly that box

    def outputs(images: Tensor, sizes: Any) -> tuple[Tensor, Tensor]:
        assert (tuple(images.shape), sizes) == ((1, 3, 64, 128), [(40, 100)])
        return torch.zeros(2, 1, 6, 2), fixed

    net.outputs = outputs  # type: ignore[method-assign]
    losses = net([torch.zeros(3, 40, 100)], [target])
    assert (losses["box"].item(), losses["giou"].item()) == (pytest.approx(0, abs=1e-5), pytest.approx(0, abs=1e-5))
    (found,) = net.detect([torch.zeros(3, 40, 100)])
    torch.testing.assert_close(found.boxes, torch.tensor([[10.0, 8.0, 50.0, 24.0]]).expand(6, 4))


def test_every_decoder_layer_has_the_loss_if_asked() -> None:
    images = [torch.randn(3, 64, 96)]
    targets = [Target(boxes=torch.tensor([[10.0, 8.0, 50.0, 24.0]]), labels=torch.tensor([1]))]
    every, last = network(decoder_layers=2).eval()(images, targets), network(decoder_layers=2, auxiliary=False).eval()(images, targets)
    assert every.keys() == last.keys() == {"class", "box", "giou"}
    assert all(every[name] > last[name] for name in last)


def test_queries_begin_at_points_all_over_the_image() -> None:
    net = network(queries=16, encoder_layers=0).eval()
    assert net.points is not None
    points = net.points.sigmoid()
    assert points.min() < 0.1
    assert points.max() > 0.9
    assert torch.cdist(points, points).fill_diagonal_(1).min() > 0.12  # a grid of 16 is .25 apart
    codes = net.net.model.query_position_embeddings.weight
    assert codes.shape == (16, 32)
    assert ((codes @ codes.T).argmax(1) == torch.arange(16)).all()


def test_it_learns_one_batch_and_finds_its_objects() -> None:
    boxes = torch.tensor([[16.0, 12.0, 52.0, 44.0], [70.0, 30.0, 90.0, 58.0]])
    generator = torch.Generator().manual_seed(0)
    image = 0.1 * torch.randn(3, 64, 100, generator=generator)
    image[0, 12:44, 16:52] += 2
    image[1, 30:58, 70:90] += 2
    images, target = [image, image.flip(2)], Target(boxes=boxes, labels=torch.tensor([1, 2]))
    mirrored = Target(boxes=torch.stack([100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]], 1), labels=target.labels)
    torch.manual_seed(0)
    encoder: Any = Darknet53(3, blocks=(1, 1, 1, 1, 1), width=8)  # a tenth of the time
    net = Detr(DetrConfig(**SMALL), encoder, 2).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    sums = []
    for _ in range(80):
        loss = torch.stack(list(net(images, [target, mirrored]).values())).sum()
        sums.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sums[-1] < 0.2 * sums[0]
    with torch.no_grad():
        for _ in range(20):  # the running statistics follow the weights
            net(images, [target, mirrored])
    for found, truth in zip(net.eval().detect(images), (target, mirrored), strict=True):
        assert truth.boxes is not None
        order = found.labels[:2].argsort()
        assert found.labels[:2][order].tolist() == [1, 2]
        assert box_iou(found.boxes[:2][order], truth.boxes).diagonal().min() > 0.5


def test_nothing_is_asked_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert sum(p.numel() for p in network(backbone="resnet18").parameters()) > 11_000_000


def test_without_transformers_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"install ocuseg\[detr\]"):
        network()


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be a multiple of heads"):
        DetrConfig(width=20, heads=8)
