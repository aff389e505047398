"""Which detection found which true object: overlaps, and the two rules by which a detection takes a truth.

Both rules are greedy: likeliest detection first, each truth taken once. So what is matched at a score threshold is the head of one
list, and a single pass serves every threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Rle = dict[str, Any]
"""A mask as COCO's compressed run lengths: {"size": [rows, columns], "counts": str}."""

FREE, REPEAT = -1, -2


def encode_mask(mask: npt.NDArray[np.bool_]) -> Rle:
    """Boolean mask (H, W) -> COCO run lengths, fit for JSON. Only the columns that the object covers are read through."""
    from faster_coco_eval.core import mask as coco

    rows, columns = mask.shape
    covered = np.flatnonzero(mask.any(axis=0))
    counts = [rows * columns]
    if len(covered):
        # COCO counts down the columns; a slab of whole columns keeps those positions but for an offset.
        slab = mask[:, covered[0] : covered[-1] + 1].ravel(order="F")
        edges = np.flatnonzero(np.diff(slab, prepend=False, append=False)) + int(covered[0]) * rows
        counts = np.diff(edges, prepend=0, append=rows * columns).tolist()
        counts = counts if counts[-1] else counts[:-1]
    packed = coco.frPyObjects({"size": [rows, columns], "counts": counts}, rows, columns)
    text = packed["counts"]
    return {"size": [rows, columns], "counts": text.decode() if isinstance(text, bytes) else text}


def box_overlaps(boxes: npt.ArrayLike, truths: npt.ArrayLike) -> FloatArray:
    """IoU (N, T) of boxes (N, 4) with boxes (T, 4), xyxy, in float64 as COCO computes it; an empty box overlaps nothing."""
    left, right = np.asarray(boxes, np.float64).reshape(-1, 1, 4), np.asarray(truths, np.float64).reshape(1, -1, 4)
    sides = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    both = np.prod(sides.clip(min=0), axis=-1)
    either = np.prod(left[..., 2:] - left[..., :2], axis=-1) + np.prod(right[..., 2:] - right[..., :2], axis=-1) - both
    overlaps: FloatArray = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return overlaps


def mask_overlaps(masks: list[Rle], truths: list[Rle]) -> FloatArray:
    """IoU (N, T) of masks in COCO's run lengths."""
    if not masks or not truths:
        return np.zeros((len(masks), len(truths)))
    from faster_coco_eval.core import mask as coco

    return np.asarray(coco.iou(masks, truths, [0] * len(truths)), np.float64).reshape(len(masks), len(truths))


def centre_closeness(boxes: npt.ArrayLike, truths: npt.ArrayLike) -> FloatArray:
    """(N, T): 0 where the centre of box n lies outside box t, else 1 / (1 + distance of the two centres in pixels)."""
    centre = _centres(boxes)[:, None]
    true_boxes = np.asarray(truths, np.float64).reshape(1, -1, 4)
    inside = ((centre >= true_boxes[..., :2]) & (centre < true_boxes[..., 2:])).all(axis=-1)
    distance = np.linalg.norm(centre - _centres(truths)[None], axis=-1)
    closeness: FloatArray = np.where(inside, 1 / (1 + distance), 0.0)
    return closeness


def take_greedily(affinity: FloatArray, least: float) -> IntArray:
    """Which truth each detection takes, (N): its index, REPEAT where only taken ones are near enough, FREE where none is.

    ``affinity`` (N, T) of detections, likeliest first; a detection takes the free truth of the highest affinity of at least
    ``least``, the last one where several are equal (as COCO's own code does).
    """
    taken = np.full(len(affinity), FREE, np.int64)
    if not affinity.size:
        return taken
    near = affinity >= min(least, 1 - 1e-10)
    free = np.ones(affinity.shape[1], dtype=bool)
    for place in np.flatnonzero(near.any(axis=1)):
        choices = np.flatnonzero(near[place] & free)
        if not len(choices):
            taken[place] = REPEAT
            continue
        values = affinity[place, choices]
        taken[place] = choices[len(values) - 1 - int(np.argmax(values[::-1]))]
        free[taken[place]] = False
    return taken


def _centres(boxes: npt.ArrayLike) -> FloatArray:
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return (corners[:, :2] + corners[:, 2:]) / 2
