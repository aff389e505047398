"""What Faster R-CNN and Mask R-CNN share: proposals first, then a closer look at each.

Papers: Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497; Lin et al., "Feature Pyramid Networks", CVPR 2017,
arXiv:1612.03144; heads v2: Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv:2111.11429.
Network code: torchvision, BSD-3-Clause.

Defaults are those of torchvision's detectors on ResNet-50, which are the papers'; with ``heads: v2`` and ``imagenet: v2`` those of
its second version. Light: ``backbone: mobilenet_v2``, ``fpn_channels: 64``, ``representation: 256``, fewer samples and proposals.

What differs from torchvision's: images are neither resized nor normalised again; anchors may come from the data and lie at a
level's true stride; MobileNetV2 has a pyramid of five levels; the proposal network's gradient costs only its samples; masks stay
on their own grid; proposals can be asked for with their scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.anchors import Anchors, LevelAnchors, fitted_anchors
from pipeline.models.backbones import Name, Pyramid, build_encoder
from pipeline.models.detector import Detections, FrozenStages, LowestScore, NMSConfig, ProposingDetector, Sizes, boxes_and_labels
from pipeline.models.sampling import BalancedSampler, over_processes
from pipeline.models.sparse_gradient import SparseGradientConv2d
from pipeline.models.weights import Loaded, Version
from pipeline.types import Target

LOSSES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}


class PyramidHeadsConfig(NMSConfig):
    """What a pyramid of features and heads that look at boxes on it are made of."""

    backbone: Name = Field("resnet50", description="encoder: mobilenet_v2, efficientnet_lite0 (lite1, lite2), resnet18, resnet50")
    imagenet: Version = Field("v1", description="version of torchvision's ImageNet weights, for weights: imagenet")
    frozen_stages: FrozenStages = 2
    encoder_halvings: Literal[4, 5] = Field(
        5, description="4: MobileNetV2 or EfficientNet-Lite ends at stride 16, with a third of its parameters, and so does the pyramid"
    )
    fpn_channels: int = Field(256, ge=1, description="channels of each pyramid level")
    heads: Literal["v1", "v2"] = Field(
        "v1", description="v1: as in the papers; v2: normalised convolutions in the heads, and two in the proposal network (Li et al.)"
    )
    roi_samples: int = Field(512, ge=2, description="proposals per image that train the heads")
    roi_positive: float = Field(0.25, gt=0, lt=1, description="maximum fraction of positives among them")
    representation: int = Field(1024, ge=1, description="width of the box head's fully connected layers")
    score_threshold: LowestScore = 0.05

    @property
    def strides(self) -> list[int]:
        """Of the pyramid's levels; objects are looked at on all but the last, which only proposes."""
        return [2**halving for halving in range(2, self.encoder_halvings + 2)]

    @property
    def levels(self) -> list[str]:
        """Names of the levels on which objects are looked at."""
        return [str(level) for level in range(len(self.strides) - 1)]


class TwoStageConfig(PyramidHeadsConfig):
    anchors: Anchors | None = Field(None, description="anchors of the pyramid's levels; null: fitted to the training boxes")
    rpn_samples: int = Field(256, ge=2, description="anchors per image in the proposal network's losses")
    rpn_before_nms: tuple[int, int] = Field(
        (2000, 1000), description="proposals kept per level before non-maximum suppression, in training and in prediction"
    )
    rpn_after_nms: tuple[int, int] = Field(
        (2000, 1000), description="proposals kept per image after non-maximum suppression, in training and in prediction"
    )

    def with_fitted_anchors(self, sizes: npt.NDArray[np.float32]) -> Self:
        return self if self.anchors is not None else self.model_copy(update={"anchors": fitted_anchors(sizes, len(self.strides))})


