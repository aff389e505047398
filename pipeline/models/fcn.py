"""FCN: a classifier read as a convolution, with skips.

Paper: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, arXiv:1411.4038. Our own code on
the encoders of vgg.py and backbones.py (torchvision, BSD-3-Clause).

What differs:

* Convolutions pad by their own radius and maps stay aligned with the image; the paper pads the image by 100 pixels and crops.
* Score layers begin small instead of at zero, so that the encoder learns from the first step. All enlargements learn; they begin as
  bilinear interpolation also at the border.
* ``width`` and ``dense_width`` make it light (all of the paper's is 134 M parameters); the skips' scores are not scaled, for each
  parameter's step has its own size in Adam. ``norm: batch`` is for training from scratch, which is slow without.
* Also on ResNet-50 (and ResNet-18), which came after the paper: its maps at strides 8, 16 and 32 are scored likewise.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones import build_backbone
from pipeline.models.base import MODELS, ModelConfig
from pipeline.models.blocks import RELU_KERNELS, LearnedEnlargement, Norm, begin_as, convolution
from pipeline.models.padding import AnySize
from pipeline.models.vgg import load_vgg16, scaled_width, vgg16_blocks
from pipeline.models.weights import Loaded

DENSE = 4096  # width of the classifier's dense layers in the paper and in the file


class FCNConfig(ModelConfig):
    name: Literal["fcn"] = "fcn"
    encoder: Literal["vgg16", "resnet18", "resnet50"] = Field(
        "vgg16", description="classification network that is made fully convolutional"
    )
    step: Literal[8, 16, 32] = Field(8, description="stride in pixels of the finest score map: FCN-8s, FCN-16s or FCN-32s")
    width: float = Field(1.0, gt=0, le=1, description="fraction of VGG-16's channels; weights: imagenet requires 1")
    dense_width: int = Field(DENSE, ge=8, description="channels of VGG-16's fc6 and fc7 as convolutions; 4096 in the paper")
    norm: Norm = Field("none", description="normalisation of VGG-16: none as in the paper, or batch")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability after fc6 and fc7")


class FCN(AnySize):
    """Scores by 1 x 1 convolutions at strides 32, 16 and 8; each is enlarged and added to the next finer one."""

    multiple = 32

    def __init__(self, config: FCNConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.encoder: _VGG | _ResNet = (_VGG if config.encoder == "vgg16" else _ResNet)(config, in_channels)
        strides = [stride for stride in (32, 16, 8) if stride >= config.step]
        self.scores = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in reversed(self.encoder.widths[-len(strides) :]))
        begin_as(self.scores, partial(nn.init.normal_, std=0.01))
        factors = [2] * (len(strides) - 1) + [config.step]
        self.enlargements = nn.ModuleList(LearnedEnlargement(out_channels, factor) for factor in factors)

    def logits(self, images: Tensor) -> Tensor:
        logits = images.new_zeros(())
        for features, score, enlarge in zip(reversed(self.encoder(images)), self.scores, self.enlargements, strict=False):
            logits = enlarge(score(features) + logits)
        return logits

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the classifier's layers from "imagenet" or a file; of VGG-16 also fc6 and fc7 where they have their full width."""
        return self.encoder.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The encoder's modules in the order they are passed, by the stride at their end: 2, 4, 8, 16, 32."""
        return self.encoder.stages()


class _VGG(nn.Module):
    """VGG-16 with its dense layers as convolutions: (B, C, H, W) -> maps of ``widths`` channels at strides 8 (pool3), 16 (pool4) and
    32 (fc7)."""

    def __init__(self, config: FCNConfig, in_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(*block) for block in vgg16_blocks(in_channels, config.width, config.norm))
        third, fourth, dense = scaled_width(256, config.width), scaled_width(512, config.width), config.dense_width
        self.fc6 = convolution(fourth, dense, 7, norm=config.norm)
        self.fc7 = convolution(dense, dense, 1, norm=config.norm)
        self.dropout = nn.Dropout(config.dropout)
        self.pool = nn.MaxPool2d(2)
        self.widths = [third, fourth, dense]
        begin_as(self, RELU_KERNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for block in self.blocks:
            x = self.pool(block(x))
            maps.append(x)
        return [*maps[2:4], self.dropout(self.fc7(self.dropout(self.fc6(x))))]

    def stages(self) -> list[list[nn.Module]]:
        return [[*([self.pool] if place else []), *block.children()] for place, block in enumerate(self.blocks)]

    def load(self, weights: str) -> Loaded:
        first, second = (layer for part in (self.fc6, self.fc7) for layer in part if isinstance(layer, nn.Conv2d))
        whole = (first.in_channels, first.out_channels) == (512, DENSE)
        return load_vgg16([layer for block in self.blocks for layer in block.children()], weights, [first, second] if whole else [])


class _ResNet(nn.Module):
    """ResNet: (B, C, H, W) -> its maps of ``widths`` channels at strides 8, 16 and 32."""

    def __init__(self, config: FCNConfig, in_channels: int) -> None:
        super().__init__()
        assert config.encoder != "vgg16"
        self.features = build_backbone(config.encoder, in_channels, frozen_norm=config.weights != "none")
        self.widths = list(self.features.widths[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.features(x)
        return maps[1:]

    def stages(self) -> list[list[nn.Module]]:
        return self.features.stages()

    def load(self, weights: str) -> Loaded:
        return self.features.load(weights)


@MODELS.add(FCNConfig)
def build(config: FCNConfig, in_channels: int, out_channels: int) -> nn.Module:
    return FCN(config, in_channels, out_channels)
