"""Swin UNETR: attention within shifted windows as encoder, convolutions as decoder; MONAI's.

Paper: Hatamizadeh et al., "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images", BrainLes 2021,
arXiv:2201.01266; encoder of Liu et al., "Swin Transformer", ICCV 2021, arXiv:2103.14030. Network code: MONAI 1.6.1, Apache-2.0.

What differs: any image size. It is not exportable with free height and width: MONAI counts the windows of an image in Python.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from pipeline.models.base import MODELS, VolumeModelConfig
from pipeline.models.lean_monai import lean_monai
from pipeline.models.padding import Framed


class SwinUnetrConfig(VolumeModelConfig):
    name: Literal["swin_unetr"] = "swin_unetr"
    width: int = Field(24, ge=12, multiple_of=12, description="channels of the finest level, doubled at each of four coarser levels")
    depths: tuple[int, int, int, int] = Field(
        (2, 2, 2, 2), description="transformer blocks per stage, in pairs (plain and shifted windows)"
    )
    heads: tuple[int, int, int, int] = Field((3, 6, 12, 24), description="attention heads per stage")
    window: int = Field(7, ge=2, description="side of an attention window, in patches of 2 pixels")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability")
    residual_stages: bool = Field(False, description="a residual convolution before each stage (SwinUNETR-V2)")

    @model_validator(mode="after")
    def _fits(self) -> SwinUnetrConfig:
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            width = self.width * 2**stage
            if depth < 1 or heads < 1 or width % heads:
                raise ValueError(f"stage {stage + 1} has {width} features, which {heads} heads must divide, and needs a block or more")
        return self


class SwinUnetr(Framed):
    not_exportable = "its attention windows are counted in Python, and a graph of them would take images of one size only"
    compilable = False  # MONAI asks NumPy whether an image has the right size

    def __init__(self, config: SwinUnetrConfig, in_channels: int, out_channels: int) -> None:
        with lean_monai():
            from monai.networks.nets import SwinUNETR

        net = SwinUNETR(
            in_channels=in_channels,
            out_channels=out_channels,
            depths=config.depths,
            num_heads=config.heads,
            window_size=config.window,
            feature_size=config.width,
            drop_rate=config.dropout,
            spatial_dims=config.dims,
            use_v2=config.residual_stages,
        )
        super().__init__(net, 32, config.dims)

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The transformer's stages, finest first."""
        swin: Any = self.net.swinViT
        stages = [[swin.layers1], [swin.layers2], [swin.layers3], [swin.layers4]]
        if swin.use_v2:
            stages = [
                [before, *stage] for before, stage in zip((swin.layers1c, swin.layers2c, swin.layers3c, swin.layers4c), stages, strict=True)
            ]
        return [[swin.patch_embed], *stages]


@MODELS.add(SwinUnetrConfig)
def build(config: SwinUnetrConfig, in_channels: int, out_channels: int) -> nn.Module:
    return SwinUnetr(config, in_channels, out_channels)
