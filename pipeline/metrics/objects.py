"""What is true and what was found in each image, which detection found what, and F1 by overlap and by centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.metrics.matching import IntArray, Rle, box_overlaps, centre_closeness, encode_mask, mask_overlaps, take_greedily
from pipeline.types import Prediction, Target

Kind = Literal["box", "mask"]
Hit = Literal["iou", "centre"]
MOST = 100
"""Detections ranked of one image and class; COCO's largest number."""

ANYWHERE = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """What is true and what was found in one image: all that detection scores need, small enough to keep for every image.

    ``size`` (rows, columns) · ``true_boxes`` float32 (T, 4), ``true_labels`` int64 (T) · ``boxes`` float32 (N, 4), ``labels`` int64
    (N), ``scores`` float32 (N) · ``true_masks`` and ``masks``: one COCO run-length mask an object, or None. Boxes are xyxy in source
    pixels, labels 1..K.
    """

    size: tuple[int, int]
    true_boxes: npt.NDArray[np.float32]
    true_labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    true_masks: list[Rle] | None = None
    masks: list[Rle] | None = None

    @classmethod
    def of(cls, prediction: Prediction, target: Target, size: tuple[int, int] | None = None) -> ImageObjects:
        """Prediction and target of one image, both in the source frame; no mask has a pixel that its box does not touch.

        ``size``: (rows, columns); left out, the size of whichever mask there is, else the smallest that holds every box.

        Raises
        ------
        ValueError: the prediction or the target has no boxes.
        """
        if prediction.boxes is None or prediction.labels is None or prediction.scores is None:
            raise ValueError("a detection prediction has boxes, labels and scores")
        if target.boxes is None or target.labels is None:
            raise ValueError("detection is scored against boxes and labels")
        true_boxes = target.boxes.cpu().numpy()
        for mask in (prediction.instance_masks, target.instance_masks, target.mask):
            if mask is not None and size is None:
                size = int(mask.shape[-2]), int(mask.shape[-1])
        if size is None:
            columns, rows = (int(np.ceil(max(np.max(b[:, k], initial=1) for b in (true_boxes, prediction.boxes)))) for k in (2, 3))
            size = rows, columns
        return cls(
            size,
            true_boxes,
            target.labels.cpu().numpy(),
            prediction.boxes,
            prediction.labels,
            prediction.scores,
            None if target.instance_masks is None else _encoded(target.instance_masks.cpu().numpy(), true_boxes),
            None if prediction.instance_masks is None else _encoded(prediction.instance_masks, prediction.boxes),
        )

    def both_masks(self) -> tuple[list[Rle], list[Rle]]:
        """Masks found and true masks.

        Raises
        ------
        ValueError: one of them is missing.
        """
        if (self.masks is None and len(self.boxes)) or (self.true_masks is None and len(self.true_boxes)):
            raise ValueError("masks are scored where every image has both true masks and masks found")
        return self.masks or [], self.true_masks or []


def _encoded(masks: npt.NDArray[np.bool_], boxes: npt.NDArray[np.float32]) -> list[Rle]:
    return [encode_mask(mask, box) for mask, box in zip(masks, boxes, strict=True)]


@dataclass(frozen=True)
class Counts:
    """True objects found (tp), detections of nothing (fp), true objects missed (fn). Adding two pools them."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN), None where there is no true object."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp + self.fn else None


@dataclass(frozen=True, eq=False)
class Ranked:
    """Detections of one class in many images, highest-scoring first (of equal scores, earlier images first).

    ``scores`` float32 (N) · ``taken`` int64 (N): the truth it took, or FREE, or REPEAT (:func:`~pipeline.metrics.matching.take_greedily`)
    · ``image`` int64 (N): which image · ``truths`` int64 (I): true objects of each image.
    """

    scores: npt.NDArray[np.float32]
    taken: IntArray
    image: IntArray
    truths: IntArray

    @property
    def hit(self) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = self.taken >= 0
        return found


def ranked(
    images: Sequence[ImageObjects], index: int, hit: Hit = "iou", kind: Kind = "box", iou: float = 0.5, most: int | None = MOST
) -> Ranked:
    """The detections of class ``index``, matched image by image and ranked over all of them.

    ``hit``: "iou" takes the free truth of the highest overlap of at least ``iou`` (of boxes or masks), "centre" the nearest free truth
    in whose box the detection's centre lies. ``most``: so many highest-scoring of an image, None for all.
    """
    scores, taken, truths = [], [], []
    for image in images:
        true, found = np.flatnonzero(image.true_labels == index), np.flatnonzero(image.labels == index)
        found = found[np.argsort(-image.scores[found], kind="stable")][:most]
        truths.append(len(true))
        scores.append(image.scores[found])
        if hit == "centre":
            affinity = centre_closeness(image.boxes[found], image.true_boxes[true])
        elif kind == "box":
            affinity = box_overlaps(image.boxes[found], image.true_boxes[true])
        else:
            masks, true_masks = image.both_masks()
            affinity = mask_overlaps([masks[n] for n in found], [true_masks[t] for t in true])
        taken.append(take_greedily(affinity, iou if hit == "iou" else ANYWHERE))
    every = np.concatenate([np.zeros(0, np.float32), *scores])
    order = np.argsort(-every, kind="stable")
    place = np.repeat(np.arange(len(images)), [len(s) for s in scores])
    return Ranked(every[order], np.concatenate([np.zeros(0, np.int64), *taken])[order], place[order], np.array(truths, np.int64))


def iou_hits(images: Sequence[ImageObjects], index: int, threshold: float, iou: float = 0.5, kind: Kind = "box") -> Counts:
    """Counts of class ``index`` over detections that score at least ``threshold``; one that overlaps a truth by ``iou`` hits it."""
    return _counts(ranked(images, index, "iou", kind, iou, most=None), threshold)


def centre_hits(images: Sequence[ImageObjects], index: int, threshold: float) -> Counts:
    """The same where a detection hits when its centre lies in a true box; a second one in that box is a false positive.

    For lesions of few pixels, whose overlap says more of the annotator's pen than of the finding.
    """
    return _counts(ranked(images, index, "centre", most=None), threshold)


def best_f1(images: Sequence[ImageObjects], index: int, hit: Hit = "iou", kind: Kind = "box") -> tuple[float, float] | None:
    """(score threshold, F1) where the pooled F1 of class ``index`` is best; None without a detection or a truth.

    The threshold lies halfway between the lowest score that counts and the next one, or 0: where hits and misses lie far apart, an
    object of another image that scores a little less than the lowest hit here is still found.
    """
    rank = ranked(images, index, hit, kind, most=None)
    total = int(rank.truths.sum())
    if not total or not len(rank.scores):
        return None
    found = np.cumsum(rank.hit)
    f1 = 2 * found / (np.arange(1, len(found) + 1) + total)
    # Detections of one score stand or fall together.
    f1[:-1][rank.scores[1:] == rank.scores[:-1]] = -1
    best = int(np.argmax(f1))
    lowest, below = rank.scores[best], rank.scores[best + 1] if best + 1 < len(rank.scores) else np.float32(0)
    between = (float(lowest) + float(below)) / 2
    # Neighbours in float32 have nothing between them; the shortest decimal that means the score survives a way through text.
    return between if below < np.float32(between) else float(str(lowest)), float(f1[best])


def _counts(rank: Ranked, threshold: float) -> Counts:
    # Greedy by falling score: what is matched at a threshold is the head of the list.
    hit = rank.hit[rank.scores >= threshold]
    tp = int(np.count_nonzero(hit))
    return Counts(tp, len(hit) - tp, int(rank.truths.sum()) - tp)
