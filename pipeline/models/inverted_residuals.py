"""Blocks of MobileNetV2 and its successors: widened by a 1 x 1 convolution, filtered channel by channel, narrowed again.

Paper: Sandler et al., "MobileNetV2", CVPR 2018, arXiv:1801.04381, section 3.3. Layers, the names of their entries and their initial values
are as torchvision's (BSD-3-Clause), so that its files of weights fit; the code is our own, because importing torchvision takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

Norm = Callable[..., nn.Module]
Layer = Callable[[int, int, int, int, int], nn.Conv2d]
"""Makes a convolution without bias of: channels, out_channels, kernel, stride, groups."""
Group = tuple[int, int, int, int, int]
"""Expansion, channels, blocks, kernel, stride of the first block."""

STEM = 32  # channels of the first convolution


def plain_layer(channels: int, out_channels: int, kernel: int, stride: int, groups: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


class InvertedResidual(nn.Module):
    """``forward``: float (B, C, H, W) -> (B, K, H / stride, W / stride), sides rounded up."""

    def __init__(self, channels: int, out_channels: int, expansion: int, kernel: int, stride: int, norm: Norm, layer: Layer) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut = stride == 1 and channels == out_channels
        wide = channels * expansion
        parts: list[nn.Module] = [_activated(layer(channels, wide, 1, 1, 1), norm)] if expansion != 1 else []
        parts += [_activated(layer(wide, wide, kernel, stride, wide), norm), layer(wide, out_channels, 1, 1, 1), norm(out_channels)]
        self.conv = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.conv(x)
        return x + narrowed if self.shortcut else narrowed


def stem_and_blocks(groups: Iterable[Group], norm: Norm, layer: Layer = plain_layer) -> list[Any]:
    """The first convolution, of three channels and stride 2, and the blocks of all groups; convolutions are initialised by He's rule."""
    modules: list[nn.Module] = [_activated(layer(3, STEM, 3, 2, 1), norm)]
    channels = STEM
    for expansion, width, blocks, kernel, stride in groups:
        for number in range(blocks):
            modules.append(InvertedResidual(channels, width, expansion, kernel, stride if number == 0 else 1, norm, layer))
            channels = width
    for module in modules:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out")
    return modules


def _activated(convolution: nn.Conv2d, norm: Norm) -> nn.Sequential:
    return nn.Sequential(convolution, norm(convolution.out_channels), nn.ReLU6(inplace=True))
