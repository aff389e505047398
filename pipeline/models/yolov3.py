"""YOLOv3, our own.

Paper: Redmon, Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767; anchors by k-means as in Redmon, Farhadi,
"YOLO9000", CVPR 2017, arXiv:1612.08242. With Darknet-53, a neck of 512 and 80 classes it has the authors' 61,949,149 parameters.

What differs by default: box loss by complete IoU (``box_loss: squared`` is the paper's), more than one anchor may be assigned to an
object (``also_above: null`` is the paper's), losses by their mean (see yolo_loss.py), and objectness starts at one in a hundred
(Lin et al., "Focal Loss", ICCV 2017, arXiv:1708.02002, section 3.3), without which ten thousand empty outputs drown the few others at
first. Light encoders (``backbone``, ``neck``) take the place of Darknet-53 where two cores must do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import dense
from pipeline.models.backbones import build_encoder
from pipeline.models.base import MODELS
from pipeline.models.darknet import Convolution, Darknet53
from pipeline.models.detector import Detections, Detector, LargestOverlap, LowestScore, NMSConfig, Sizes
from pipeline.models.features import Features
from pipeline.models.weights import Loaded
from pipeline.models.yolo_loss import BoxLoss, decode, places_of, yolo_losses
from pipeline.types import Target

STRIDES = (8, 16, 32)
PER_SCALE = 3  # anchors
COCO = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
"""The paper's anchors, from COCO at 416 x 416."""
PRIOR = 0.01  # objectness before training


class YoloV3Config(NMSConfig):
    name: Literal["yolov3"] = "yolov3"
    backbone: Literal["darknet53", "mobilenet_v2", "efficientnet_lite0", "resnet18"] = Field("darknet53", description="encoder")
    neck: int = Field(512, ge=16, multiple_of=8, description="channels of the neck at stride 32, halved at 16 and again at 8; 128 is light")
    anchors: tuple[tuple[float, float], ...] | None = Field(
        None,
        description="nine anchors as (width, height) in working pixels, smallest three for stride 8; null: by k-means from the training "
        "boxes (without any, the paper's, from COCO)",
    )
    box_loss: BoxLoss = Field("ciou", description="ciou: 1 - complete IoU; squared: as in the paper, on the four raw outputs")
    also_above: float | None = Field(
        0.3,
        ge=0,
        lt=1,
        description="anchors of a higher IoU with an object's shape than this are assigned to it as well; null: only the best one",
    )
    ignore_above: float = Field(
        0.5,
        gt=0,
        le=1,
        description="outputs that overlap an object by a higher IoU than this without being assigned to it are ignored in the loss",
    )
    score_threshold: LowestScore = 0.001
    nms: LargestOverlap = 0.45

    @field_validator("anchors")
    @classmethod
    def _nine(cls, anchors: tuple[tuple[float, float], ...] | None) -> tuple[tuple[float, float], ...] | None:
        if anchors is None:
            return None
        if len(anchors) != PER_SCALE * len(STRIDES) or min(min(sides) for sides in anchors) <= 0:
            raise ValueError(f"needs {PER_SCALE * len(STRIDES)} anchors of positive width and height")
        return tuple(sorted(anchors, key=lambda sides: sides[0] * sides[1]))

    def with_fitted_anchors(self, sizes: npt.NDArray[np.float32]) -> Self:
        if self.anchors is not None or len(sizes) == 0:
            return self
        from pipeline.models.anchors import kmeans_anchors

        found = kmeans_anchors(sizes, PER_SCALE * len(STRIDES), seed=0)
        anchors = sorted(((float(width), float(height)) for width, height in found), key=lambda sides: sides[0] * sides[1])
        return self.model_copy(update={"anchors": tuple(anchors)})


