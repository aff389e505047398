"""ImageNet encoders as plain feature extractors, and the pyramid built upon them.

MobileNetV2: Sandler et al., CVPR 2018, arXiv:1801.04381. ResNet: He et al., CVPR 2016, arXiv:1512.03385. Feature pyramid: Lin et
al., CVPR 2017, arXiv:1612.03144. Network code: torchvision, BSD-3-Clause.

What differs from torchvision's: any number of channels; a feature is the LAST block's at its stride (torchvision's detectors on
MobileNetV2 take the first block's).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.models.weights import Loaded, Version, first_layer, load

Name = Literal["mobilenet_v2", "resnet18", "resnet50"]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation by statistics, scale and shift that never change; entries are named as BatchNorm2d's.

    With a few images a step, statistics of the batch are worse than ImageNet's (He et al., arXiv:1703.06870, keep them fixed).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((features,), value))

    def forward(self, x: Tensor) -> Tensor:
        # Multiplied, then added in place: one tensor kept and no input saved for the gradient, a tenth faster than batch_norm on a CPU.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return (x * scale.to(x.dtype)[:, None, None]).add_(shift.to(x.dtype)[:, None, None])


class Features(nn.Module, abc.ABC):
    """An encoder cut into stages.

    ``forward``: float (B, C, H, W) -> [(B, ``widths[i]``, H / s, W / s) for s in 4, 8, 16, 32], sides rounded up.
    Entries are named as in torchvision's files.
    """

    name: Name
    in_channels: int
    widths: tuple[int, ...]
    first: str  # entry of the first layer's kernel
    unused: tuple[str, ...]  # beginnings of the file's entries that belong to the classifier

    @abc.abstractmethod
    def stages(self) -> list[list[nn.Module]]:
        """Modules in the order they are passed, by the stride at their end: 2, 4, 8, 16, 32."""

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages():
            for module in stage:
                x = module(x)
            features.append(x)
        return features[1:]

    def load(self, weights: str, version: Version = "v1") -> Loaded:
        """Fill it from "imagenet" or a file of torchvision's classifier; the first layer is adapted to the channels."""
        return load(
            self,
            weights,
            self.name,
            version=version,
            rename=lambda key: None if key.startswith(self.unused) else key,
            adapt=lambda key, value: first_layer(value, self.in_channels) if key == self.first and value.ndim == 4 else value,
        )

    def freeze(self, stages: int) -> None:
        """Take the first ``stages`` (0..5) out of training: no gradient is computed for them, which saves most where images are large."""
        for stage in self.stages()[:stages]:
            for module in stage:
                module.requires_grad_(False)


class MobileNetV2Features(Features):
    """``halvings`` 5 for all of it; fewer end it at stride 2 ** halvings, where it has a fraction of the parameters (4: 0.54 of 1.8
    million)."""

    name: Name = "mobilenet_v2"
    first = "features.0.0.weight"
    ENDS = (2, 4, 7, 14, 18)  # blocks after which each stage ends; the last 1280 channels, before the classifier, are not used

    def __init__(self, in_channels: int, norm: Callable[[int], nn.Module], halvings: int = 5) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2  # importing torchvision takes a second

        ends = self.ENDS[:halvings]
        self.in_channels = in_channels
        self.widths = (24, 32, 96, 320)[: halvings - 1]
        self.expanded_widths = (*(96, 144, 192, 576)[: halvings - 1], self.widths[-1])
        self.unused = ("classifier.", *(f"features.{block}." for block in range(ends[-1], 19)))
        self.features: nn.Sequential = mobilenet_v2(weights=None, norm_layer=norm).features[: ends[-1]]
        self.features[0][0] = _first_convolution(self.features[0][0], in_channels)

    def stages(self) -> list[list[nn.Module]]:
        blocks, ends = list(self.features), (0, *self.ENDS)
        return [blocks[start:end] for start, end in pairwise(ends) if start < len(blocks)]

    def expanded(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> the widened maps that each further halving begins with, at strides 2, 4, 8 and 16,
        and the last map at stride 32 (or as far as it goes); of ``expanded_widths`` channels."""
        from torchvision.models.mobilenetv2 import InvertedResidual

        maps = []
        for block in self.features:
            if isinstance(block, InvertedResidual) and block.stride == 2:
                x = block.conv[0](x)
                maps.append(x)
                x = block.conv[1:](x)  # a block that halves has no shortcut
            else:
                x = block(x)
        return [*maps, x]


class ResNetFeatures(Features):
    first = "conv1.weight"
    unused = ("fc.",)

    def __init__(self, name: Literal["resnet18", "resnet50"], in_channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        from torchvision.models import resnet18, resnet50

        self.name, self.in_channels = name, in_channels
        self.widths = (64, 128, 256, 512) if name == "resnet18" else (256, 512, 1024, 2048)
        whole = (resnet18 if name == "resnet18" else resnet50)(weights=None, norm_layer=norm)
        self.conv1, self.bn1 = _first_convolution(whole.conv1, in_channels), whole.bn1
        self.relu, self.maxpool = whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1, self.relu], [self.maxpool, self.layer1], [self.layer2], [self.layer3], [self.layer4]]


def build_backbone(name: Name, in_channels: int, frozen_norm: bool) -> Features:
    """An encoder with random weights; ``frozen_norm`` where pretrained ones are to follow, else BatchNorm2d that learns."""
    norm: Callable[[int], nn.Module] = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    if name == "mobilenet_v2":
        return MobileNetV2Features(in_channels, norm)
    return ResNetFeatures(name, in_channels, norm)


def build_encoder(name: Name, in_channels: int, weights: str, frozen_stages: int = 0) -> Features:
    """An encoder as a detector's settings say: from scratch all of it learns; where ``weights`` follow, its normalisation and its first
    stages stay as loaded."""
    features = build_backbone(name, in_channels, frozen_norm=weights != "none")
    features.freeze(frozen_stages if weights != "none" else 0)
    return features


class Pyramid(nn.Module):
    """Feature pyramid of five levels, strides 4, 8, 16, 32, 64 (the last is every second value of the one before).

    ``forward``: float (B, C, H, W) -> {"0": (B, ``out_channels``, H / 4, W / 4), ..., "3": ..., "pool": ...}, torchvision's names.
    """

    STRIDES = (4, 8, 16, 32, 64)

    def __init__(self, features: Features, out_channels: int = 256, norm: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        self.body = features
        self.out_channels = out_channels
        self.fpn = FeaturePyramidNetwork(list(features.widths), out_channels, LastLevelMaxPool(), norm_layer=norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn({str(level): feature for level, feature in enumerate(self.body(x))})
        return levels


def _first_convolution(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """The same layer for another number of channels."""
    if in_channels == convolution.in_channels:
        return convolution
    make = partial(nn.Conv2d, bias=convolution.bias is not None)
    kernel, stride, padding = convolution.kernel_size, convolution.stride, convolution.padding
    changed = make(in_channels, convolution.out_channels, kernel, stride, padding)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(changed.weight, mode="fan_out", nonlinearity="relu")
    return changed
