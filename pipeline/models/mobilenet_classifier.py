"""MobileNetV2 that says what a picture is.

Paper: Sandler et al., "MobileNetV2", CVPR 2018, arXiv:1801.04381 (alpha 1.0). Encoder by torchvision, BSD-3-Clause.

What differs: any number of channels; without the last 1280 channels before the classifier, which a few hundred photographs do not need.
With ``halvings: 4`` the encoder ends at stride 16: 0.54 of 1.8 million parameters, with pretrained weights all the same.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones import MobileNetV2Features
from pipeline.models.base import MODELS
from pipeline.models.classifier import Classifier, ClassifierConfig, pooled_head
from pipeline.models.features import Features
from pipeline.models.weights import Loaded


class MobileNetClassifierConfig(ClassifierConfig):
    name: Literal["mobilenet_classifier"] = "mobilenet_classifier"
    halvings: Literal[4, 5] = Field(5, description="how often the encoder halves the resolution; 4: a third of the parameters")


class PooledClassifier(Classifier):
    """An encoder's last map, averaged over all places, and one dense layer."""

    def __init__(self, features: Features, classes: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        self.head = pooled_head(features.widths[-1], classes, dropout)

    def encode(self, images: Tensor) -> Tensor:
        return self.features(images)[-1]  # type: ignore[no-any-return]

    def classify(self, maps: Tensor) -> Tensor:
        return self.head(maps)  # type: ignore[no-any-return]

    def load_encoder(self, weights: str) -> Loaded:
        return self.features.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.features.stages()


@MODELS.add(MobileNetClassifierConfig)
def build(config: MobileNetClassifierConfig, in_channels: int, out_channels: int) -> nn.Module:
    return PooledClassifier(MobileNetV2Features(in_channels, nn.BatchNorm2d, config.halvings), out_channels, config.dropout)
