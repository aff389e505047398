"""ImageNet encoders as plain feature extractors, and the pyramid built upon them.

MobileNetV2: Sandler et al., CVPR 2018, arXiv:1801.04381. ResNet: He et al., CVPR 2016, arXiv:1512.03385. Feature pyramid: Lin et
al., CVPR 2017, arXiv:1612.03144. Network code of ResNet and the pyramid: torchvision, BSD-3-Clause.

What differs from torchvision's: any number of channels; a feature is the LAST block's at its stride (torchvision's detectors on
MobileNetV2 take the first block's).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.efficientnet_lite import EfficientNetLiteFeatures, Size
from pipeline.models.features import Features, FrozenBatchNorm2d, InvertedResiduals, first_convolution
from pipeline.models.inverted_residuals import Group, stem_and_blocks

Name = Literal["mobilenet_v2", Size, "resnet18", "resnet50"]

MOBILENET_V2: tuple[Group, ...] = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 32, 3, 3, 2),
    (6, 64, 4, 3, 2),
    (6, 96, 3, 3, 1),
    (6, 160, 3, 3, 2),
    (6, 320, 1, 3, 1),
)
"""The paper's table 2."""


class MobileNetV2Features(InvertedResiduals):
    name = "mobilenet_v2"

    def __init__(self, in_channels: int, norm: Callable[..., nn.Module], halvings: int = 5) -> None:
        super().__init__(in_channels, stem_and_blocks(MOBILENET_V2, norm), halvings)


class ResNetFeatures(Features):
    first = "conv1.weight"
    unused = ("fc.",)

    def __init__(self, name: Literal["resnet18", "resnet50"], in_channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        from torchvision.models import resnet18, resnet50

        self.name, self.in_channels = name, in_channels
        self.widths = (64, 128, 256, 512) if name == "resnet18" else (256, 512, 1024, 2048)
        whole = (resnet18 if name == "resnet18" else resnet50)(weights=None, norm_layer=norm)
        self.conv1, self.bn1 = first_convolution(whole.conv1, in_channels), whole.bn1
        self.relu, self.maxpool = whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1, self.relu], [self.maxpool, self.layer1], [self.layer2], [self.layer3], [self.layer4]]


def build_backbone(name: Name, in_channels: int, frozen_norm: bool, halvings: int = 5) -> Features:
    """An encoder with random weights; ``frozen_norm`` where pretrained ones are to follow, else BatchNorm2d that learns.

    Raises ConfigError where a ResNet is to end before stride 32.
    """
    norm: Callable[..., nn.Module] = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    if name == "mobilenet_v2":
        return MobileNetV2Features(in_channels, norm, halvings)
    if name == "resnet18" or name == "resnet50":
        if halvings != 5:
            raise ConfigError(f"model.encoder_halvings: {name} always has 5; mobilenet_v2 and efficientnet_lite0 to 2 can have 4")
        return ResNetFeatures(name, in_channels, norm)
    return EfficientNetLiteFeatures(name, in_channels, norm, halvings)


def build_encoder(name: Name, in_channels: int, weights: str, frozen_stages: int = 0, halvings: int = 5) -> Features:
    """An encoder as a detector's settings say: from scratch all of it learns; where ``weights`` follow, its normalisation and its first
    stages stay as loaded."""
    features = build_backbone(name, in_channels, frozen_norm=weights != "none", halvings=halvings)
    features.freeze(frozen_stages if weights != "none" else 0)
    return features


class Pyramid(nn.Module):
    """Feature pyramid of the encoder's levels, at strides 4, 8, 16 and 32 if it goes as far, and one more (every second value of the
    one before).

    ``forward``: float (B, C, H, W) -> {"0": (B, ``out_channels``, H / 4, W / 4), "1": ..., "pool": ...}, torchvision's names.
    """

    def __init__(self, features: Features, out_channels: int = 256, norm: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        self.body = features
        self.out_channels = out_channels
        self.fpn = FeaturePyramidNetwork(list(features.widths), out_channels, LastLevelMaxPool(), norm_layer=norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn({str(level): feature for level, feature in enumerate(self.body(x))})
        return levels
