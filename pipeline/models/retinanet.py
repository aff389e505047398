"""RetinaNet on our encoders: one stage, focal loss.

Paper: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002. Pyramid: Lin et al.,
CVPR 2017, arXiv:1612.03144. Pyramid, head and focal loss by torchvision, BSD-3-Clause.

Defaults are the paper's: ResNet-50, levels P3 to P7, 256 channels, four convolutions a head, nine anchors a cell, sigmoid scores that
begin at 0.01. What differs: group normalisation in pyramid and heads (arXiv:1803.08494; trains from scratch with two images a
batch); any number of channels; anchors fitted to the data or given (the paper's begin at 32 pixels); losses divided by the
positives of the whole batch, so that an image without objects weighs no more than any other. Light: ``backbone: mobilenet_v2``,
``width: 64``, ``head_layers: 2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import dense
from pipeline.models.anchors import Anchors, LevelAnchors, fitted_anchors
from pipeline.models.backbones import Name, build_encoder
from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, Sizes
from pipeline.models.weights import Loaded
from pipeline.types import Target

STRIDES = (8, 16, 32, 64, 128)


class RetinaNetConfig(dense.DenseConfig):
    name: Literal["retinanet"] = "retinanet"
    backbone: Name = Field("resnet50", description="encoder: mobilenet_v2, efficientnet_lite0 (lite1, lite2), resnet18, resnet50")
    width: int = Field(256, ge=8, multiple_of=8, description="channels of the pyramid and the heads")
    head_layers: int = Field(4, ge=1, le=4, description="convolutions in each head before its last")
    anchors: Anchors | None = Field(None, description="anchors at strides 8, 16, 32, 64 and 128; null: fitted to the training boxes")

    def with_fitted_anchors(self, sizes: npt.NDArray[np.float32]) -> Self:
        return self if self.anchors is not None else self.model_copy(update={"anchors": _three_an_octave(fitted_anchors(sizes, finest=8))})


class RetinaNet(Detector):
    """Losses ``class`` (focal) and ``box`` (L1 of encoded boxes)."""

    def __init__(self, config: RetinaNetConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        from torchvision.models.detection.retinanet import RetinaNetHead
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

        self.config = config
        self.backbone = build_encoder(config.backbone, in_channels, config.weights, config.frozen_stages)
        self.fpn = FeaturePyramidNetwork(
            list(self.backbone.widths[1:]), config.width, LastLevelP6P7(config.width, config.width), norm_layer=dense.group_norm
        )
        self.anchors = LevelAnchors(config.anchors or _three_an_octave(fitted_anchors(np.empty((0, 2), np.float32))), STRIDES)
        self.head = RetinaNetHead(config.width, self.anchors.count, classes, norm_layer=dense.group_norm)
        for head in (self.head.classification_head, self.head.regression_head):
            head.conv = head.conv[: config.head_layers]

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file."""
        return self.backbone.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.backbone.stages()

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        from torchvision.ops import sigmoid_focal_loss

        logits, codes, anchors = self._outputs(images)
        index, wanted, labels = dense.assign(targets, anchors, foreground=0.5, background=0.4)
        positive = (index >= 0)[..., None]
        truth = (functional.one_hot(labels - 1, logits.shape[-1]) * positive).to(logits)
        focal = sigmoid_focal_loss(logits, truth) * (index != dense.BETWEEN)[..., None]
        moved = (codes - wanted).abs() * positive
        count = dense.part_of_count(positive.sum())
        return {"class": focal.sum() / count, "box": moved.sum() / count}

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        logits, codes, anchors = self._outputs(images)
        boxes, scores = dense.decode(codes, anchors), logits.sigmoid()
        return [dense.select(b, s, size, self.config) for b, s, size in zip(boxes, scores, sizes, strict=True)]

    def _outputs(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, A, K), encoded boxes (B, A, 4) and anchors (A, 4), float32."""
        features = self.backbone(images)[1:]
        levels: list[Tensor] = list(self.fpn({str(level): feature for level, feature in enumerate(features)}).values())
        out = self.head(levels)
        return out["cls_logits"].float(), out["bbox_regression"].float(), self.anchors.over(levels)


def _three_an_octave(anchors: Anchors) -> Anchors:
    """The same with two more sizes between each level's and the next's."""
    sizes = tuple(tuple(round(size * 2 ** (third / 3), 1) for third in range(3)) for (size,) in anchors.sizes)
    return Anchors(sizes=sizes, ratios=anchors.ratios)


@MODELS.add(RetinaNetConfig)
def build(config: RetinaNetConfig, in_channels: int, out_channels: int) -> Detector:
    return RetinaNet(config, in_channels, out_channels)
