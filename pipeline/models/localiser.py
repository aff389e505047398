"""Classification with localisation: one network, two heads, which say what the one object of a picture is and where it lies.

The step before detectors that find any number of objects: AlexNet's and VGG's single-object localisation (Simonyan and Zisserman, ICLR
2015, arXiv:1409.1556, appendix A, and Sermanet et al., "OverFeat", ICLR 2014, arXiv:1312.6229, section 4), a softmax over classes, and
four numbers learnt by their squared error.

What differs: an ImageNet encoder of inverted residuals in VGG's place; its last map keeps its places (a mean over them would lose where
the object is) on a grid of fixed size, so that pictures of any size serve; one box for whichever class it is. The softmax has one class
more, "nothing", and the box is of the largest object, its centre and sides as fractions of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.backbones import build_encoder
from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, DetectorConfig, FrozenStages, Sizes, boxes_and_labels
from pipeline.models.efficientnet_lite import Size
from pipeline.models.weights import Loaded
from pipeline.types import Target


class LocaliserConfig(DetectorConfig):
    name: Literal["localiser"] = "localiser"
    backbone: Literal["mobilenet_v2", Size] = Field("efficientnet_lite0", description="encoder")
    encoder_halvings: Literal[4, 5] = Field(5, description="how often the encoder halves the resolution")
    frozen_stages: FrozenStages = 0
    grid: int = Field(7, ge=2, le=32, description="rows and columns of the map that the heads see")
    width: int = Field(64, ge=8, description="channels of that map")
    hidden: int = Field(256, ge=8, description="units of the layer that both heads share")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout probability before the heads")


class Localiser(Detector):
    """Losses ``classification`` (cross entropy) and ``box`` (squared error of centre and sides, of pictures with an object)."""

    def __init__(self, config: LocaliserConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = build_encoder(config.backbone, in_channels, config.weights, config.frozen_stages, config.encoder_halvings)
        self.grid = config.grid
        narrow = nn.Conv2d(self.features.widths[-1], config.width, 1, bias=False)
        self.narrow = nn.Sequential(narrow, nn.GroupNorm(1, config.width), nn.ReLU())
        shared = nn.Linear(config.width * config.grid**2, config.hidden)
        self.shared = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), nn.Dropout(config.dropout))
        self.what, self.where = nn.Linear(config.hidden, classes + 1), nn.Linear(config.hidden, 4)

    def load_encoder(self, weights: str) -> Loaded:
        return self.features.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.features.stages()

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """float (B, C, H, W) -> logits (B, 1 + K), "nothing" first, and (centre x, centre y, width, height) (B, 4), 0..1 of the tensor."""
        maps = functional.adaptive_avg_pool2d(self.narrow(self.features(images)[-1]), self.grid)
        seen = self.shared(maps)
        return self.what(seen), self.where(seen).sigmoid()

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        logits, boxes = self.heads(images)
        extent = _extent(images)
        labels, truths, present = [], [], []
        for number, target in enumerate(targets):
            own, kinds = boxes_and_labels(target)
            if len(own):
                largest = int((own[:, 2:] - own[:, :2]).prod(dim=1).argmax())
                truths.append(_centred(own[largest] / extent))
                present.append(number)
            labels.append(kinds[largest] if len(own) else kinds.new_zeros(()))
        losses = {"classification": functional.cross_entropy(logits.float(), torch.stack(labels))}
        known = boxes[present].float()
        losses["box"] = functional.mse_loss(known, torch.stack(truths).to(known)) if present else boxes.float().sum() * 0
        return losses

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        """One object of each image: its most probable class, with that probability, however small it is."""
        logits, boxes = self.heads(images)
        scores, best = functional.softmax(logits.float(), dim=1)[:, 1:].max(dim=1)
        corners = _cornered(boxes.float()) * _extent(images)
        found = []
        for box, score, kind, (rows, columns) in zip(corners, scores, best, sizes, strict=True):
            inside = box.clamp(min=0).minimum(box.new_tensor([columns, rows, columns, rows]))
            found.append(Detections(inside[None], kind[None] + 1, score[None]))
        return found


def _extent(images: Tensor) -> Tensor:
    """(columns, rows, columns, rows) of a tensor of images."""
    rows, columns = images.shape[-2:]
    return torch.tensor([columns, rows, columns, rows], dtype=torch.float32, device=images.device)


def _centred(boxes: Tensor) -> Tensor:
    """xyxy -> centre x, centre y, width, height."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], dim=-1)


def _cornered(boxes: Tensor) -> Tensor:
    """The inverse of :func:`_centred`."""
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)


@MODELS.add(LocaliserConfig)
def build(config: LocaliserConfig, in_channels: int, out_channels: int) -> Detector:
    return Localiser(config, in_channels, out_channels)
