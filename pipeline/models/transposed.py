"""A transposed convolution whose bias costs next to nothing on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ConvTranspose2d(nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`: the same numbers, parameters and names.

    oneDNN takes up to a third of the layer's backward pass to sum the gradient over pixels, which is all that the bias needs, and rounds
    more; torch's own sum takes a hundredth.
    """

    @classmethod
    def of(cls, layer: nn.ConvTranspose2d) -> ConvTranspose2d:
        """The same layer, with the same parameters."""
        # Not initialised, so that no random numbers are drawn.
        out: ConvTranspose2d = nn.utils.skip_init(
            cls, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.output_padding,
            layer.groups, layer.bias is not None, layer.dilation, layer.padding_mode,
        )  # fmt: skip
        out.weight, out.bias = layer.weight, layer.bias
        return out

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        bias = self.bias
        learns = torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling()
        if bias is None or not (learns and bias.requires_grad) or output_size is not None:
            return super().forward(x, output_size)
        settings: Any = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        out = nn.functional.conv_transpose2d(x, self.weight, bias.detach(), *settings)
        with_gradient: Tensor = _Bias.apply(out, bias)
        return with_gradient


class _Bias(torch.autograd.Function):
    """The gradient of a bias that has been added already."""

    @staticmethod
    def forward(context: Any, out: Tensor, bias: Tensor) -> Tensor:
        context.dtype = bias.dtype
        context.mark_dirty(out)  # returned as it is: a view of it would refuse what is done in place after the layer
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.sum((0, 2, 3), dtype=context.dtype)
