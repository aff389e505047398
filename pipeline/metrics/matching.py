"""Which detection found which true object: overlaps, and the two rules by which a detection takes a truth.

Both rules are greedy: highest-scoring detection first, each truth taken once. So what is matched at a score threshold is the head of one
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


def encode_mask(mask: npt.NDArray[np.bool_], box: npt.ArrayLike | None = None) -> Rle:
    """Boolean mask (H, W) -> COCO run lengths, fit for JSON.

    ``box``: xyxy, beyond the pixels of which the mask is known to have none; they are not read then. Of a hundred objects in a
    photograph of 12 megapixels that is all that can be read in time.
    """
    from faster_coco_eval.core import mask as coco

    rows, columns = mask.shape
    left, top, right, bottom = (0, 0, columns, rows) if box is None else touched(box, (rows, columns))
    inside = mask[top:bottom, left:right]
    covered = np.flatnonzero(inside.any(axis=0))
    counts = [rows * columns]
    if len(covered):
        left, inside = left + int(covered[0]), inside[:, covered[0] : covered[-1] + 1]
        # COCO counts down the columns, each as if one row of nothing followed it: so runs end where their column does.
        apart = np.pad(inside, ((0, 1), (0, 0))).ravel(order="F")
        column, row = np.divmod(np.flatnonzero(np.diff(apart, prepend=False)), inside.shape[0] + 1)
        edges = (column + left) * rows + row + top
        # A run to the last row that goes on in the next column's first is one: its end and the other's beginning are the same place.
        places, times = np.unique(edges, return_counts=True)
        counts = np.diff(places[times == 1], prepend=0, append=rows * columns).tolist()
        counts = counts if counts[-1] else counts[:-1]
    packed = coco.frPyObjects({"size": [rows, columns], "counts": counts}, rows, columns)
    text = packed["counts"]
    return {"size": [rows, columns], "counts": text.decode() if isinstance(text, bytes) else text}


def touched(box: npt.ArrayLike, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the pixels of an image of ``size`` (rows, columns) that a box xyxy touches, half open."""
    corners = np.asarray(box, np.float64).reshape(2, 2)
    (left, top), (right, bottom) = np.clip([np.floor(corners[0]), np.ceil(corners[1])], 0, [size[1], size[0]]).astype(int).tolist()
    return left, top, right, bottom


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

    ``affinity`` (N, T) of detections, highest-scoring first; a detection takes the free truth of the highest affinity of at least
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
