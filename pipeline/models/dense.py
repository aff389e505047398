"""What RetinaNet and SSD share: anchors at every place of every feature map, matched in training, sorted out in prediction (as YOLOv3's).

Boxes are float32 xyxy in pixels of the padded tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.models.detector import Detections, FrozenStages, NMSConfig, boxes_and_labels
from pipeline.types import Target

BACKGROUND, BETWEEN = -1, -2
CANDIDATES = 1000  # so many of an image's highest-scoring boxes, of all levels and classes, may suppress each other
LARGEST_GROWTH = math.log(1000 / 16)  # of an anchor's side: exp() of an untrained network must stay finite


class DenseConfig(NMSConfig):
    """What the two are told in common."""

    frozen_stages: FrozenStages = 2


def group_norm(width: int) -> nn.Module:
    """Normalisation by up to eight groups of at least eight channels (``width`` is a multiple of eight): a map may be a single pixel."""
    return nn.GroupNorm(min(8, width // 8), width)


def match(boxes: Tensor, candidates: Tensor, foreground: float, background: float) -> Tensor:
    """Index of each anchor's object, int64 (A): the one it overlaps most by at least ``foreground`` (intersection over union), BACKGROUND
    below ``background``, BETWEEN otherwise. Each object also gets its best anchor, however small the overlap, unless that is
    another object's best and overlaps it more."""
    from torchvision.ops import box_iou

    if len(boxes) == 0:
        return torch.full((len(candidates),), BACKGROUND, device=candidates.device)
    overlap = box_iou(boxes, candidates)
    best, index = overlap.max(dim=0)
    index = torch.where(best < background, BACKGROUND, torch.where(best < foreground, BETWEEN, index))
    # A small object lies wholly inside many anchors, all of one overlap: of those the nearest centre is its own.
    distance = torch.cdist(boxes[:, :2] + boxes[:, 2:], candidates[:, :2] + candidates[:, 2:])
    own = (overlap - 1e-6 * distance).argmax(dim=1)
    claims = torch.full_like(overlap, -1).scatter(1, own[:, None], overlap.gather(1, own[:, None]))
    most, claimant = claims.max(dim=0)
    return torch.where(most >= 0, claimant, index)


def assign(targets: Sequence[Target], candidates: Tensor, foreground: float, background: float) -> tuple[Tensor, Tensor, Tensor]:
    """What each anchor of a batch is to say: index int64 (B, A) as :func:`match` gives it, and its object's box encoded, (B, A, 4), and
    label (B, A), 1..K; both mean something only where the index is an object's.

    All of one size, so that nothing waits until the device has counted the positive ones.
    """
    indices, codes, kinds = [], [], []
    for target in targets:
        boxes, labels = boxes_and_labels(target)
        index = match(boxes, candidates, foreground, background)
        indices.append(index)
        own = index.clamp(min=0)
        codes.append(encode(boxes[own] if len(boxes) else candidates, candidates))
        kinds.append(labels[own] if len(boxes) else torch.ones_like(own))
    return torch.stack(indices), torch.stack(codes), torch.stack(kinds)


def encode(boxes: Tensor, candidates: Tensor) -> Tensor:
    """Boxes (N, 4) relative to their anchors (N, 4): centre's offset in anchor sides, logarithm of the sides' ratio (Faster R-CNN)."""
    size, other = boxes[:, 2:] - boxes[:, :2], candidates[:, 2:] - candidates[:, :2]
    offset = (boxes[:, :2] + boxes[:, 2:] - candidates[:, :2] - candidates[:, 2:]) / 2
    return torch.cat([offset / other, (size / other).log()], dim=1)


def decode(codes: Tensor, candidates: Tensor) -> Tensor:
    """The inverse of :func:`encode` for codes (..., N, 4)."""
    other = candidates[:, 2:] - candidates[:, :2]
    centre = (candidates[:, :2] + candidates[:, 2:]) / 2 + codes[..., :2] * other
    half = codes[..., 2:].clamp(max=LARGEST_GROWTH).exp() * other / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def select(boxes: Tensor, scores: Tensor, size: tuple[int, int], config: NMSConfig) -> Detections:
    """The objects of one image of (rows, columns) ``size``, highest-scoring first, from boxes (A, 4) and scores (A, K)."""
    from torchvision.ops import batched_nms, clip_boxes_to_image

    flat = scores.flatten()
    best, place = flat.topk(min(CANDIDATES, int((flat > config.score_threshold).sum())))
    box, label = clip_boxes_to_image(boxes[place // scores.shape[1]], size), place % scores.shape[1] + 1
    real = (box[:, 2:] - box[:, :2]).amin(dim=1) > 1e-3  # a box beside the image has no area in it
    box, label, best = box[real], label[real], best[real]
    keep = batched_nms(box, best, label, config.nms)[: config.detections]
    return Detections(box[keep], label[keep], best[keep])


def part_of_count(count: Tensor) -> Tensor:
    """What the losses of a batch are to be divided by where ``count`` of its places hold objects; float, more than 0.

    Of several processes that train together it is each one's equal part of the count in all of their batches, so that the mean of their
    gradients is the gradient of one batch that holds all of their images. Validation, where each has images of its own, counts alone.
    """
    if not (torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count.clamp(min=1)
    whole = count.to(torch.float32, copy=True)
    torch.distributed.all_reduce(whole)
    return whole.clamp(min=1) / torch.distributed.get_world_size()
