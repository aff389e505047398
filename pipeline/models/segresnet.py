"""SegResNet: an encoder of residual blocks, deep, and a light decoder; MONAI's.

Paper: Myronenko, "3D MRI Brain Tumor Segmentation Using Autoencoder Regularization", BrainLes 2018, arXiv:1810.11654. Network code:
MONAI 1.6.1, Apache-2.0.

What differs: any image size; the paper's second decoder, which paints the image itself, is left out, as it is in MONAI's.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pipeline.models.base import MODELS, VolumeModelConfig
from pipeline.models.lean_monai import lean_monai
from pipeline.models.padding import Framed


class SegResNetConfig(VolumeModelConfig):
    name: Literal["segresnet"] = "segresnet"
    width: int = Field(16, ge=1, description="channels at full resolution, doubled at each coarser level")
    blocks: tuple[int, ...] = Field((1, 2, 2, 4), min_length=2, description="residual blocks of the encoder at each depth, finest first")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability after the first convolution")

    @model_validator(mode="after")
    def _fits(self) -> SegResNetConfig:
        if min(self.blocks) < 1:
            raise ValueError(f"blocks {self.blocks} must be positive")
        return self


class SegResNet(Framed):
    def __init__(self, config: SegResNetConfig, in_channels: int, out_channels: int) -> None:
        with lean_monai():
            from monai.networks.nets import SegResNet as MonaiSegResNet

        levels = len(config.blocks)
        net = MonaiSegResNet(
            spatial_dims=config.dims,
            init_filters=config.width,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=config.dropout or None,
            norm=("group", {"num_groups": math.gcd(8, config.width)}),
            blocks_down=config.blocks,
            blocks_up=(1,) * (levels - 1),
        )
        super().__init__(net, 2 ** (levels - 1), config.dims)

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The encoder's levels, finest first."""
        net: Any = self.net
        return [[net.convInit, net.down_layers[0]], *([level] for level in net.down_layers[1:])]


@MODELS.add(SegResNetConfig)
def build(config: SegResNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    return SegResNet(config, in_channels, out_channels)