class TwoStage(ProposingDetector):
    """Faster R-CNN; with masks where ``mask`` is given (torchvision's RoI pooling, head and predictor for them)."""

    dense_parts = ("backbone", "rpn.head")
    slow_in_channels_last = True  # the gradient of 256 channels at stride 4: 3.4 s instead of 1.1 on one core

    def __init__(
        self, config: TwoStageConfig, in_channels: int, classes: int, mask: tuple[nn.Module, nn.Module, nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.version = config.imagenet
        self.backbone = build_pyramid(config, in_channels)
        self.rpn = _proposal_network(config)
        self.roi_heads = box_heads(config, classes)
        if mask is not None:
            self.roi_heads.mask_roi_pool, self.roi_heads.mask_head, self.roi_heads.mask_predictor = mask

    @property
    def proposer(self) -> nn.Module:  # type: ignore[override]
        return self.get_submodule("rpn")

    def load_encoder(self, weights: str) -> Loaded:
        """Fill the encoder from "imagenet" or a file of the same architecture."""
        return self.backbone.body.load(weights, self.version)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return self.backbone.body.stages()

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``rpn_objectness``, ``rpn_box``, ``class``, ``box`` and, with masks, ``mask``."""
        truths = [self._truth(target) for target in targets]
        features, listed = self.backbone(images), _listed(images, sizes)
        self.rpn.fg_bg_sampler.seeds = self.seeds
        proposals, first = self.rpn(listed, features, truths)
        losses = over_processes(first, dict.fromkeys(first, self.rpn.fg_bg_sampler.total))
        losses |= head_losses(self.roi_heads, features, proposals, sizes, truths, self.seeds)
        return {LOSSES[name]: loss for name, loss in losses.items()}

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        features = self.backbone(images)
        proposals, _ = self.rpn(_listed(images, sizes), features)
        found, _ = self.roi_heads(features, proposals, sizes)
        return [Detections(f["boxes"], f["labels"], f["scores"], f["masks"][:, 0] if "masks" in f else None) for f in found]

    @torch.no_grad()
    def proposals(self, images: Sequence[Tensor]) -> list[Detections]:
        """What the proposal network alone finds in each image (C, H, W): labels are all 1, scores say how likely it is any object."""
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        found = []
        for image in images:
            tensor, sizes = self._batch([image])
            levels = list(self.backbone(tensor).values())
            objectness, deltas = self.rpn.head(levels)
            anchors = self.rpn.anchor_generator(_listed(tensor, sizes), levels)
            counts = [level[0].numel() for level in objectness]
            scores, deltas = concat_box_prediction_layers(objectness, deltas)
            decoded = self.rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
            (boxes,), (likely,) = self.rpn.filter_proposals(decoded, scores, sizes, counts)
            found.append(Detections(boxes, torch.ones(len(boxes), dtype=torch.int64, device=boxes.device), likely))
        return found

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The two parts that choose between losses and results are told to give losses; their layers stay in evaluation mode."""
        with losses_in_evaluation(self.rpn, self.roi_heads):
            yield

    def _truth(self, target: Target) -> dict[str, Tensor]:
        return region_truth(target)


@contextmanager
def losses_in_evaluation(*parts: nn.Module) -> Iterator[None]:
    """Inside, these modules believe that they are trained, and their own parts do not."""
    before = [part.training for part in parts]
    try:
        for part in parts:
            part.training = True
        yield
    finally:
        for part, training in zip(parts, before, strict=True):
            part.training = training


def region_truth(target: Target) -> dict[str, Tensor]:
    """Boxes and labels by torchvision's names."""
    boxes, labels = boxes_and_labels(target)
    return {"boxes": boxes, "labels": labels}


def build_pyramid(config: PyramidHeadsConfig, in_channels: int) -> Pyramid:
    features = build_encoder(config.backbone, in_channels, config.weights, config.frozen_stages, config.encoder_halvings)
    return Pyramid(features, config.fpn_channels, nn.BatchNorm2d if config.heads == "v2" else None)


def _listed(images: Tensor, sizes: Sizes) -> Any:
    from torchvision.models.detection.image_list import ImageList

    return ImageList(images, sizes)


def _proposal_network(config: TwoStageConfig) -> Any:
    from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

    anchors = config.anchors or Anchors(sizes=Anchors().sizes[: len(config.strides)])
    head = RPNHead(config.fpn_channels, anchors.count, conv_depth=2 if config.heads == "v2" else 1)
    for layer in head.conv:  # a convolution and a ReLU each
        layer[0] = SparseGradientConv2d.of(layer[0])
    network = RegionProposalNetwork(
        LevelAnchors(anchors, config.strides),
        head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n=dict(zip(("training", "testing"), config.rpn_before_nms, strict=True)),
        post_nms_top_n=dict(zip(("training", "testing"), config.rpn_after_nms, strict=True)),
        nms_thresh=0.7,
    )
    network.fg_bg_sampler = BalancedSampler(config.rpn_samples, 0.5)
    return network


def box_heads(config: PyramidHeadsConfig, classes: int, pooling: nn.Module | None = None) -> Any:
    """The head that looks at boxes on a pyramid, with its losses and non-maximum suppression; ``pooling`` instead of RoIAlign."""
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.ops import MultiScaleRoIAlign

    width = config.fpn_channels
    if config.heads == "v2":
        head = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [config.representation], norm_layer=nn.BatchNorm2d)
    else:
        head = TwoMLPHead(width * 7**2, config.representation)
    heads = RoIHeads(
        pooling or MultiScaleRoIAlign(featmap_names=config.levels, output_size=7, sampling_ratio=2),
        head,
        FastRCNNPredictor(config.representation, classes + 1),  # torchvision's class 0 is background
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.roi_samples,
        positive_fraction=config.roi_positive,
        bbox_reg_weights=None,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms,
        detections_per_img=config.detections,
    )
    heads.fg_bg_sampler = BalancedSampler(config.roi_samples, config.roi_positive)
    return heads


def head_losses(
    heads: Any, features: Any, proposals: Sequence[Tensor], sizes: Sizes, truths: Sequence[dict[str, Tensor]], seeds: Sequence[int]
) -> dict[str, Tensor]:
    """Of :func:`box_heads`, by torchvision's names; ``seeds`` of each image say which proposals train."""
    heads.fg_bg_sampler.seeds = [seed + 1 for seed in seeds]  # others than those of the anchors
    _, losses = heads(features, list(proposals), sizes, truths)
    sampler = heads.fg_bg_sampler
    return over_processes(losses, {name: sampler.positives if name == "loss_mask" else sampler.total for name in losses})
