"""U-Net by MONAI.

Paper: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
doi:10.1007/978-3-319-24574-4_28. Residual units as in Kerfoot et al., "Left-Ventricle Quantification Using Residual U-Net",
STACOM 2018, doi:10.1007/978-3-030-12029-0_40. Deep supervision as in Lee et al., "Deeply-Supervised Nets", AISTATS 2015,
arXiv:1409.5185. Network code: MONAI 1.6.1, Apache-2.0.

What differs from MONAI's: any image size (padded inside, cropped back), optional deep supervision, and an optional head of its
own (``head_width``). Widths (12, 24, 48, 96) with two residual units make 0.23 M parameters: the little configuration for a CPU.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import MODELS, ModelConfig


class UNetConfig(ModelConfig):
    name: Literal["unet"] = "unet"
    widths: tuple[int, ...] = Field((32, 64, 128, 256, 512), min_length=2, description="channels at each depth, finest first")
    first_stride: Literal[1, 2] = Field(
        2, description="1 keeps the first width at full resolution, four times the work: for structures a pixel or two wide"
    )
    residual_units: int = Field(2, ge=0, description="convolutions in a residual unit; 0 for plain convolutions")
    norm: Literal["instance", "batch", "group"] = Field("instance", description="normalisation layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability")
    deep_supervision: int = Field(0, ge=0, le=4, description="how many coarser decoder outputs also get a loss (0: none)")
    head_width: int = Field(
        0,
        ge=0,
        description="features at full resolution before a last 1 x 1 convolution; 0: MONAI's own lean head, which decodes straight into"
        " the classes (faster, but it normalises the logits themselves: give a width where images may hold none of a class)",
    )

    @model_validator(mode="after")
    def _fits(self) -> UNetConfig:
        if min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be positive")
        if self.deep_supervision > len(self.widths) - 2:
            raise ValueError(f"deep_supervision can be at most {len(self.widths) - 2} with {len(self.widths)} widths")
        return self


class UNet(nn.Module):
    """MONAI's UNet for any image size.

    ``forward``: float (B, C, H, W) -> logits (B, K, H, W); in training with deep supervision a list of such logits, finest first,
    each brought to (H, W) so that every loss sees the target as it was drawn.

    Exported (torch.export, ONNX), with free height and width, it takes multiples of ``multiple`` only, at least two of them: how much
    to pad cannot be asked of sizes that are not known yet. The caller pads with :func:`pad_to_multiple`.
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        from monai.networks.nets import UNet as MonaiUNet  # importing MONAI takes six seconds

        strides = (config.first_stride, *(2,) * (len(config.widths) - 2))
        last = config.head_width or out_channels
        self.net = MonaiUNet(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=last,
            channels=config.widths,
            strides=strides,
            num_res_units=config.residual_units,
            norm=_norm(config, last),
            dropout=config.dropout,
        )
        self.head = nn.Sequential(nn.PReLU(), nn.Conv2d(last, out_channels, 1)) if config.head_width else nn.Identity()
        self.coarse_heads = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in config.widths[: config.deep_supervision])
        self.steps = [math.prod(strides[:depth]) for depth in range(1, len(strides))]  # size of a coarse pixel at each decoder level
        self.multiple = math.prod(strides)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        rows, columns = images.shape[-2:]
        padded = images if torch.compiler.is_exporting() else pad_to_multiple(images, self.multiple)
        features = _decoder_outputs(self.net.model, padded, len(self.steps) + 1)
        finest: Tensor = self.head(features[0])
        if padded is not images:
            finest = finest[..., :rows, :columns]
        if not (self.training and self.coarse_heads):
            return finest
        outputs = [finest]
        for step, head, feature in zip(self.steps, self.coarse_heads, features[1:], strict=False):
            full = functional.interpolate(head(feature), scale_factor=float(step), mode="bilinear", align_corners=False)
            outputs.append(full[..., :rows, :columns])
        return outputs


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Repeat the last rows and columns of (B, C, H, W) until both sides are multiples, two at least; memory format is kept.

    Repeating works at any size (reflection needs an image wider than its padding) and invents no edge. A single pixel at the
    network's bottom would have no variance to be normalised by.
    """
    rows, columns = images.shape[-2:]
    bottom, right = (max(-size % multiple, 2 * multiple - size) for size in (rows, columns))
    if bottom == 0 and right == 0:
        return images
    return functional.pad(images, (0, right, 0, bottom), mode="replicate")


def _decoder_outputs(block: nn.Module, x: Tensor, levels: int) -> list[Tensor]:
    """Run MONAI's nested (down, skip(inner), up) blocks and keep what each decoder level gives, finest first, the bottom last."""
    if levels == 0:
        return [block(x)]
    down, skip, up = block.children()
    encoded = down(x)
    inner = _decoder_outputs(skip.get_submodule("submodule"), encoded, levels - 1)
    return [up(torch.cat([encoded, inner[0]], dim=1)), *inner]


def _norm(config: UNetConfig, last: int) -> str | tuple[str, dict[str, int]]:
    """MONAI's name of the normalisation; groups must divide every width, so there are as many (up to 8) as do."""
    if config.norm != "group":
        return config.norm
    common = math.gcd(*config.widths, last)
    return "group", {"num_groups": max(n for n in range(1, 9) if common % n == 0)}


@MODELS.add(UNetConfig)
def build(config: UNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    return UNet(config, in_channels, out_channels)
