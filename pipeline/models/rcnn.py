"""R-CNN: each box of selective search, warped to a square, goes through a network of its own; support vector machines decide.

Paper: Girshick, Donahue, Darrell, Malik, "Rich Feature Hierarchies for Accurate Object Detection and Semantic Segmentation", CVPR 2014,
arXiv:1311.2524. Our own code on our encoders; support vector machines by scikit-learn (region_svm.py).

Three things are learnt, one after the other. The loop trains the encoder to classify warped boxes, with a softmax over classes and
background. After the last step (``complete``) features of the training images' boxes are computed once, and from them one linear
support vector machine a class, with hard negatives, and one box regression a class. Until then, and with ``scores: softmax``, the
softmax's own probabilities are the scores.

What differs: the encoder's mean feature instead of a fully connected layer; a margin m is told as the score 1 / (1 + exp(-m)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.backbones import Name, build_encoder
from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, FrozenStages, Sizes
from pipeline.models.region_svm import LinearHeads, RegionFeatures
from pipeline.models.regions import RegionConfig, RegionDetector, best_of, overlap_with_objects, sampled, warped
from pipeline.models.sampling import over_processes
from pipeline.models.weights import Loaded, Version
from pipeline.types import Batch, Target


class RCNNConfig(RegionConfig):
    name: Literal["rcnn"] = "rcnn"
    backbone: Name = Field("mobilenet_v2", description="encoder: mobilenet_v2, efficientnet_lite0 (lite1, lite2), resnet18, resnet50")
    imagenet: Version = Field("v1", description="version of torchvision's ImageNet weights, for weights: imagenet")
    frozen_stages: FrozenStages = 2
    size: int = Field(224, ge=32, description="side in pixels of the square that each box is warped to")
    context: int = Field(16, ge=0, description="pixels on each side of that square that show what lies around the box")
    samples: int = Field(32, ge=2, description="boxes per image in a training step")
    positive: float = Field(0.25, gt=0, lt=1, description="maximum fraction of boxes with an object among them")
    chunk: int = Field(64, ge=1, description="boxes that go through the network at once in prediction; limits its memory")
    scores: Literal["svm", "softmax"] = Field("svm", description="what decides on a box: support vector machines, or the softmax")
    regression: bool = Field(True, description="correct the boxes of what is found")
    background: int = Field(
        300, ge=1, description="random boxes of each training image from which the support vector machines take their negatives"
    )
    svm_c: float = Field(1e-3, gt=0, description="the support vector machines' C, for features of mean length 20")
    ridge: float = Field(1000, gt=0, description="penalty of the box regression, for features of mean length 20")

    @model_validator(mode="after")
    def _fits(self) -> RCNNConfig:
        if 2 * self.context >= self.size:
            raise ValueError(f"a context of {self.context} on each side leaves nothing of a square of {self.size}")
        return self


class RCNN(RegionDetector):
    """``batch_losses``: class. ``regression`` and ``scores`` may be changed on a trained network, to see what each is worth."""

    multiple = 1

    def __init__(self, config: RCNNConfig, in_channels: int, classes: int) -> None:
        super().__init__(config.proposals)
        self.config = config
        self.regression, self.scores = config.regression, config.scores
        self.encoder = build_encoder(config.backbone, in_channels, config.weights, config.frozen_stages)
        self.classifier = nn.Linear(self.encoder.widths[-1], classes + 1)
        self.linear = LinearHeads(self.encoder.widths[-1], classes)

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file of the same architecture."""
        return self.encoder.load(weights, self.config.imagenet)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.encoder.stages()

    def region_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target], proposals: Sequence[Tensor]) -> dict[str, Tensor]:
        if self.training:
            self.linear.fitted.zero_()  # of a network that is trained further: it was fitted to features that change from now on
        squares, labels = [], []
        for image, (rows, columns), target, boxes, seed in zip(images, sizes, targets, proposals, self.seeds, strict=True):
            chosen, classes = sampled(boxes, target, self.config.samples, self.config.positive, seed)
            squares.append(self._warped(image[:, :rows, :columns], chosen))
            labels.append(classes)
        every = torch.cat(labels)
        loss = functional.cross_entropy(self.classifier(self._encoded(torch.cat(squares))), every)
        return over_processes({"class": loss}, {"class": len(every)})

    def region_detections(self, images: Tensor, sizes: Sizes, proposals: Sequence[Tensor]) -> list[Detections]:
        return [
            self._found(image[:, :rows, :columns], boxes) for image, (rows, columns), boxes in zip(images, sizes, proposals, strict=True)
        ]

    @torch.no_grad()
    def features(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (P, 4) of an image (C, H, W) -> float32 (P, D), what the encoder says of each."""
        return torch.cat([self._encoded(self._warped(image, part)).float() for part in boxes.split(self.config.chunk)])

    @torch.no_grad()
    def complete(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Learn support vector machines and box regression; images without proposals of their own get them here."""
        was_training = self.training
        self.eval()
        random = torch.Generator().manual_seed(0)
        cached = [
            self._cached(image, target, boxes, random)
            for batch in batches()
            for image, target, boxes in zip(batch.images, batch.targets or (), self._boxes(batch.images, batch.proposals), strict=True)
        ]
        self.linear.fit(cached, self.config.svm_c, self.config.ridge)
        self.train(was_training)

    def _cached(self, image: Tensor, target: Target, boxes: Tensor, random: torch.Generator) -> RegionFeatures:
        """Features of the objects, of all boxes near one, and of some of the others."""
        every, overlaps, _ = overlap_with_objects(boxes, target)
        far = (overlaps < 0.3).nonzero().flatten()
        far = far[torch.randperm(len(far), generator=random)[: self.config.background].to(far.device)]
        kept = torch.cat([(overlaps >= 0.3).nonzero().flatten(), far])
        assert target.boxes is not None
        assert target.labels is not None
        return RegionFeatures(self.features(image, every[kept]).cpu(), every[kept].cpu(), target.boxes.cpu(), target.labels.cpu())

    def _found(self, image: Tensor, boxes: Tensor) -> Detections:
        features = self.features(image, boxes)
        fitted = bool(self.linear.fitted)
        by_svm = fitted and self.scores == "svm"
        scores = self.linear.margins(features).sigmoid() if by_svm else self.classifier(features).softmax(1)[:, 1:]
        places = self.linear.corrected(boxes, features) if fitted and self.regression else boxes[:, None].expand(-1, scores.shape[1], -1)
        return best_of(places, scores, (int(image.shape[-2]), int(image.shape[-1])), self.config)

    def _warped(self, image: Tensor, boxes: Tensor) -> Tensor:
        return warped(image, boxes, self.config.size, self.config.context)

    def _encoded(self, squares: Tensor) -> Tensor:
        return torch.as_tensor(self.encoder(squares)[-1].mean((2, 3)))


@MODELS.add(RCNNConfig)
def build(config: RCNNConfig, in_channels: int, out_channels: int) -> Detector:
    return RCNN(config, in_channels, out_channels)
