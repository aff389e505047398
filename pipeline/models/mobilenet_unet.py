"""U-Net on MobileNetV2: a pretrained encoder and a light decoder, quick on a CPU.

Paper: Sandler et al., "MobileNetV2", CVPR 2018, arXiv:1801.04381 (alpha 1.0). Encoder: inverted_residuals.py; decoder and what differs:
light_unet.py. Skips have 96, 144, 192 and 576 channels; the bottom has 320 at stride 32, or 96 at stride 16.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from pipeline.models.backbones import MobileNetV2Features
from pipeline.models.base import MODELS
from pipeline.models.light_unet import LightUNet, LightUNetConfig


class MobileNetUNetConfig(LightUNetConfig):
    name: Literal["mobilenet_unet"] = "mobilenet_unet"


@MODELS.add(MobileNetUNetConfig)
def build(config: MobileNetUNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    return LightUNet(MobileNetV2Features(in_channels, config.norm_layer, config.halvings), config.widths, out_channels)
