"""Little W-Net: two small U-Nets in a row, the second sees the image and what the first one made of it.

Paper: Galdran et al., "State-of-the-art retinal vessel segmentation with minimalistic models", Scientific Reports 12, 2022,
doi:10.1038/s41598-022-09675-y, arXiv:2009.01907. Our own code.

Each U-Net is narrow (8, 16 and 32 channels at strides 1, 2 and 4) and of blocks of two convolutions with a 1 x 1 convolution beside them;
what the encoder hands across goes through one more convolution. The first has 34,017 parameters for 3 channels and 1 output, both
have 68,114. In training the first one's logits get a loss too.

What differs: normalisation comes before the ReLU, and convolutions have no bias before it (with them the same network has 68,482); the
first network's loss counts half of the second's, as everywhere here with deep supervision, where the authors count both alike. With
``unshuffle`` both U-Nets work at a half or a quarter of the picture's resolution and still answer for each of its pixels: squares of
pixels are channels for them (sub-pixel convolution, Shi et al., CVPR 2016, doi:10.1109/CVPR.2016.207).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models.base import MODELS, ModelConfig
from pipeline.models.blocks import convolution
from pipeline.models.padding import AnySize
from pipeline.models.transposed import ConvTranspose2d


class LittleWNetConfig(ModelConfig):
    name: Literal["wnet_little"] = "wnet_little"
    widths: tuple[int, ...] = Field((8, 16, 32), min_length=2, description="channels at each depth of both U-Nets, finest first")
    between: Literal["sigmoid", "softmax"] = Field(
        "sigmoid",
        description="activation of the first U-Net's output: sigmoid for one class or overlapping classes, softmax for several exclusive"
        " classes",
    )
    unshuffle: Literal[1, 2, 4] = Field(
        1,
        description="pixel-unshuffle factor: the U-Nets work on squares of this side as channels; 1: as in the paper; 2 takes about a third"
        " of the time per step",
    )
    deep_supervision: Literal[0, 1] = Field(1, description="1: the first U-Net's output also has a loss; 0: only the second's")

    @model_validator(mode="after")
    def _fits(self) -> LittleWNetConfig:
        if min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be positive")
        return self


class Block(nn.Module):
    """Two convolutions and beside them a 1 x 1 convolution of the same input, added: (B, before, H, W) -> (B, after, H, W)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(convolution(before, after), convolution(after, after))
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.convolutions(x) + self.shortcut(x)
        return added


class LittleUNet(nn.Module):
    """Float (B, C, H, W), sides multiples of unshuffle * 2 ** (depths - 1) -> logits (B, K, H, W)."""

    def __init__(self, widths: tuple[int, ...], in_channels: int, out_channels: int, unshuffle: int = 1) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.encoder = nn.ModuleList(Block(before, after) for before, after in pairwise((in_channels * unshuffle**2, *widths)))
        steps = list(pairwise(reversed(widths)))
        self.doublings = nn.ModuleList(ConvTranspose2d(before, after, 2, stride=2) for before, after in steps)
        self.bridges = nn.ModuleList(convolution(after, after) for _, after in steps)
        self.decoder = nn.ModuleList(Block(2 * after, after) for _, after in steps)
        self.head = nn.Conv2d(widths[0], out_channels * unshuffle**2, 1)

    def forward(self, images: Tensor) -> Tensor:
        first, *deeper = self.encoder
        maps = [first(functional.pixel_unshuffle(images, self.unshuffle))]
        for block in deeper:
            maps.append(block(functional.max_pool2d(maps[-1], 2)))
        *skips, x = maps
        for doubling, bridge, block, skip in zip(self.doublings, self.bridges, self.decoder, reversed(skips), strict=True):
            x = block(torch.cat([doubling(x), bridge(skip)], dim=1))
        return functional.pixel_shuffle(self.head(x), self.unshuffle)


class LittleWNet(AnySize):
    def __init__(self, config: LittleWNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = LittleUNet(config.widths, in_channels, out_channels, config.unshuffle)
        self.second = LittleUNet(config.widths, in_channels + out_channels, out_channels, config.unshuffle)
        self.exclusive = config.between == "softmax"
        self.supervised = config.deep_supervision == 1
        self.multiple = config.unshuffle * 2 ** (len(config.widths) - 1)

    def logits(self, images: Tensor) -> Tensor | list[Tensor]:
        draft: Tensor = self.first(images)
        probabilities = draft.softmax(dim=1) if self.exclusive else draft.sigmoid()
        final: Tensor = self.second(torch.cat([images, probabilities], dim=1))
        return [final, draft] if self.training and self.supervised else final


@MODELS.add(LittleWNetConfig)
def build(config: LittleWNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    if config.between == "softmax" and out_channels == 1:
        raise ConfigError("model.between: softmax of one output is always 1: write between: sigmoid")
    return LittleWNet(config, in_channels, out_channels)
