"""The quick PReLU gives torch's numbers, keeps its name and reaches every network that has one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.models.transposed import ConvTranspose2d
from pipeline.models.unet import PReLU, with_quick_gradients


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradients_are_those_of_torch(slope: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = PReLU(init=slope)
    images = [torch.randn(2, 3, 5, 7).to(dtype).requires_grad_() for _ in range(2)]
    images[1].data.copy_(images[0].data)
    weight = layer.weight.detach().clone().requires_grad_()
    gradient = torch.randn(2, 3, 5, 7).to(dtype)
    ours, theirs = layer(images[0]), functional.prelu(images[1], weight.to(dtype))
    torch.testing.assert_close(ours, theirs)
    ours.backward(gradient)
    theirs.backward(gradient)
    torch.testing.assert_close(images[0].grad, images[1].grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-5 if dtype == torch.float32 else 0.1, atol=1e-5)


def test_a_frozen_slope_gets_no_gradient() -> None:
    layer = PReLU().requires_grad_(False)
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    layer(x).sum().backward()
    assert (x.grad.tolist(), layer.weight.grad) == ([0.25, 1.0], None)


def test_only_those_of_one_slope_are_exchanged_and_their_weights_stay() -> None:
    network = nn.Sequential(nn.PReLU(init=0.7), nn.Sequential(nn.PReLU(num_parameters=3)), nn.ConvTranspose2d(2, 3, 2))
    names = list(network.state_dict())
    weight = network[0].weight
    with_quick_gradients(network)
    assert [type(layer) for layer in (network[0], network[1][0])] == [PReLU, nn.PReLU]
    assert type(network[2]) is ConvTranspose2d
    assert network[0].weight is weight
    assert list(network.state_dict()) == names
