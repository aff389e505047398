"""What counts of a prediction and of the truth: what lies inside the field of view. One rule, for validation, evaluation and use."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.metrics.matching import touched
from pipeline.metrics.objects import ImageObjects
from pipeline.tasks.paste import blank
from pipeline.types import IGNORE, Prediction, Target

if TYPE_CHECKING:
    from torch import Tensor

Mask = npt.NDArray[np.bool_]


def restrict_to_fov(prediction: Prediction, valid: Mask) -> Prediction:
    """A prediction without what lies outside ``valid`` bool (H, W): pixels there, and objects whose centre is there.

    Beyond the field of view there is nothing to find, only the rim's edge to mistake for a vessel. An object's mask has no pixel
    beyond those that its box touches.
    """
    if valid.all():
        return prediction
    if prediction.probabilities is not None:
        prediction = replace(prediction, probabilities=prediction.probabilities * valid)
    boxes = prediction.boxes
    if boxes is None or prediction.labels is None or prediction.scores is None:
        return prediction
    kept = np.flatnonzero(centres_inside(boxes, valid))
    masks = None if prediction.instance_masks is None else _cut(prediction.instance_masks, boxes, kept, valid)
    return replace(prediction, boxes=boxes[kept], labels=prediction.labels[kept], scores=prediction.scores[kept], instance_masks=masks)


def target_in_fov(target: Target, valid: Mask) -> Target:
    """The same of what is true: objects whose centre is in ``valid``, and of their masks the pixels in it."""
    if target.boxes is None or target.labels is None or valid.all():
        return target
    import torch

    boxes = target.boxes.cpu().numpy()
    kept = np.flatnonzero(centres_inside(boxes, valid))
    masks = None
    if target.instance_masks is not None:
        masks = torch.from_numpy(_cut(target.instance_masks.cpu().numpy(), boxes, kept, valid))
    return replace(target, boxes=target.boxes[kept], labels=target.labels[kept], instance_masks=masks)


def objects_in_fov(prediction: Prediction, target: Target, valid: Tensor | None = None) -> ImageObjects:
    """What is true and what was found in ``valid`` bool (H, W) and is not ignored, masks as run lengths and only where both have them."""
    if prediction.instance_masks is None or target.instance_masks is None:
        prediction, target = replace(prediction, instance_masks=None), replace(target, instance_masks=None)
    if valid is None:
        return ImageObjects.of(prediction, target)
    counted = counted_area(target, valid.cpu().numpy())
    return ImageObjects.of(restrict_to_fov(prediction, counted), target_in_fov(target, counted), (counted.shape[0], counted.shape[1]))


def counted_area(target: Target, valid: Mask) -> Mask:
    """bool (H, W): ``valid`` without the pixels that the label says to ignore."""
    return valid if target.mask is None else valid & (target.mask.cpu().numpy() != IGNORE)


def centres_inside(boxes: npt.NDArray[np.float32], valid: Mask) -> npt.NDArray[np.bool_]:
    """bool (N): whether the pixel at the centre of each box (N, 4) xyxy lies in ``valid`` bool (H, W)."""
    columns, rows = ((boxes[:, axis] + boxes[:, axis + 2]) / 2 for axis in (0, 1))
    last_row, last_column = valid.shape[0] - 1, valid.shape[1] - 1
    return np.asarray(valid[rows.astype(int).clip(0, last_row), columns.astype(int).clip(0, last_column)])


def _cut(masks: Mask, boxes: npt.NDArray[np.float32], kept: npt.NDArray[np.intp], valid: Mask) -> Mask:
    # Only the boxes' own pixels are touched: a hundred whole masks of a large photograph would be more than a gigabyte.
    out = blank((len(kept), *valid.shape))
    for place, number in enumerate(kept):
        left, top, right, bottom = touched(boxes[number], (valid.shape[0], valid.shape[1]))
        out[place, top:bottom, left:right] = masks[number, top:bottom, left:right] & valid[top:bottom, left:right]
    return out
