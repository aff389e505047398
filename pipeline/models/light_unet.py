"""U-Net of a light decoder on an encoder of inverted residuals: what mobilenet_unet and efficientnet_unet share.

Paper: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, doi:10.1007/978-3-319-24574-4_28. The decoder is our own.

Skips at strides 2, 4, 8 and 16 come from the expanded projections, the widest maps of their resolution, just before a block halves them.
With three ``widths`` the network ends at stride 16: for structures that are thin and everywhere, such as vessels, a third of the
parameters.

What differs from a U-Net: each level's two maps are first narrowed by a 1 x 1 convolution, which is where nearly all of a plain decoder's
work would be; the last doubling is a transposed convolution straight into the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pipeline.models.base import ModelConfig
from pipeline.models.blocks import convolution, enlarge
from pipeline.models.features import FrozenBatchNorm2d, InvertedResiduals
from pipeline.models.padding import AnySize
from pipeline.models.transposed import ConvTranspose2d
from pipeline.models.weights import Loaded


class LightUNetConfig(ModelConfig):
    widths: tuple[int, ...] = Field(
        (16, 32, 64, 96),
        min_length=2,
        max_length=4,
        description="decoder channels at strides 2, 4, 8 and 16; with fewer values, the encoder ends one halving after the last",
    )
    norm: Literal["batch", "frozen"] = Field(
        "batch",
        description="normalisation of the encoder: batch is trained; frozen keeps the loaded statistics, for small batches",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.norm == "frozen" and self.weights == "none":
            raise ValueError("norm: frozen needs weights; from scratch, normalisation must learn")
        if min(self.widths) < 1:
            raise ValueError(f"widths {self.widths} must be positive")
        return self

    @property
    def halvings(self) -> int:
        """Of the image, within the encoder."""
        return len(self.widths) + 1

    @property
    def norm_layer(self) -> Callable[..., nn.Module]:
        return FrozenBatchNorm2d if self.norm == "frozen" else nn.BatchNorm2d


class LightUNet(AnySize):
    def __init__(self, encoder: InvertedResiduals, widths: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) + 1)
        self.encoder = encoder
        *skips, below = encoder.expanded_widths
        levels = []
        for skip, width in zip(reversed(skips), reversed(widths), strict=True):
            levels.append(nn.Sequential(convolution(below + skip, width, 1), convolution(width, width)))
            below = width
        self.decoder = nn.ModuleList(levels)
        self.head = ConvTranspose2d(below, out_channels, 4, stride=2, padding=1)

    def logits(self, images: Tensor) -> Tensor:
        *skips, x = self.encoder.expanded(images)
        for skip, level in zip(reversed(skips), self.decoder, strict=True):
            narrow, mix = level.children()
            x = mix(narrowed(narrow, x, skip))
        logits: Tensor = self.head(x)
        return logits

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file."""
        return self.encoder.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        """The encoder's modules in the order they are passed, by the stride at their end: 2, 4, 8, 16, 32 (or as far as it goes)."""
        return self.encoder.stages()


def narrowed(layers: nn.Module, below: Tensor, skip: Tensor) -> Tensor:
    """``layers`` (a 1 x 1 convolution and what follows it) of ``below`` (B, C, H, W), doubled in size, beside ``skip`` (B, S, 2 H, 2 W).

    A 1 x 1 convolution of interpolated pixels is the interpolation of what it makes of the pixels. So ``below`` is narrowed first, and
    the two wide maps are never put beside each other.
    """
    convolution: Any
    convolution, *following = layers.children()
    kernel, bias = convolution.weight, convolution.bias
    x = enlarge(conv2d(below, kernel[:, : below.shape[1]]), 2) + conv2d(skip, kernel[:, below.shape[1] :], bias)
    for layer in following:
        x = layer(x)
    return x
