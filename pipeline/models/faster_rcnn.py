"""Faster R-CNN on a feature pyramid: boxes, without masks.

Paper: Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015, arXiv:1506.01497.
Network code: torchvision, BSD-3-Clause. What differs stands in two_stage.py.
"""

from __future__ import annotations

from typing import Literal

from pipeline.models.base import MODELS
from pipeline.models.detector import Detector
from pipeline.models.two_stage import TwoStage, TwoStageConfig


class FasterRCNNConfig(TwoStageConfig):
    name: Literal["faster_rcnn"] = "faster_rcnn"


class FasterRCNN(TwoStage):
    """``batch_losses``: rpn_objectness, rpn_box, class, box."""


@MODELS.add(FasterRCNNConfig)
def build(config: FasterRCNNConfig, in_channels: int, out_channels: int) -> Detector:
    return FasterRCNN(config, in_channels, out_channels)
