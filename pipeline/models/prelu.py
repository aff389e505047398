"""PReLU whose gradient is as quick on a CPU as its value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class PReLU(nn.PReLU):
    """:class:`torch.nn.PReLU` of one slope: the same numbers, parameter and name.

    torch's own gradient goes through a map pixel by pixel on a CPU (a fifth of a U-Net's training step); here it is made of
    vectorised operations.
    """

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling()
        return _OneSlope.apply(x, self.weight) if learns else super().forward(x)


class _OneSlope(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, slope: Tensor) -> Tensor:
        context.save_for_backward(x, slope)
        return functional.leaky_relu(x, slope.item())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, slope = context.saved_tensors
        of_slope = None
        if context.needs_input_grad[1]:
            of_slope = x.clamp(max=0).mul_(gradient).sum(dtype=slope.dtype).view_as(slope)
        return torch.ops.aten.leaky_relu_backward(gradient, x, slope.item(), False), of_slope


def with_quick_prelu(network: nn.Module) -> nn.Module:
    """The network with each of its PReLUs of one slope as :class:`PReLU`, weights kept."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.PReLU and child.num_parameters == 1:
                quick = PReLU()
                quick.weight = child.weight
                setattr(module, name, quick)
    return network
