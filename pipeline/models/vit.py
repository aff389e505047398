"""Vision transformer with UNETR's decoder of convolutions, by MONAI's blocks.

Papers: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929 (encoder); Hatamizadeh et al., "UNETR:
Transformers for 3D Medical Image Segmentation", WACV 2022, arXiv:2103.10504 (decoder). Network code: MONAI 1.6.1, Apache-2.0.

What differs: positional embeddings follow the image. MONAI's are a list for one image size; these are a grid, interpolated to as many
patches as an image has (as Dosovitskiy et al. do, section 3.2), so that one set of weights serves every size. Any patch size that is
a power of two, and so as many decoder levels; any number of layers, of which the decoder is handed evenly spaced ones (of 12 with
patches of 16: 3, 6, 9 and 12, as the paper says; MONAI takes 4, 7, 10 and 12). The last layer norm is left out of those within, as in
both. A transformer without pretrained weights needs much data: on a few dozen images the U-Nets win.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models.base import MODELS, VolumeModelConfig
from pipeline.models.lean_monai import lean_monai
from pipeline.models.padding import AnySize, convolution_class
from pipeline.models.weights import Loaded, first_layer, load
from pipeline.registry import Strict

TORCHVISION = {
    "conv_proj.": "patches.",
    "encoder.pos_embedding": "positions.grid",
    "encoder.layers.encoder_layer_": "blocks.",
    "encoder.ln.": "norm.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.out_proj.",
}
"""Beginnings and middles of torchvision's names of a vision transformer's entries, and what they are called here."""


class TransformerConfig(Strict):
    """The settings that every vision transformer has."""

    image_size: int = Field(512, ge=4, description="side in pixels of the training images; position embeddings are learnt for this size")
    patch: Literal[4, 8, 16, 32] = Field(16, description="side of a patch in pixels")
    width: int = Field(768, ge=1, description="width of the transformer")
    layers: int = Field(12, ge=1, description="transformer blocks")
    heads: int = Field(12, ge=1, description="attention heads")
    feedforward: int = Field(3072, ge=1, description="width of the feed-forward layers")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch {self.patch}")
        return self


class VitConfig(TransformerConfig, VolumeModelConfig):
    name: Literal["vit"] = "vit"
    decoder_width: int = Field(16, ge=1, description="decoder channels at full resolution, doubled at each coarser level")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability; above 0 attention needs far more memory")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        levels = self.patch.bit_length() - 1
        if self.layers < levels:
            raise ValueError(f"layers {self.layers}: with patches of {self.patch} the decoder is handed {levels} of them")
        return self


class Positions(nn.Module):
    """Adds a learned embedding of its place to each patch of a grid (B, width, ...)."""

    def __init__(self, width: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.empty(1, width, *size))
        nn.init.trunc_normal_(self.grid, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        return patches + resized(self.grid, patches.shape[2:])


class Encoder(nn.Module):
    """The vision transformer.

    ``forward``: float (B, C, ...) -> grids of patches (B, width, ... / patch) after each layer in ``taken``.
    """

    def __init__(self, config: VitConfig, in_channels: int) -> None:
        super().__init__()
        with lean_monai():
            from monai.networks.blocks.transformerblock import TransformerBlock

        levels = config.patch.bit_length() - 1
        self.taken = [config.layers * (level + 1) // levels for level in range(levels)]
        self.patches = convolution_class(config.dims)(in_channels, config.width, config.patch, config.patch)
        self.positions = Positions(config.width, (config.image_size // config.patch,) * config.dims)
        self.dropout = nn.Dropout(config.dropout)
        # MONAI's fused attention drops in evaluation, too: it is used only where nothing is dropped.
        make = partial(TransformerBlock, qkv_bias=True, use_flash_attention=config.dropout == 0)
        self.blocks = nn.ModuleList(make(config.width, config.feedforward, config.heads, config.dropout) for _ in range(config.layers))
        for block in self.blocks:
            block.norm_cross_attn = nn.Identity()  # MONAI makes it without use for it
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor) -> list[Tensor]:
        grid = self.positions(self.patches(images))
        x = self.dropout(grid.flatten(2).transpose(1, 2))
        taken = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self.taken:
                last = self.norm(x) if number == len(self.blocks) else x
                taken.append(last.transpose(1, 2).unflatten(2, grid.shape[2:]))
        return taken

    def stages(self) -> list[list[nn.Module]]:
        """Modules in the order they are passed: what makes patches, then the blocks up to each layer taken."""
        starts = [0, *self.taken[:-1]]
        blocks: list[list[nn.Module]] = [list(self.blocks[start:end]) for start, end in zip(starts, self.taken, strict=True)]
        return [[self.patches, self.positions], *blocks[:-1], [*blocks[-1], self.norm]]

    def load(self, weights: str) -> Loaded:
        """Fill it from "imagenet" (ViT-B/16) or a file of torchvision's classifier.

        The first layer is adapted to the channels and the positions to ``image_size``; the class token and its position are left out.
        """
        if self.positions.grid.ndim != 4:
            raise ConfigError("model.weights: vit's files are of images, not of volumes; write none, or dims: 2")

        def adapt(key: str, value: Tensor) -> Tensor:
            if key == "patches.weight" and value.ndim == 4:
                return first_layer(value, self.patches.in_channels)
            if key == "positions.grid" and value.ndim == 3:
                places = value[:, 1:].transpose(1, 2)
                side = math.isqrt(places.shape[2])
                return resized(places.unflatten(2, (side, side)), self.positions.grid.shape[2:])
            return value

        return load(self, weights, "vit_b_16", rename=_from_torchvision, adapt=adapt)


def _from_torchvision(key: str) -> str | None:
    """Torchvision's name of an entry -> ours; None for the class token and the classifier."""
    if key == "class_token" or key.startswith("heads."):
        return None
    key = key.replace("mlp.linear_", "mlp.linear").replace("mlp.0.", "mlp.linear1.").replace("mlp.3.", "mlp.linear2.")
    for theirs, ours in TORCHVISION.items():
        key = key.replace(theirs, ours)
    return key


