"""SSD: its default boxes, its losses, its start, and that it trains from scratch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import vgg16

from pipeline.errors import ConfigError
from pipeline.models.ssd import PAPER, SSD, SSDConfig
from pipeline.types import Target

SMALL = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0)


def tiny(seed: int = 0, in_channels: int = 3, **settings: object) -> SSD:
    torch.manual_seed(seed)
    return SSD(SSDConfig(**{"width": 0.125, "anchors": SMALL, **settings}), in_channels, 2)  # type: ignore[arg-type]


def target(*boxes: tuple[float, float, float, float]) -> Target:
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Target(boxes=table, labels=torch.ones(len(boxes), dtype=torch.int64))


@pytest.mark.parametrize("variant", ["vgg16", "lite"])
def test_default_boxes_of_a_300_pixel_image_as_in_the_paper(variant: str) -> None:
    net = tiny(variant=variant, anchors=None).eval()
    with torch.no_grad():
        _, _, boxes = net._outputs(torch.zeros(1, 3, 320, 320))
    cells, each = (40, 20, 10, 5, 3, 2), (4, 6, 6, 6, 4, 4)
    assert len(boxes) == sum(n * side**2 for n, side in zip(each, cells, strict=True))
    first = np.cumsum([0, *(n * side**2 for n, side in zip(each, cells, strict=True))])[:6]
    sides = boxes[:, 2:] - boxes[:, :2]
    torch.testing.assert_close(sides[first], torch.tensor(PAPER[:6])[:, None].expand(6, 2))
    torch.testing.assert_close(sides[1], torch.full((2,), math.sqrt(21 * 45)))
    torch.testing.assert_close(sides[2] / sides[3], torch.tensor([2.0, 0.5]))
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    torch.testing.assert_close(centres[0], torch.tensor([4.0, 4.0]))
    assert (centres.amin(0) > 0).all()
    assert (centres.amax(0) < 320).all()


def test_default_boxes_come_from_the_data_where_none_are_given() -> None:
    fitted = SSDConfig().with_fitted_anchors(np.full((30, 2), 12, np.float32))
    assert fitted.anchors is not None
    assert fitted.anchors[0] < 20
    np.testing.assert_allclose(np.divide(fitted.anchors[1:], fitted.anchors[:-1]), 2, atol=0.02)
    assert SSDConfig().with_fitted_anchors(np.empty((0, 2), np.float32)).anchors == PAPER


@pytest.mark.parametrize("variant", ["vgg16", "lite"])
def test_class_loss_is_of_three_hard_negatives_to_a_positive(variant: str) -> None:
    net = tiny(variant=variant).train()
    heads = [layer if isinstance(layer, nn.Conv2d) else layer[-1] for layer in net.head.classification_head.module_list]  # type: ignore[union-attr]
    for layer in heads:
        nn.init.zeros_(layer.weight)  # every box now says e^3 : 1 : 1
    wrong, right = math.log(math.exp(3) + 2), math.log(math.exp(3) + 2) - 3
    images = [torch.zeros(3, 64, 96)] * 2
    some, empty = net(images, [target((8, 8, 24, 24))] * 2), net(images, [target(), target()])
    assert some["class"].item() == pytest.approx(wrong + 3 * right, rel=1e-4)
    assert empty["class"].item() == pytest.approx(4 * right, rel=1e-4)
    assert empty["box"].item() == 0
    assert some["box"].item() > 0


def discs(generator: torch.Generator, rows: int = 64, columns: int = 96) -> tuple[list[Tensor], list[Target]]:
    """Two noisy images with one disc each, radius 6 to 16."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    images, targets = [], []
    for _ in range(2):
        radius = int(torch.randint(6, 17, (1,), generator=generator))
        cx, cy = (int(torch.randint(radius, side - radius, (1,), generator=generator)) for side in (columns, rows))
        inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        images.append(0.5 * torch.randn((3, rows, columns), generator=generator) + 3.0 * inside)
        targets.append(target((cx - radius, cy - radius, cx + radius, cy + radius)))
    return images, targets


@pytest.mark.parametrize(("variant", "seed"), [("vgg16", 0), ("lite", 1)])
def test_it_trains_from_scratch_without_ever_running_away(variant: str, seed: int) -> None:
    net = tiny(seed, variant=variant).train()
    optimizer, generator, sums = torch.optim.AdamW(net.parameters(), lr=1e-3), torch.Generator().manual_seed(seed), []
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 6)  # warm-up and clipping as the training loop has them
        loss = torch.stack(list(net(*discs(generator)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        sums.append(loss.item())
    assert sums[0] < 10  # with heads of random weights it was 24
    assert max(sums) < 2 * sums[0]
    assert np.mean(sums[-10:]) < 0.9 * np.mean(sums[:10])


def test_vggs_layers_are_named_and_shaped_as_in_torchvisions_file() -> None:
    with torch.device("meta"):
        theirs = {key: value.shape for key, value in vgg16(weights=None).state_dict().items() if key.startswith("features.")}
        ours = SSD(SSDConfig(), 3, 2).levels.features.state_dict()  # type: ignore[union-attr]
    assert {f"features.{key}": value.shape for key, value in ours.items()} == theirs


def test_vggs_weights_come_from_a_file_and_a_grey_image_gets_their_sum(tmp_path: Path) -> None:
    file = {f"features.{key}": value.clone() for key, value in tiny(5).levels.features.state_dict().items()}  # type: ignore[union-attr]
    save_file({**file, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.safetensors")
    colour, grey = tiny(6), tiny(7, in_channels=1)
    loaded = colour.load_encoder(str(tmp_path / "vgg.safetensors"))
    assert loaded.skipped == ("classifier.0.weight",)
    state = colour.levels.features.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(state[key.removeprefix("features.")], value) for key, value in file.items())
    assert grey.load_encoder(str(tmp_path / "vgg.safetensors")).mismatched == ("features.0.weight",)
    first = grey.levels.features[0].weight  # type: ignore[union-attr, index]
    torch.testing.assert_close(first, file["features.0.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(("variant", "file"), [("vgg16", "vgg16-397923af.pth"), ("lite", "mobilenet_v2-b0353104.pth")])
def test_a_missing_weights_file_is_named(variant: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCUSEG_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=file):
        tiny(variant=variant).load_encoder("imagenet")


def test_with_weights_the_first_stages_stay() -> None:
    trainable = [p.requires_grad for p in tiny(weights="imagenet", frozen_stages=2).levels.features.parameters()]  # type: ignore[union-attr]
    assert trainable == [False] * 8 + [True] * 18  # two stages of two convolutions each, weight and bias
    assert all(p.requires_grad for p in tiny().parameters())
