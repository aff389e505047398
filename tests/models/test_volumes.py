"""Networks with dims 3: slices that are halved with their rows or not, the fast memory format, and export."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.models.base import MODELS, memory_format, to_channels_last
from pipeline.models.padding import AnySize, pad_to_multiple, strides
from tests.models.test_every_model import EVERY_GRAPH

TINY: dict[str, dict[str, Any]] = {
    "unet": {"widths": (4, 8, 12, 16)},
    "dynunet": {"widths": (4, 8, 12, 16)},
    "segresnet": {"width": 4, "blocks": (1, 1, 1)},
    "swin_unetr": {"width": 12, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1), "window": 4},
    "vit": {"image_size": 16, "patch": 8, "width": 16, "layers": 3, "heads": 2, "feedforward": 32, "decoder_width": 4},
}
THICK = pytest.mark.parametrize("name", ["unet", "dynunet"])


def network(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return MODELS[name].build(config(name, **options), 1, 2)


def config(name: str, **options: Any) -> Any:
    entry = MODELS[name]
    assert entry.config is not None
    return entry.config.model_validate({"name": name, "dims": 3, **TINY[name], **options})


def test_every_network_of_volumes_is_tested_here() -> None:
    assert {entry.name for entry in MODELS if entry.config is not None and "dims" in entry.config.model_fields} == set(TINY)


def test_the_coarsest_levels_halve_the_slices() -> None:
    assert strides((1, 2, 2), 3, None) == [1, 2, 2]
    assert strides((1, 2, 2), 3, 1) == [(1, 1, 1), (1, 2, 2), (2, 2, 2)]
    assert strides((2, 2, 2), 3, 0) == [(1, 2, 2)] * 3


@THICK
@pytest.mark.parametrize(("halvings", "multiple", "deepest"), [(0, (1, 8, 8), 9), (1, (2, 8, 8), 5), (3, 8, 2), (None, 8, 2)])
def test_slices_are_halved_as_often_as_asked_for_and_padded_no_further(
    name: str, halvings: int | None, multiple: Any, deepest: int
) -> None:
    net = network(name, slice_halvings=halvings).eval()
    assert net.multiple == multiple
    seen: list[torch.Size] = []
    for stage in net.encoder_stages():
        stage[0].register_forward_hook(lambda _, __, output: seen.append(output.shape[2:]))
    with torch.no_grad():
        assert net(torch.randn(1, 1, 9, 24, 40)).shape == (1, 2, 9, 24, 40)
    assert seen[-1] == (deepest, 3, 5)


@THICK
@pytest.mark.parametrize("halvings", [0, 1, None])
@pytest.mark.parametrize("size", [(1, 37, 53), (5, 9, 11), (1, 1, 2)])
def test_thick_slices_of_any_size_and_number(name: str, halvings: int | None, size: tuple[int, int, int]) -> None:
    net = network(name, slice_halvings=halvings, deep_supervision=1)
    outputs = net(torch.randn(2, 1, *size))
    assert [part.shape for part in outputs] == [(2, 2, *size)] * 2
    torch.stack([part.square().mean() for part in outputs]).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_slices_that_are_never_halved_are_never_padded() -> None:
    volume = torch.arange(6.0).reshape(1, 1, 1, 2, 3)
    assert pad_to_multiple(volume, (1, 2, 2)).shape == (1, 1, 1, 4, 4)
    assert pad_to_multiple(volume, (2, 2, 2)).shape == (1, 1, 4, 4, 4)


@THICK
def test_slice_halvings_that_mean_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="slice_halvings 1 is for volumes: leave it out, or write dims: 3"):
        config(name, dims=2, slice_halvings=1)
    with pytest.raises(ValidationError, match="slice_halvings 4: this network halves an image 3 times; write at most that"):
        config(name, slice_halvings=4)


def test_a_neighbouring_slice_is_seen_even_where_slices_are_never_halved() -> None:
    net = network("unet", slice_halvings=0, norm="batch").eval()
    volume = torch.randn(1, 1, 5, 16, 24)
    with torch.no_grad():
        before = net(volume)
        volume[:, :, 1] += 1
        after = net(volume)
    assert not torch.allclose(before[:, :, 3], after[:, :, 3])


@pytest.mark.parametrize("name", TINY)
def test_channels_last_of_volumes_is_kept_and_changes_nothing_but_speed(name: str) -> None:
    net, volume = network(name).eval(), torch.randn(1, 1, 3, 9, 13)
    assert memory_format(net) == torch.contiguous_format
    with torch.no_grad():
        before = net(volume)
        to_channels_last(net)
        assert memory_format(net) == torch.channels_last_3d
        after = net(volume.contiguous(memory_format=memory_format(net)))
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)


def test_images_keep_their_own_channels_last() -> None:
    net = nn.Conv2d(3, 4, 3)
    to_channels_last(net)
    assert memory_format(net) == torch.channels_last


@pytest.mark.parametrize("name", ["unet", "vit", *(pytest.param(name, marks=EVERY_GRAPH) for name in ("dynunet", "segresnet"))])
def test_it_can_be_exported_with_free_slices_height_and_width(name: str) -> None:
    net: AnySize = network(name, **({"slice_halvings": 1} if name in ("unet", "dynunet") else {})).eval()
    multiple = net.multiple if isinstance(net.multiple, tuple) else (net.multiple,) * 3
    free = {axis: each * torch.export.Dim(f"side{axis}", min=2, max=64) for axis, each in enumerate(multiple, start=2)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own internals
        example = torch.randn(2, 1, *(each * count for each, count in zip(multiple, (3, 2, 4), strict=True)))
        exported = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC, **free},)).module()
        volume = torch.randn(1, 1, *(each * count for each, count in zip(multiple, (2, 4, 3), strict=True)))
        torch.testing.assert_close(exported(volume), net(volume), rtol=1e-4, atol=1e-5)
