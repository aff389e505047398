"""Fast R-CNN: one pass of the network over the picture, then a look at each box of selective search on its feature maps.

Paper: Girshick, "Fast R-CNN", ICCV 2015, arXiv:1504.08083. RoIAlign: He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870. Head and
losses: torchvision, BSD-3-Clause.

What differs: feature maps are those of a pyramid, as of our Faster R-CNN, which differs from this network in its proposals alone; a box
is looked at on the level that its size calls for (Lin et al. 2017, arXiv:1612.03144, equation 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.base import MODELS
from pipeline.models.detector import Detections, Detector, Sizes
from pipeline.models.regions import RegionConfig, RegionDetector
from pipeline.models.two_stage import LOSSES, PyramidHeadsConfig, box_heads, build_pyramid, head_losses, losses_in_evaluation, region_truth
from pipeline.models.weights import Loaded
from pipeline.types import Target


class FastRCNNConfig(RegionConfig, PyramidHeadsConfig):
    name: Literal["fast_rcnn"] = "fast_rcnn"
    pooling: Literal["align", "pool"] = Field(
        "align", description="pool: the largest value of each of 7 x 7 cells, rounded to whole pixels, as in the paper; align: interpolated"
    )


class FastRCNN(RegionDetector):
    """``batch_losses``: class, box."""

    dense_parts = ("backbone",)
    slow_in_channels_last = True

    def __init__(self, config: FastRCNNConfig, in_channels: int, classes: int) -> None:
        super().__init__(config.proposals)
        self.version = config.imagenet
        self.backbone = build_pyramid(config, in_channels)
        self.roi_heads = box_heads(config, classes, RoIPool(config.strides[:-1]) if config.pooling == "pool" else None)

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file of the same architecture."""
        return self.backbone.body.load(weights, self.version)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.backbone.body.stages()

    def region_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target], proposals: Sequence[Tensor]) -> dict[str, Tensor]:
        truths = [region_truth(target) for target in targets]
        losses = head_losses(self.roi_heads, self.backbone(images), proposals, sizes, truths, self.seeds)
        return {LOSSES[name]: loss for name, loss in losses.items()}

    def region_detections(self, images: Tensor, sizes: Sizes, proposals: Sequence[Tensor]) -> list[Detections]:
        found, _ = self.roi_heads(self.backbone(images), list(proposals), sizes)
        return [Detections(f["boxes"], f["labels"], f["scores"]) for f in found]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        with losses_in_evaluation(self.roi_heads):
            yield


class RoIPool(nn.Module):
    """RoI pooling on the level of a pyramid that a box's size calls for; stands in for torchvision's MultiScaleRoIAlign."""

    output_size = (7, 7)

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def forward(self, levels: Mapping[str, Tensor], boxes: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Boxes (P, 4) of each image on levels "0", "1", ... -> float (sum of P, C, 7, 7)."""
        from torchvision.ops import roi_pool

        numbers = torch.cat([torch.full((len(part), 1), float(n)).to(part) for n, part in enumerate(boxes)])
        regions = torch.cat([numbers, torch.cat(list(boxes))], 1)
        wanted = self.level_of(regions[:, 1:])
        first = levels["0"]
        out = first.new_zeros(len(regions), first.shape[1], *self.output_size)
        for number, stride in enumerate(self.strides):
            places = (wanted == number).nonzero().flatten()
            # In float32 under mixed precision, too: in bfloat16 a place beyond 256 pixels is off by one, and far out by several.
            pooled = roi_pool(levels[str(number)].float(), regions[places].float(), self.output_size, 1 / stride)
            out = out.index_copy(0, places, pooled.to(out.dtype))
        return out

    def level_of(self, boxes: Tensor) -> Tensor:
        """int64 (P): a box of 224 x 224 belongs to stride 16."""
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-6).sqrt()
        stride = torch.floor(torch.log2(sides / 224) + 4 + 1e-6)
        return (stride - math.log2(self.strides[0])).clamp(0, len(self.strides) - 1).long()


@MODELS.add(FastRCNNConfig)
def build(config: FastRCNNConfig, in_channels: int, out_channels: int) -> Detector:
    return FastRCNN(config, in_channels, out_channels)
