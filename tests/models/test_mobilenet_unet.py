"""MobileNetV2 U-Net: where its skips come from, its weights, its frozen normalisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.models.backbones import build_backbone
from pipeline.models.blocks import enlarge
from pipeline.models.features import FrozenBatchNorm2d
from pipeline.models.light_unet import LightUNet, narrowed
from pipeline.models.mobilenet_unet import MobileNetUNetConfig
from pipeline.models.mobilenet_unet import build as build_network


def build(in_channels: int = 3, seed: int = 0, **settings: object) -> LightUNet:
    torch.manual_seed(seed)
    net = build_network(MobileNetUNetConfig(**settings), in_channels, 2)  # type: ignore[arg-type]
    assert isinstance(net, LightUNet)
    return net


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_skips_are_the_expanded_projections_at_strides_two_to_sixteen() -> None:
    encoder = build().eval().encoder
    seen: dict[int, Tensor] = {}
    for place in (2, 4, 7, 14):
        encoder.features[place].conv[0].register_forward_hook(lambda _, __, out, place=place: seen.update({place: out}))
    image = noise(1, 3, 64, 96)
    with torch.no_grad():
        *skips, bottom = encoder.expanded(image)
        assert [tuple(skip.shape[1:]) for skip in skips] == [(96, 32, 48), (144, 16, 24), (192, 8, 12), (576, 4, 6)]
        assert all(torch.equal(skip, seen[place]) for skip, place in zip(skips, (2, 4, 7, 14), strict=True))
        # The path through the encoder is the detectors' own.
        assert bottom.shape == (1, 320, 2, 3)
        assert torch.equal(bottom, encoder(image)[-1])


@pytest.mark.parametrize("level", range(4))
def test_every_skip_reaches_the_logits(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, image = build().eval(), noise(1, 3, 64, 64)
    maps = net.encoder.expanded(image)
    with torch.no_grad():
        before = net(image)
        changed = [skip + (place == level) for place, skip in enumerate(maps)]
        monkeypatch.setattr(net.encoder, "expanded", lambda _: changed)
        assert not torch.allclose(net(image), before)


def test_three_widths_end_the_network_at_stride_sixteen(mobilenet: Path) -> None:
    whole, short = build(weights="imagenet"), build(weights="imagenet", widths=(16, 32, 64))
    loaded = (whole.load_encoder("imagenet"), short.load_encoder("imagenet"))
    image = noise(1, 3, 64, 96)
    with torch.no_grad():
        maps = short.eval().encoder.expanded(image)
        assert [tuple(found.shape[1:]) for found in maps] == [(96, 32, 48), (144, 16, 24), (192, 8, 12), (96, 4, 6)]
        assert torch.equal(maps[-1], whole.eval().encoder(image)[2])  # what the whole encoder has at stride 16
    assert len(short.encoder_stages()) == 4
    assert sum(p.numel() for p in short.parameters()) < 1_000_000 < sum(p.numel() for p in whole.parameters())
    assert set(loaded[1].loaded) < set(loaded[0].loaded)


def test_frozen_normalisation_is_of_the_encoder_only_and_needs_weights() -> None:
    net = build(norm="frozen", weights="imagenet")
    assert not [layer for layer in net.encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [layer for layer in net.encoder.modules() if isinstance(layer, FrozenBatchNorm2d)]
    assert len([layer for layer in net.decoder.modules() if isinstance(layer, nn.BatchNorm2d)]) == 8
    with pytest.raises(ValidationError, match="norm: frozen needs weights"):
        MobileNetUNetConfig(norm="frozen")


def test_one_image_of_one_tile_can_be_trained_on() -> None:
    assert torch.isfinite(build().train()(noise(1, 3, 32, 32))).all()


@pytest.mark.parametrize(("channels", "adapted"), [(1, ("features.0.0.weight",)), (3, ()), (4, ("features.0.0.weight",))])
def test_imagenets_weights_fill_the_whole_encoder(channels: int, adapted: tuple[str, ...], mobilenet: Path) -> None:
    net, same = build(channels, weights="imagenet", norm="frozen"), build_backbone("mobilenet_v2", channels, frozen_norm=True)
    loaded = net.load_encoder("imagenet")
    same.load("imagenet")
    assert loaded.mismatched == adapted
    assert set(loaded.loaded) | set(adapted) == set(net.encoder.state_dict())
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in net.encoder.state_dict().items())


def test_stages_are_the_encoders_and_all_of_it() -> None:
    net = build()
    staged = [p for stage in net.encoder_stages() for module in stage for p in module.parameters()]
    assert {id(p) for p in staged} == {id(p) for p in net.encoder.parameters()}
    assert len(net.encoder_stages()) == 5


@pytest.mark.parametrize("bias", [False, True])
def test_narrowing_before_enlarging_is_narrowing_the_two_maps_beside_each_other(bias: bool) -> None:
    torch.manual_seed(0)
    below, skip = torch.randn(2, 5, 7, 9), torch.randn(2, 6, 14, 18)
    layers = nn.Sequential(nn.Conv2d(11, 4, 1, bias=bias), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        expected = layers(torch.cat([enlarge(below, 2), skip], dim=1))
        layers[1].reset_running_stats()
        assert torch.allclose(narrowed(layers, below, skip), expected, atol=1e-5)
