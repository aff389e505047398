"""The transposed convolution gives the numbers of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models.transposed import ConvTranspose2d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("settings", [{"kernel_size": 2, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}])
@pytest.mark.parametrize("bias", [True, False])
def test_value_and_gradients_are_those_of_torch(memory_format: torch.memory_format, settings: dict[str, int], bias: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.ConvTranspose2d(6, 4, bias=bias, **settings).to(memory_format=memory_format)  # type: ignore[call-overload]
    image = torch.randn(2, 6, 37, 53).contiguous(memory_format=memory_format)
    found = []
    for layer in (theirs, ConvTranspose2d.of(theirs)):
        assert list(layer.state_dict()) == (["weight", "bias"] if bias else ["weight"])
        x = image.clone().requires_grad_()
        layer.zero_grad()
        out = layer(x)
        out.square().sum().backward()
        found.append((out.detach(), x.grad, *(p.grad for p in layer.parameters())))
    expected, ours = found
    assert all(torch.equal(a, b) for a, b in zip(expected[:3], ours[:3], strict=True)), "but for the bias, to the bit"
    for a, b in zip(expected[3:], ours[3:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-2)


def test_a_frozen_bias_gets_no_gradient_and_autocast_decides_as_ever() -> None:
    layer = ConvTranspose2d(3, 2, 2, stride=2)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.ones(1, 3, 5, 7))
    out.float().sum().backward()
    assert (out.dtype, layer.bias.grad.dtype, layer.bias.grad.tolist()) == (torch.bfloat16, torch.float32, [140.0, 140.0])
    layer.zero_grad()
    layer.bias.requires_grad_(False)
    layer(torch.ones(1, 3, 5, 7)).sum().backward()
    assert layer.bias.grad is None
    assert layer.weight.grad is not None


@pytest.mark.parametrize("frozen", [False, True])
def test_what_follows_may_work_in_place_and_gradients_have_gradients(frozen: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.ConvTranspose2d(3, 4, 2, stride=2)
    theirs.weight.requires_grad_(not frozen)
    found = []
    for layer in (theirs, ConvTranspose2d.of(theirs)):
        loss = nn.functional.leaky_relu_(layer(torch.ones(1, 3, 5, 7)), 0.5).pow(3).sum()
        learning = [p for p in layer.parameters() if p.requires_grad]
        first = torch.autograd.grad(loss, learning, create_graph=True)
        second = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), learning)
        found.append((loss, *first, *second))
    torch.testing.assert_close(found[1], found[0])
