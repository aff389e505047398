"""Darknet-53, the encoder of YOLOv3.

Paper: Redmon, Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767, table 1. Our own code; 40,584,928 parameters
in its 52 convolutions for RGB, as in the authors' (the 53rd layer of the name is the classifier's, which a detector has no use for).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from pipeline.models.weights import Loaded, load

SLOPE = 0.1  # of the leaky ReLU


class Convolution(nn.Sequential):
    """Convolution without bias, batch normalisation, leaky ReLU; (B, C, H, W) -> (B, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1) -> None:
        conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, a=SLOPE)
        super().__init__(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), act=nn.LeakyReLU(SLOPE, inplace=True)))


class Residual(nn.Module):
    """Half the channels by 1 x 1, all of them again by 3 x 3, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Convolution(channels, channels // 2, 1), Convolution(channels // 2, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.body(x)
        return added


class Darknet53(nn.Module):
    """Images (B, C, H, W), sides multiples of 32 -> features at strides 4, 8, 16 and 32, of ``widths`` channels.

    ``blocks``: residual blocks of the five stages; ``width``: channels of the first convolution. Others than the paper's make a
    smaller network of the same shape (tests use one).
    """

    def __init__(self, in_channels: int, blocks: tuple[int, int, int, int, int] = (1, 2, 8, 8, 4), width: int = 32) -> None:
        super().__init__()
        self.stem = Convolution(in_channels, width, 3)
        self.stages = nn.ModuleList()
        for depth, count in enumerate(blocks):
            channels = width * 2 ** (depth + 1)
            down = Convolution(channels // 2, channels, 3, stride=2)
            self.stages.append(nn.Sequential(down, *(Residual(channels) for _ in range(count))))
        self.widths = tuple(width * 2**depth for depth in range(2, 6))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[2:]

    def load(self, weights: str) -> Loaded:
        """Fill it from a file of its own entries; torchvision has no ImageNet weights of it, so "imagenet" is refused."""
        return load(self, weights, "darknet53")

    def parts(self) -> list[list[nn.Module]]:
        """Modules in the order they are passed, by stage, the convolution at full size with the first."""
        return [[self.stem, self.stages[0]], *([stage] for stage in self.stages[1:])]