def resized(positions: Tensor, size: torch.Size) -> Tensor:
    """Embeddings of a grid of patches (1, width, rows, columns) for a grid of another ``size``; of the same size, themselves."""
    return functional.interpolate(positions, size=size, mode="bicubic" if positions.ndim == 4 else "trilinear", align_corners=False)


class Vit(AnySize):
    """Transformer and decoder: each level of the decoder doubles the resolution and adds what an earlier layer saw."""

    def __init__(self, config: VitConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        with lean_monai():
            from monai.networks.blocks.dynunet_block import UnetOutBlock
            from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        self.multiple, self.dims = config.patch, config.dims
        self.encoder = Encoder(config, in_channels)
        widths = [config.decoder_width * 2**level for level in range(len(self.encoder.taken))]  # finest first
        block = {"spatial_dims": config.dims, "kernel_size": 3, "norm_name": "instance", "res_block": True}
        up = {**block, "upsample_kernel_size": 2}
        self.finest = UnetrBasicBlock(in_channels=in_channels, out_channels=widths[0], stride=1, **block)
        self.lifts = nn.ModuleList(
            UnetrPrUpBlock(in_channels=config.width, out_channels=width, num_layer=len(widths) - 2 - level, stride=1, conv_block=True, **up)
            for level, width in enumerate(widths[1:])
        )
        self.ups = nn.ModuleList(
            UnetrUpBlock(in_channels=below, out_channels=width, **up)
            for width, below in zip(widths, [*widths[1:], config.width], strict=True)
        )
        self.head = UnetOutBlock(config.dims, widths[0], out_channels)

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the transformer from "imagenet" or a file."""
        return self.encoder.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.encoder.stages()

    def logits(self, images: Tensor) -> Tensor:
        *within, x = self.encoder(images)
        skips = [self.finest(images), *(lift(layer) for lift, layer in zip(self.lifts, within, strict=True))]
        for up, skip in zip(reversed(self.ups), reversed(skips), strict=True):
            x = up(x, skip)
        logits: Tensor = self.head(x)
        return logits


@MODELS.add(VitConfig)
def build(config: VitConfig, in_channels: int, out_channels: int) -> nn.Module:
    return Vit(config, in_channels, out_channels)
