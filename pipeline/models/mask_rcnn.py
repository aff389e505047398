"""Mask R-CNN on a feature pyramid: a box and a mask of 28 x 28 for each object.

Paper: He, Gkioxari, Dollar, Girshick, "Mask R-CNN", ICCV 2017, arXiv:1703.06870. Network code: torchvision, BSD-3-Clause. What
differs stands in two_stage.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.models.base import MODELS
from pipeline.models.detector import Detector
from pipeline.models.two_stage import TwoStage, TwoStageConfig
from pipeline.types import Target

GROUP = 64


class MaskRCNNConfig(TwoStageConfig):
    name: Literal["mask_rcnn"] = "mask_rcnn"
    mask_width: int = Field(256, ge=1, description="channels of the mask head")
    mask_layers: int = Field(4, ge=1, description="convolutions of the mask head before upsampling to 28 x 28")


class MaskRCNN(TwoStage):
    """``batch_losses``: rpn_objectness, rpn_box, class, box, mask. Detections have masks of 28 x 28."""

    has_masks: ClassVar[bool] = True

    def __init__(self, config: MaskRCNNConfig, in_channels: int, classes: int) -> None:
        from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
        from torchvision.ops import MultiScaleRoIAlign

        norm = nn.BatchNorm2d if config.heads == "v2" else None
        heads = MaskRCNNHeads if norm is not None else in_full_groups(MaskRCNNHeads)
        head = heads(config.fpn_channels, [config.mask_width] * config.mask_layers, dilation=1, norm_layer=norm)
        pool = MultiScaleRoIAlign(featmap_names=config.levels, output_size=14, sampling_ratio=2)
        predictor = in_full_groups(MaskRCNNPredictor)(config.mask_width, config.mask_width, classes + 1)
        super().__init__(config, in_channels, classes, (pool, head, predictor))

    def _truth(self, target: Target) -> dict[str, Tensor]:
        if target.instance_masks is None:
            raise ConfigError(
                "model.name: mask_rcnn learns from masks, and these objects have boxes alone: choose faster_rcnn, "
                "or set data.weak_masks to ellipse"
            )
        return {**super()._truth(target), "masks": target.instance_masks}


@functools.cache
def in_full_groups(layers: Callable[..., nn.Sequential]) -> Callable[..., nn.Sequential]:
    """The same layers, which on a GPU see objects in full groups of :data:`GROUP`, the rest of the last one empty: cuDNN makes a plan for
    each number of them that it has not seen, which takes as long as the work itself, and that number is another one at each step."""

    class InFullGroups(layers):  # type: ignore[valid-type, misc]
        def forward(self, x: Tensor) -> Tensor:
            missing = -len(x) % GROUP if x.is_cuda else 0
            out: Tensor = super().forward(functional.pad(x, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else x)
            return out[: len(x)]

    return InFullGroups


@MODELS.add(MaskRCNNConfig)
def build(config: MaskRCNNConfig, in_channels: int, out_channels: int) -> Detector:
    return MaskRCNN(config, in_channels, out_channels)
