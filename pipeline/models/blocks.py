"""Pieces that several networks for pixels are built from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["batch", "none"]


def convolution(before: int, after: int, kernel: int = 3, *, norm: Norm = "batch", groups: int = 1) -> nn.Sequential:
    """Convolution of the same size, normalisation, ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=norm == "none")]
    if norm == "batch":
        layers.append(nn.BatchNorm2d(after))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def enlarge(x: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H * factor, W * factor), bilinear between pixel centres."""
    return functional.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


class LearnedEnlargement(nn.Module):
    """Transposed convolution that begins as bilinear interpolation and learns (Long et al., arXiv:1411.4038, section 3.3).

    ``forward``: float (B, C, H, W) -> (B, C, H * factor, W * factor). The outermost pixels are repeated once before it, so that at the
    start it is :func:`enlarge` up to the border, where a transposed convolution alone would fade to zero.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        if factor % 2:
            raise ValueError(f"factor {factor} must be even")
        # Of the doubled kernel, half a factor belongs to each border, and one whole factor to the repeated pixels.
        self.convolution = nn.ConvTranspose2d(channels, channels, 2 * factor, stride=factor, padding=factor + factor // 2, bias=False)
        tent = 1 - ((torch.arange(2 * factor) - factor + 0.5) / factor).abs()
        with torch.no_grad():
            self.convolution.weight.zero_()
            for channel in range(channels):
                self.convolution.weight[channel, channel] = tent[:, None] * tent

    def forward(self, x: Tensor) -> Tensor:
        enlarged: Tensor = self.convolution(functional.pad(x, (1, 1, 1, 1), mode="replicate"))
        return enlarged


def begin_as(network: nn.Module, kernels: Callable[[Tensor], object]) -> None:
    """Fill the kernels of all convolutions by ``kernels`` and their biases with zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            kernels(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


RELU_KERNELS: Callable[[Tensor], object] = partial(nn.init.kaiming_normal_, nonlinearity="relu")
"""Keeps the size of what goes through convolutions and ReLUs (He et al., arXiv:1502.01852)."""
