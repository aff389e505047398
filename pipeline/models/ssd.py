"""SSD300 on VGG-16 and SSDLite on MobileNetV2: one stage, default boxes on six feature maps.

Papers: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325; SSDLite: Sandler et al., "MobileNetV2", CVPR 2018,
arXiv:1801.04381. Heads and VGG's layers by torchvision, BSD-3-Clause.

What differs, and why:

* The network is convolutional all over and works at the image's own size; nothing is squeezed to 300 x 300. Default boxes have their
  300-pixel network's sides in pixels (``anchors``). So that any size fits, all added layers halve their map with padding (SSD300's
  last two do not pad), and both variants have strides 8, 16, ..., 256 (SSDLite begins at 16, too coarse for lesions).
* SSDLite's added layers and heads have group normalisation (arXiv:1803.08494), so that one image a step is enough; VGG has none, as
  in the paper.
* At the start every default box is background and moves nothing, and the scale of conv4_3 goes with the channels: trained from
  scratch with warm-up and clipping (``train``) it does not diverge. VGG at its full width wants a learning rate of about 2e-4.
* Hard negatives, three for each positive, are sought in the whole batch, and there is a least number of them, so that an image
  without objects teaches something too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models import dense
from pipeline.models.anchors import fitted_anchors
from pipeline.models.backbones import build_encoder
from pipeline.models.base import MODELS
from pipeline.models.blocks import RELU_KERNELS, begin_as
from pipeline.models.detector import Detections, Detector, Sizes
from pipeline.models.vgg import load_vgg16, scaled_width, vgg16_blocks
from pipeline.models.weights import Loaded
from pipeline.types import Target

PAPER = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)  # SSD300 on COCO; the seventh ends the sixth level's range
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
VARIANCE = (10.0, 10.0, 5.0, 5.0)  # the paper's code divides encoded boxes by 0.1 and 0.2
BACKGROUND_LOGIT = 3.0  # at the start, of one default box against each class's 0
NEGATIVES = 3  # hard negatives for each positive, and as many for each image if there are fewer positives than images


class SSDConfig(dense.DenseConfig):
    name: Literal["ssd"] = "ssd"
    variant: Literal["vgg16", "lite"] = Field("vgg16", description="vgg16: SSD300; lite: SSDLite on MobileNetV2")
    width: float = Field(1.0, gt=0, le=1, description="fraction of the channels (MobileNetV2 keeps all of its own)")
    anchors: tuple[float, float, float, float, float, float, float] | None = Field(
        None,
        description="sides of the default boxes at strides 8 to 256 in working pixels, and a seventh that ends the last level's range; "
        "null: fitted to the training boxes",
    )

    def with_fitted_anchors(self, sizes: npt.NDArray[np.float32]) -> Self:
        if self.anchors is not None:
            return self
        return self.model_copy(
            update={"anchors": tuple(side for (side,) in fitted_anchors(sizes, 7, finest=8).sizes) if len(sizes) else PAPER}
        )


class SSD(Detector):
    """Losses ``class`` (cross-entropy, hard negatives) and ``box`` (smooth L1 of encoded boxes)."""

    variance: Tensor

    def __init__(self, config: SSDConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        from torchvision.models.detection.ssd import SSDHead
        from torchvision.models.detection.ssdlite import SSDLiteHead

        self.config = config
        self.levels: _Lite | _VGG = (_Lite if config.variant == "lite" else _VGG)(config, in_channels)
        sides = config.anchors or PAPER
        self.shapes = [_shapes(a, b, ratios) for a, b, ratios in zip(sides, sides[1:], RATIOS, strict=False)]
        numbers = [len(shape) for shape in self.shapes]
        if config.variant == "lite":
            self.head: nn.Module = SSDLiteHead(self.levels.widths, numbers, classes + 1, dense.group_norm)
        else:
            self.head = SSDHead(self.levels.widths, numbers, classes + 1)
        _begin_at_background(self.head)
        self.register_buffer("variance", torch.tensor(VARIANCE), persistent=False)

    def load_encoder(self, weights: str) -> Loaded:
        """Fill VGG's convolutions, or MobileNetV2, from "imagenet" or a file."""
        return self.levels.load(weights)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.levels.stages()

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        logits, codes, anchors = self._outputs(images)
        index, wanted, labels = dense.assign(targets, anchors, foreground=0.5, background=0.5)
        positives = index >= 0
        count = positives.sum()
        each = functional.cross_entropy(logits.flatten(0, 1), (labels * positives).flatten(), reduction="none")
        # Sorted, where topk would have to know how many: the device alone counts them.
        hardest = each.masked_fill(positives.flatten(), -1).sort(descending=True).values
        negatives = torch.minimum(NEGATIVES * count.clamp(min=len(images)), positives.numel() - count)
        taken = torch.arange(len(hardest), device=hardest.device) < negatives
        # This is the number of positives where negatives are three to one, as in the paper, and no less where they are more.
        weight = (count + negatives) / (1 + NEGATIVES)
        moved = functional.smooth_l1_loss(codes, wanted * self.variance, reduction="none") * positives[..., None]
        return {
            "class": ((each * positives.flatten()).sum() + (hardest * taken).sum()) / weight,
            "box": moved.sum() / count.clamp(min=1),
        }

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        logits, codes, anchors = self._outputs(images)
        boxes, scores = dense.decode(codes / self.variance, anchors), logits.softmax(-1)[..., 1:]
        return [dense.select(b, s, size, self.config) for b, s, size in zip(boxes, scores, sizes, strict=True)]

    def _outputs(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, A, K + 1), encoded boxes (B, A, 4) and default boxes (A, 4), float32."""
        levels = self.levels(images)
        out = self.head(levels)
        return out["cls_logits"].float(), out["bbox_regression"].float(), _default_boxes(self.shapes, levels, images)


class _VGG(nn.Module):
    """VGG-16's convolutions, its two first dense layers as convolutions, and four added layers: maps at strides 8 to 256."""

    def __init__(self, config: SSDConfig, in_channels: int) -> None:
        super().__init__()
        of = partial(scaled_width, fraction=config.width)
        layers: list[nn.Module] = []
        for block in vgg16_blocks(in_channels, config.width):
            layers += [nn.MaxPool2d(2), *block] if layers else block
        self.features = nn.Sequential(*layers)
        pools = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        self.conv4 = pools[3]  # the fourth block ends there
        self.cuts = [0, *pools, len(layers)]
        if config.weights != "none":
            self.features[: self.cuts[config.frozen_stages]].requires_grad_(False)
        self.scale = nn.Parameter(torch.full((of(512),), 20 * math.sqrt(of(512) / 512)))  # the paper's 20 is of 512 channels
        self.dense = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(of(512), of(1024), 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(of(1024), of(1024), 1),
            nn.ReLU(inplace=True),
        )
        self.widths = [of(width) for width in (512, 1024, 512, 256, 256, 256)]
        self.extra = nn.ModuleList(_halved(before, after) for before, after in zip(self.widths[1:], self.widths[2:], strict=False))
        begin_as(self, RELU_KERNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        conv4 = self.features[: self.conv4](x)
        # The norm of this early map is far from the others': each place's channels get the length ``scale`` (ParseNet, arXiv:1506.04579).
        maps = [functional.normalize(conv4) * self.scale[:, None, None], self.dense(self.features[self.conv4 :](conv4))]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps

    def load(self, weights: str) -> Loaded:
        return load_vgg16(self.features, weights)

    def stages(self) -> list[list[nn.Module]]:
        return [list(self.features[first:last]) for first, last in pairwise(self.cuts)]


class _Lite(nn.Module):
    """MobileNetV2 and three added layers of separable convolutions: maps at strides 8 to 256."""

    def __init__(self, config: SSDConfig, in_channels: int) -> None:
        super().__init__()
        self.backbone = build_encoder("mobilenet_v2", in_channels, config.weights, config.frozen_stages)
        added = [scaled_width(width, config.width) for width in (512, 256, 256)]
        self.widths = [*self.backbone.widths[1:], *added]
        self.extra = nn.ModuleList(_separable(a, b) for a, b in zip(self.widths[2:], added, strict=False))
        begin_as(self.extra, RELU_KERNELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone(x)[1:]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps

    def load(self, weights: str) -> Loaded:
        return self.backbone.load(weights)

    def stages(self) -> list[list[nn.Module]]:
        return self.backbone.stages()


def _begin_at_background(head: Any) -> None:
    """Last layers that say "background" everywhere and move no box: the hardest negatives of a random start are absurdly wrong.

    Measured from scratch on discs (VGG, width 0.25, SGD without warm-up or clipping): the largest loss of 60 steps falls from 45 to 9.
    """
    for part in (head.classification_head, head.regression_head):
        for layer in part.module_list:
            last: Any = layer if isinstance(layer, nn.Conv2d) else layer[-1]
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            if part is head.classification_head:
                last.bias.data.view(-1, part.num_columns)[:, 0] = BACKGROUND_LOGIT


def _halved(before: int, after: int) -> nn.Module:
    """SSD's added layer: half the channels, then half the map."""
    inner = max(8, after // 16 * 8)
    narrow, half = nn.Conv2d(before, inner, 1), nn.Conv2d(inner, after, 3, stride=2, padding=1)
    return nn.Sequential(narrow, nn.ReLU(inplace=True), half, nn.ReLU(inplace=True))


def _separable(before: int, after: int) -> nn.Module:
    """SSDLite's added layer: the same with a separable convolution, normalised."""
    inner = max(8, after // 16 * 8)
    layers: list[nn.Module] = []
    for layer, width in (
        (nn.Conv2d(before, inner, 1, bias=False), inner),
        (nn.Conv2d(inner, inner, 3, stride=2, padding=1, groups=inner, bias=False), inner),
        (nn.Conv2d(inner, after, 1, bias=False), after),
    ):
        layers += [layer, dense.group_norm(width), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers)


def _shapes(side: float, following: float, ratios: Sequence[int]) -> Tensor:
    """Width and height, float32 (2 + 2 * ratios, 2), of a level's default boxes: two squares, then each ratio lying and standing."""
    middle = math.sqrt(side * following)
    shapes = [(side, side), (middle, middle)]
    for ratio in ratios:
        long, short = side * math.sqrt(ratio), side / math.sqrt(ratio)
        shapes += [(long, short), (short, long)]
    return torch.tensor(shapes)


def _default_boxes(shapes: Sequence[Tensor], levels: Sequence[Tensor], images: Tensor) -> Tensor:
    """Default boxes (A, 4) of the feature maps (B, C, rows, columns) of ``images``, level by level, row by row, shape by shape.

    Their centres share the image evenly, as in the paper: a coarse map's cells reach past the image's right and lower edge.
    """
    out = []
    for shape, level in zip(shapes, levels, strict=True):
        y, x = (
            (torch.arange(cells, device=level.device) + 0.5) * (extent / cells)
            for cells, extent in zip(level.shape[-2:], images.shape[-2:], strict=True)
        )
        centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        half = shape.to(level.device) / 2
        out.append(torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4))
    return torch.cat(out)


@MODELS.add(SSDConfig)
def build(config: SSDConfig, in_channels: int, out_channels: int) -> Detector:
    return SSD(config, in_channels, out_channels)
