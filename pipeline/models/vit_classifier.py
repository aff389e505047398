"""Vision transformer that says what a picture is, by its class token.

Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929; the defaults are its ViT-B/16. Blocks, their
names and weights are torchvision's, BSD-3-Clause.

What differs: any number of channels and other sizes of image, for which positions are interpolated (section 3.2 of the paper). A
transformer without pretrained weights needs much data: on a few hundred photographs the convolutional networks win.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import MODELS
from pipeline.models.classifier import Classifier, ClassifierConfig
from pipeline.models.vit import TransformerConfig, resized
from pipeline.models.weights import Loaded, first_layer, load

_STAGES = 4


class VitClassifierConfig(TransformerConfig, ClassifierConfig):
    name: Literal["vit_classifier"] = "vit_classifier"
    image_size: int = Field(224, ge=4, description="side in pixels of the training images; position embeddings are learnt for this size")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability")


class VitClassifier(Classifier):
    """``encode`` gives the last block's input as a map of patches; ``explain`` the attention of the class token in that block."""

    def __init__(self, config: VitClassifierConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        from torchvision.models.vision_transformer import VisionTransformer  # importing torchvision takes a second

        c = config
        whole: Any = VisionTransformer(c.image_size, c.patch, c.layers, c.heads, c.width, c.feedforward, c.dropout, num_classes=classes)
        if in_channels != 3:
            whole.conv_proj = nn.Conv2d(in_channels, c.width, c.patch, c.patch)
        self.multiple = self.patch = c.patch
        self.side = c.image_size // c.patch
        self.vit = whole
        self.in_channels = in_channels
        nn.init.trunc_normal_(whole.heads.head.weight, std=0.02)  # torchvision begins at zero, which stops every gradient before the head

    def encode(self, images: Tensor) -> Tensor:
        """The maps of the patches, with the class token in a row of its own below them: (B, width, h + 1, w)."""
        below, aside = (-side % self.patch for side in images.shape[-2:])
        patches = self.vit.conv_proj(functional.pad(images, (0, aside, 0, below)))
        rows, columns = patches.shape[-2:]
        x = torch.cat([self.vit.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = self.vit.encoder.dropout(x + self._positions(rows, columns))
        for block in self.vit.encoder.layers[:-1]:
            x = block(x)
        token = x[:, :1].transpose(1, 2)[..., None].expand(-1, -1, 1, columns)
        return torch.cat([x[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)), token], dim=2)

    def classify(self, maps: Tensor) -> Tensor:
        tokens = self._tokens(maps)
        logits: Tensor = self.vit.heads(self.vit.encoder.ln(self.vit.encoder.layers[-1](tokens))[:, 0])
        return logits

    def explain(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and the attention (B, h, w) that the class token pays each patch in the last block, its largest value 1."""
        maps = self.encode(images)
        last, tokens = self.vit.encoder.layers[-1], self._tokens(maps)
        known = last.ln_1(tokens)
        _, attention = last.self_attention(known, known, known, need_weights=True)
        looked = attention[:, 0, 1:].unflatten(1, (maps.shape[2] - 1, maps.shape[3]))
        return self.classify(maps), looked / looked.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)

    def _tokens(self, maps: Tensor) -> Tensor:
        return torch.cat([maps[:, :, -1, :1], maps[:, :, :-1].flatten(2)], dim=2).transpose(1, 2)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, width): of the class token, then of each patch."""
        known: Tensor = self.vit.encoder.pos_embedding
        if (rows, columns) == (self.side, self.side):
            return known
        grid = known[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))
        return torch.cat([known[:, :1], resized(grid, torch.Size((rows, columns))).flatten(2).transpose(1, 2)], dim=1)

    def load_encoder(self, weights: str) -> Loaded:
        """Fill it from "imagenet" (ViT-B/16) or a file of torchvision's; the first layer and the positions are adapted."""
        wanted = nn.Module()
        wanted.conv_proj, wanted.class_token, wanted.encoder = self.vit.conv_proj, self.vit.class_token, self.vit.encoder

        def adapt(key: str, value: Tensor) -> Tensor:
            if key == "conv_proj.weight" and value.ndim == 4:
                return first_layer(value, self.in_channels)
            if key == "encoder.pos_embedding" and value.shape[1] != 1 + self.side**2:
                side = math.isqrt(value.shape[1] - 1)
                grid = value[:, 1:].transpose(1, 2).unflatten(2, (side, side))
                places = resized(grid, torch.Size((self.side, self.side))).flatten(2).transpose(1, 2)
                return torch.cat([value[:, :1], places], dim=1)
            return value

        return load(wanted, weights, "vit_b_16", rename=lambda key: None if key.startswith("heads.") else key, adapt=adapt)

    def encoder_stages(self) -> list[list[nn.Module]]:
        blocks = list(self.vit.encoder.layers)
        ends = [len(blocks) * part // _STAGES for part in range(_STAGES + 1)]
        return [[self.vit.conv_proj], *(blocks[a:b] for a, b in pairwise(ends) if b > a)]


@MODELS.add(VitClassifierConfig)
def build(config: VitClassifierConfig, in_channels: int, out_channels: int) -> nn.Module:
    return VitClassifier(config, in_channels, out_channels)
