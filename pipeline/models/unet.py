"""U-Net by MONAI.

Paper: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
doi:10.1007/978-3-319-24574-4_28. Residual units as in Kerfoot et al., "Left-Ventricle Quantification Using Residual U-Net",
STACOM 2018, doi:10.1007/978-3-030-12029-0_40. Network code: MONAI 1.6.1, Apache-2.0.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from pipeline.models.base import MODELS
from pipeline.registry import Strict


class UNetConfig(Strict):
    name: Literal["unet"] = "unet"
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 512), min_length=2, description="channels at each depth, finest first")
    residual_units: int = Field(2, ge=0, description="convolutions in a residual unit; 0 for plain convolutions")
    norm: Literal["instance", "batch", "group"] = Field("instance", description="normalisation layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability")
    deep_supervision: int = Field(0, ge=0, le=4, description="how many coarser decoder outputs also get a loss (0: none)")


@MODELS.add(UNetConfig)
def build(config: UNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    raise NotImplementedError
