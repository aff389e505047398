"""A convolution whose gradient costs only what comes back to it.

A proposal network is computed at every place of an image and learns from a few hundred of them (Ren et al., "Faster R-CNN", NeurIPS
2015, arXiv:1506.01497: 256 anchors an image). The gradient of its 3 x 3 convolution is that of these places alone: the same numbers,
up to rounding, at less than a hundredth of the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DENSE = 1 / 16
"""Above this fraction of places with a gradient, the ordinary one is faster."""


class SparseGradientConv2d(nn.Conv2d):
    """A 3 x 3 convolution of stride 1 with padding and bias. On a GPU, where the count of places would have to be waited for, it is
    nn.Conv2d."""

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> SparseGradientConv2d:
        """The same layer, with the same parameters."""
        assert (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (1, 1), (1, 1))
        # Not initialised, so that no random numbers are drawn.
        out: SparseGradientConv2d = nn.utils.skip_init(cls, convolution.in_channels, convolution.out_channels, 3, padding=1)
        out.weight, out.bias = convolution.weight, convolution.bias
        return out

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        out: Tensor = _Convolution.apply(x, self.weight, self.bias)
        return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):  # its products would come in another format than its sums
            return _gradients(gradient, x, weight)


def _gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of input, weight and bias."""
    gradient, seen = gradient.to(weight.dtype), x.to(weight.dtype)
    image, row, column = (gradient != 0).any(dim=1).nonzero(as_tuple=True)
    number, channels, rows, columns = x.shape
    if len(image) > DENSE * number * rows * columns:
        of_x, of_weight = torch.ops.aten.convolution_backward(
            gradient, seen, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, True, False)
        )[:2]
        return of_x.to(x.dtype), of_weight, gradient.sum(dim=(0, 2, 3))
    at = gradient[image, :, row, column]  # (P, out)
    windows = functional.pad(seen, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)[image, :, row, column]  # (P, in, 3, 3)
    of_weight = (at.T @ windows.flatten(1)).view_as(weight)
    back = (at @ weight.flatten(1)).view(-1, channels, 9).transpose(1, 2)  # (P, 9, in)
    step = torch.arange(3, device=x.device)
    places = (image[:, None, None] * (rows + 2) + row[:, None, None] + step[:, None]) * (columns + 2) + column[:, None, None] + step
    padded = seen.new_zeros(number * (rows + 2) * (columns + 2), channels)
    padded.index_add_(0, places.flatten(), back.reshape(-1, channels))
    of_x = padded.view(number, rows + 2, columns + 2, channels)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
    return of_x.to(x.dtype).contiguous(), of_weight, at.sum(dim=0)
