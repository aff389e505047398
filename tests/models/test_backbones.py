"""Encoders: their strides, their weights, and the pyramid upon them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from pipeline.models.backbones import Name, Pyramid, build_backbone
from pipeline.models.features import FrozenBatchNorm2d


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", get_args(Name))
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_four_maps_at_strides_four_to_thirty_two(name: Name, channels: int) -> None:
    features = build_backbone(name, channels, frozen_norm=True).eval()
    with torch.no_grad():
        maps = features(noise(1, channels, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, w, 64 // s, 96 // s) for w, s in zip(features.widths, (4, 8, 16, 32), strict=True)]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "resnet50"])
def test_a_whole_classifiers_file_of_torchvision_fits_and_gives_its_features(name: Name, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(1)
    whole = getattr(models, name)(weights=None).eval()
    path = tmp_path / "own.pth"
    torch.save(whole.state_dict(), path)
    features = build_backbone(name, 3, frozen_norm=True).eval()
    loaded = features.load(str(path))
    assert {key for key in loaded.skipped if not key.endswith("num_batches_tracked")} >= set(list(whole.state_dict())[-2:])
    image = noise(1, 3, 64, 96)
    with torch.no_grad():
        inner = whole.features[:18] if name == "mobilenet_v2" else nn.Sequential(*list(whole.children())[:-2])
        torch.testing.assert_close(features(image)[-1], inner(image), rtol=1e-4, atol=1e-5)


def test_imagenet_weights_of_one_channel_answer_to_grey_as_those_of_three(mobilenet: Path) -> None:
    three, one = build_backbone("mobilenet_v2", 3, frozen_norm=True), build_backbone("mobilenet_v2", 1, frozen_norm=True)
    assert three.load("imagenet").mismatched == ()
    assert one.load("imagenet").mismatched == ("features.0.0.weight",)
    grey = noise(1, 1, 64, 96)
    with torch.no_grad():
        for a, b in zip(three(grey.expand(-1, 3, -1, -1)), one(grey), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_frozen_normalisation_is_batch_normalisation_at_rest() -> None:
    learnt, frozen = nn.BatchNorm2d(3), FrozenBatchNorm2d(3)
    for value in learnt.state_dict().values():
        if value.ndim:
            value.copy_(noise(3).abs() + 0.5)
    frozen.load_state_dict({key: value for key, value in learnt.state_dict().items() if value.ndim})
    image = noise(2, 3, 4, 5)
    torch.testing.assert_close(frozen.train()(image), learnt.eval()(image))
    assert list(frozen.parameters()) == []


def test_frozen_stages_keep_no_gradient_and_the_others_do() -> None:
    features = build_backbone("resnet18", 3, frozen_norm=True)
    features.freeze(2)
    sum(m.mean() for m in features(noise(1, 3, 64, 96))).backward()
    without = {key.split(".")[0] for key, p in features.named_parameters() if p.grad is None}
    assert without == {"conv1", "layer1"}


def test_the_pyramid_has_five_levels_of_one_width() -> None:
    levels = Pyramid(build_backbone("mobilenet_v2", 3, frozen_norm=True), out_channels=8)(noise(1, 3, 96, 160))
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "0": (1, 8, 24, 40),
        "1": (1, 8, 12, 20),
        "2": (1, 8, 6, 10),
        "3": (1, 8, 3, 5),
        "pool": (1, 8, 2, 3),
    }
