"""VGG-16 with its fully connected head, the classifier that the first detectors of regions were built upon.

Paper: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv:1409.1556.
Layers and weights: vgg.py.

What differs: a fraction of the widths and batch normalisation if wanted. The dense layers are written as convolutions, 7 x 7 and 1 x 1,
which have the same numbers in the same order; maps of other sizes are averaged to 7 x 7 first, as torchvision does.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import MODELS
from pipeline.models.blocks import RELU_KERNELS, Norm, begin_as
from pipeline.models.classifier import Classifier, ClassifierConfig
from pipeline.models.vgg import BLOCKS, load_vgg16, scaled_width, vgg16_blocks
from pipeline.models.weights import Loaded

SIDE = 7


class VggClassifierConfig(ClassifierConfig):
    name: Literal["vgg_classifier"] = "vgg_classifier"
    width: float = Field(1.0, gt=0, le=1, description="fraction of the convolutions' channels")
    hidden: int = Field(4096, ge=1, description="width of the two dense layers")
    norm: Norm = Field("none", description="batch: normalise after each convolution, which training from scratch needs")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability before the last two layers")


class VggClassifier(Classifier):
    def __init__(self, config: VggClassifierConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        blocks = vgg16_blocks(in_channels, config.width, config.norm)
        self.blocks = nn.ModuleList(nn.Sequential(*block) for block in blocks)
        self.first = nn.Conv2d(scaled_width(BLOCKS[-1][0], config.width), config.hidden, SIDE)
        self.second = nn.Conv2d(config.hidden, config.hidden, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.last = nn.Linear(config.hidden, classes)
        begin_as(self, RELU_KERNELS)

    def encode(self, images: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            images = block(images if number == 0 else functional.max_pool2d(images, 2))
        return images

    def classify(self, maps: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(functional.max_pool2d(maps, 2), SIDE)
        x = self.dropout(functional.relu(self.first(x)))
        x = self.dropout(functional.relu(self.second(x)))
        logits: Tensor = self.last(x.flatten(1))
        return logits

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the convolutions and the first two dense layers from "imagenet" or a file."""
        return load_vgg16((layer for layer in self.blocks.modules() if not list(layer.children())), weights, (self.first, self.second))

    def encoder_stages(self) -> list[list[nn.Module]]:
        return [[block] for block in self.blocks]


@MODELS.add(VggClassifierConfig)
def build(config: VggClassifierConfig, in_channels: int, out_channels: int) -> nn.Module:
    return VggClassifier(config, in_channels, out_channels)
