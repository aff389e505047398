"""Networks whose convolutions have taken in their normalisation: what they give is what they gave, and the network they came from stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.features import FrozenBatchNorm2d
from pipeline.models.folded_norm import with_folded_norms
from tests.models.test_every_detector import SMALL as DETECTORS
from tests.models.test_every_model import EVERY, network, noise


def trained_norms(module: nn.Module) -> int:
    """Give each batch normalisation statistics and numbers as after a training; how many there are."""
    generator, count = torch.Generator().manual_seed(2), 0
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            count += 1
            for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 2), (norm.bias, -1, 1)):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    return count


def norms(module: nn.Module) -> int:
    return sum(isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d) for norm in module.modules())


@EVERY
def test_a_network_for_pixels_gives_the_same(name: str, settings: dict[str, Any]) -> None:
    net = network(name, settings).eval()
    trained_norms(net)
    images, before = noise(2, 3, 64, 96), {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        expected = net(images)
        got = with_folded_norms(net)(images)
        assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max().clamp(min=1)))
        assert torch.equal(net(images), expected)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["retinanet", "ssd", "yolov3", "mask_rcnn"])
def test_encoders_of_detectors_give_the_same_maps(name: str) -> None:
    net = network(name, DETECTORS[name][-1]).eval()
    assert trained_norms(net) > 10
    folded = with_folded_norms(net)

    def maps(of: Any) -> Tensor:
        x = noise(1, 3, 64, 96)
        for stage in of.encoder_stages():
            for module in stage:
                x = module(x)
        return x

    with torch.no_grad():
        expected = maps(net)
        assert torch.allclose(maps(folded), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["mobilenet_unet", "efficientnet_unet"])
def test_no_norm_of_a_light_u_net_is_left_and_all_else_is_shared(name: str) -> None:
    net = network(name, {"widths": (8, 8)}).eval()
    folded: Any = with_folded_norms(net)
    assert norms(net) > 10
    assert norms(folded) == 0
    assert folded.head.weight is net.head.weight
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in net.parameters())


def test_what_looks_at_the_batch_stays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4))
    assert [type(layer) for layer in with_folded_norms(net)] == [type(layer) for layer in net]
    assert with_folded_norms(net) is net


def test_a_folded_convolution_learns_where_the_one_it_came_from_does() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3).requires_grad_(False), nn.BatchNorm2d(4))
    folded: Any = with_folded_norms(net)
    assert (folded[0].weight.requires_grad, folded[2].weight.requires_grad) == (True, False)
