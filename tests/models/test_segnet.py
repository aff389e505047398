"""SegNet: the places of the maxima put values back, nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.models import segnet, vgg
from pipeline.models.segnet import SegNet, SegNetConfig, pool, unpool


def tiny(in_channels: int = 3, seed: int = 0, out_channels: int = 2) -> SegNet:
    torch.manual_seed(seed)
    return SegNet(SegNetConfig(width=0.125), in_channels, out_channels)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_place_of_the_maximum_is_where_its_value_goes() -> None:
    # 3 x 5 pixels: the last row and column have windows of their own.
    x = torch.tensor([[0.0, 9, 1, 2, 8], [0, 0, 7, 3, 0], [5, 4, 0, 6, -1]])[None, None]
    largest, places = pool(x)
    assert largest.tolist() == [[[[9, 7, 8], [5, 6, -1]]]]
    back = unpool(torch.tensor([[10.0, 20, 30], [40, 50, 60]])[None, None], places, (3, 5))
    assert back.tolist() == [[[[0, 10, 0, 0, 30], [0, 0, 20, 0, 0], [40, 0, 0, 50, 60]]]]


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_unpooling_keeps_each_maximum_in_its_pixel_at_any_size(size: tuple[int, int], memory: torch.memory_format) -> None:
    x = noise(2, 3, *size).contiguous(memory_format=memory)
    largest, places = pool(x)
    back = unpool(largest, places, size)
    kept = back != 0
    assert back.shape == x.shape
    assert torch.equal(back[kept], x[kept])
    assert int(kept.sum()) == largest.numel()


def test_equal_pooled_values_of_other_places_are_unpooled_elsewhere() -> None:
    left = torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0]])[None, None]
    right = left.roll(1, dims=3)
    assert torch.equal(pool(left)[0], pool(right)[0])  # all that an interpolation of them could know
    for image in (left, right):
        assert torch.equal(unpool(*pool(image), (3, 4)), image)


def test_in_the_network_every_level_is_unpooled_at_its_own_maxima(monkeypatch: pytest.MonkeyPatch) -> None:
    pooled: list[tuple[Tensor, Tensor]] = []
    unpooled: list[Tensor] = []

    def pool_seen(x: Tensor) -> tuple[Tensor, Tensor]:
        pooled.append((x, pool(x)[1]))
        return pool(x)

    def unpool_seen(x: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
        unpooled.append(unpool(x + 1, places, size))  # + 1: what a ReLU has made zero is seen, too
        return unpool(x, places, size)

    monkeypatch.setattr(segnet, "pool", pool_seen)
    monkeypatch.setattr(segnet, "unpool", unpool_seen)
    with torch.no_grad():
        assert tiny().eval()(noise(1, 3, 37, 53)).shape == (1, 2, 37, 53)
    assert len(pooled) == len(unpooled) == 5
    for (features, places), back in zip(reversed(pooled), unpooled, strict=True):
        assert back.shape[-2:] == features.shape[-2:]
        wanted = torch.zeros_like(features).flatten(2).scatter(2, places.flatten(2), 1.0).view_as(features)
        assert torch.equal(back != 0, wanted != 0)


def test_its_size_is_the_papers() -> None:
    with torch.device("meta"):
        net = SegNet(SegNetConfig(), 3, 11)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(29.4, abs=0.1)  # table 2 of the paper: 29.45 M


def test_vggs_kernels_are_filled_and_its_normalisation_begins_anew(tmp_path: Path) -> None:
    donor = [layer for block in vgg.vgg16_blocks(3, 0.125) for layer in block if isinstance(layer, nn.Conv2d)]
    values: dict[str, Any] = {}
    for place, layer in zip(vgg.PLACES, donor, strict=True):
        values |= {f"features.{place}.{key}": value for key, value in layer.state_dict().items()}
    save_file({**values, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.safetensors")
    net = tiny(seed=5)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    loaded = net.load_encoder(str(tmp_path / "vgg.safetensors"))
    assert len(loaded.loaded) == 13
    assert set(loaded.skipped) == {"classifier.0.weight", *(f"features.{place}.bias" for place in vgg.PLACES)}
    after = net.state_dict()
    assert torch.equal(after["encoder.0.0.weight"], values["features.0.weight"])
    assert torch.equal(after["encoder.4.6.weight"], values["features.28.weight"])
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {f"encoder.{block}.{3 * place}.weight" for block, (_, number) in enumerate(vgg.BLOCKS) for place in range(number)}
