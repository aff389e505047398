"""What every classifier promises its task: one logit a class of each picture, and where it looked for its answer.

Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
arXiv:1610.02391.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.base import Family, ModelConfig, Network


class ClassifierConfig(ModelConfig):
    """Base of every classifier's settings."""

    family: ClassVar[Family] = "classification"

    dropout: float = Field(0.2, ge=0, lt=1, description="dropout probability before the last layer")


class Classifier(Network, abc.ABC):
    """A network of K classes, in two parts: maps of what is where in the picture, and what they say together.

    ``forward``: float (B, C, H, W), sides of 32 pixels or more -> logits (B, K).
    """

    not_exportable = "a classifier's file has no way yet to say what its numbers mean"

    @abc.abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """float (B, C, H, W) -> maps (B, F, h, w) of the last layer that knows of places."""

    @abc.abstractmethod
    def classify(self, maps: Tensor) -> Tensor:
        """Maps (B, F, h, w) -> logits (B, K)."""

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.encode(images))

    def explain(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K), and Grad-CAM (B, h, w) of each picture's most probable class, from 0 to 1: which places speak for it."""
        with torch.no_grad():
            maps = self.encode(images)
        with torch.inference_mode(False), torch.enable_grad():
            known = maps.float().clone().requires_grad_()
            logits = self.classify(known)
            (slope,) = torch.autograd.grad(logits.max(dim=1).values.sum(), known)
        weight = slope.mean(dim=(2, 3), keepdim=True)
        looked = (weight * maps).sum(dim=1).relu()
        return logits.detach(), looked / looked.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def pooled_head(channels: int, classes: int, dropout: float) -> nn.Sequential:
    """Mean over all places, dropout, one dense layer: the head of MobileNetV2 and EfficientNet."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, classes))