class Scale(nn.Module):
    """The neck at one scale: five convolutions, 1 x 1 and 3 x 3 by turns, whose output goes on, and the head that reads it."""

    def __init__(self, in_channels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Convolution(in_channels, width, 1),
            Convolution(width, 2 * width, 3),
            Convolution(2 * width, width, 1),
            Convolution(width, 2 * width, 3),
            Convolution(2 * width, width, 1),
        )
        last = nn.Conv2d(2 * width, PER_SCALE * outputs, 1)
        nn.init.normal_(last.weight, std=0.01)
        bias = torch.zeros(PER_SCALE, outputs)
        bias[:, 4] = -math.log((1 - PRIOR) / PRIOR)
        last.bias = nn.Parameter(bias.flatten())
        self.head = nn.Sequential(Convolution(width, 2 * width, 3), last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return features, self.head(features)


class YoloV3(Detector):
    """See the module. ``anchors`` float32 (scales, 3, 2): width and height in pixels, finest scale first."""

    anchors: Tensor

    def __init__(self, config: YoloV3Config, encoder: Darknet53 | Features, classes: int) -> None:
        super().__init__()
        self.config, self.encoder, self.outputs = config, encoder, 5 + classes
        anchors = torch.tensor(config.anchors or COCO, dtype=torch.float32)
        self.register_buffer("anchors", anchors.reshape(len(STRIDES), PER_SCALE, 2), persistent=False)  # the configuration has them
        widths = [config.neck // 2 ** (2 - level) for level in range(len(STRIDES))]
        self.reduce = nn.ModuleList(Convolution(coarse, coarse // 2, 1) for coarse in widths[1:])
        skipped = encoder.widths[1:]
        joined = [skipped[0] + widths[1] // 2, skipped[1] + widths[2] // 2, skipped[2]]
        self.scales = nn.ModuleList(Scale(channels, width, self.outputs) for channels, width in zip(joined, widths, strict=True))

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file."""
        return self.encoder.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.encoder.parts() if isinstance(self.encoder, Darknet53) else self.encoder.stages()

    def raw(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W), sides multiples of 32 -> for strides 8, 16 and 32 the outputs (B, 3, H / s, W / s, 5 + classes)."""
        features: list[Tensor] = self.encoder(images)[1:]
        outputs: list[Tensor] = []
        coarser: Tensor | None = None
        for level in (2, 1, 0):
            feature = features[level]
            if coarser is not None:
                risen = functional.interpolate(self.reduce[level](coarser), scale_factor=2.0, mode="nearest")
                feature = torch.cat([risen, feature], dim=1)
            coarser, output = self.scales[level](feature)
            batch, _, rows, columns = output.shape
            outputs.insert(0, output.view(batch, PER_SCALE, self.outputs, rows, columns).permute(0, 1, 3, 4, 2))
        return outputs

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        scales = self.raw(images)
        places = places_of([(scale.shape[2], scale.shape[3]) for scale in scales], STRIDES, self.anchors)
        return yolo_losses(
            _flat(scales),
            places,
            self.anchors,
            targets,
            ignore_above=self.config.ignore_above,
            also_above=self.config.also_above,
            box_loss=self.config.box_loss,
        )

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        scales = self.raw(images)
        places = places_of([(scale.shape[2], scale.shape[3]) for scale in scales], STRIDES, self.anchors)
        flat = _flat(scales)
        scores = flat[..., 4:5].sigmoid() * flat[..., 5:].sigmoid()
        boxes = decode(flat[..., :4], places)
        return [dense.select(b, s, size, self.config) for b, s, size in zip(boxes, scores, sizes, strict=True)]


def _flat(scales: list[Tensor]) -> Tensor:
    """Outputs of all scales (B, N, 5 + classes), numbered as :class:`Places` says, in float32 whatever the network computed in."""
    return torch.cat([scale.flatten(1, 3) for scale in scales], dim=1).float()


@MODELS.add(YoloV3Config)
def build(config: YoloV3Config, in_channels: int, out_channels: int) -> YoloV3:
    if config.backbone == "darknet53":
        return YoloV3(config, Darknet53(in_channels), out_channels)
    return YoloV3(config, build_encoder(config.backbone, in_channels, config.weights), out_channels)
