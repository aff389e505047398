"""How well objects are found: COCO's average precision and recall, VOC's area under the curve, F1 by overlap and by centre.

COCO (Lin et al. 2014, arXiv:1405.0312) is computed by faster-coco-eval. It ranks the 100 highest-scoring detections of an image and
class; areas that make an object small (below 32 x 32 pixels), medium or large (from 96 x 96) are those of the box for boxes and of
the mask for masks, in source pixels. What has no meaning (the average precision of a class without a true object) is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.interval import FEWEST_PATIENTS
from pipeline.metrics.matching import FloatArray, IntArray
from pipeline.metrics.objects import MOST, Counts, ImageObjects, Kind, Ranked, best_f1, centre_hits, iou_hits, ranked

__all__ = [
    "Ap50Interval",
    "Counts",
    "DetectionScores",
    "ImageObjects",
    "ap50_interval",
    "average_precision",
    "best_f1",
    "centre_hits",
    "iou_hits",
    "voc_average_precision",
]

_RECALLS = np.linspace(0.0, 1.0, 101)
_BLOCK = 2_000_000
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


@dataclass(frozen=True)
class DetectionScores:
    """COCO's numbers in 0..1, over classes with a true object; None where there is none.

    ``ap``: IoU .50 to .95 in steps of .05 · ``ap50``, ``ap75``: at one IoU · ``ap_by_size``: small, medium, large · ``ar``: mean recall
    over the same IoUs, at most 1, 10, 100 detections an image · ``ar_by_size`` · ``by_class``: class index to ``objects`` (how many are
    true) and the same scores (``ap``, ``ap50``, ``ap75``, ``ap_small``, ..., ``ar_1``, ..., ``ar_small``, ..., ``voc_ap50``) ·
    ``curves``: class index to (recall, precision) after each detection at
    IoU .50, float64, only of classes with a true object.
    """

    kind: Kind
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_by_size: Mapping[str, float | None]
    ar: Mapping[int, float | None]
    ar_by_size: Mapping[str, float | None]
    by_class: Mapping[int, Mapping[str, float | None]]
    curves: Mapping[int, tuple[FloatArray, FloatArray]] = field(repr=False)

    @property
    def voc_ap50(self) -> dict[int, float | None]:
        """Class index -> VOC's area under its curve at IoU .50."""
        return {index: values["voc_ap50"] for index, values in self.by_class.items()}

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """All but the curves, classes by name (``names`` of the classes 1..K)."""
        out: dict[str, Any] = {"ap": self.ap, "ap50": self.ap50, "ap75": self.ap75}
        out |= {f"ap_{size}": value for size, value in self.ap_by_size.items()}
        out |= {f"ar_{most}": value for most, value in self.ar.items()}
        out |= {f"ar_{size}": value for size, value in self.ar_by_size.items()}
        return out | {"by_class": {names[index - 1]: dict(values) for index, values in self.by_class.items()}}


def voc_average_precision(recall: npt.ArrayLike, precision: npt.ArrayLike) -> float:
    """Area under a precision-recall curve, precision made to fall: all-point interpolation, VOC since 2010.

    Everingham et al. 2010, doi:10.1007/s11263-009-0275-4. ``recall`` and ``precision`` (N) after each detection, highest-scoring first.
    """
    steps = np.diff(np.asarray(recall, np.float64), prepend=0.0)
    envelope = np.maximum.accumulate(np.asarray(precision, np.float64)[::-1])[::-1]
    return float(np.sum(steps * envelope))


def average_precision(images: Sequence[ImageObjects], classes: int, kind: Kind = "box") -> DetectionScores:
    """COCO's scores of classes 1..K, with VOC's area under each class's curve at IoU .50 beside them.

    The curve and its area use COCO's matching too, where a detection that overlaps a truth already taken may take another one.

    Raises
    ------
    ValueError: ``kind`` is "mask" and an image has no masks.
    """
    precision, recall = _coco(images, classes, kind)
    ap, ar = (lambda *at: _mean(precision[at])), (lambda *at: _mean(recall[at]))
    every, areas, mosts = slice(None), {size: place + 1 for place, size in enumerate(SIZES)}, {1: 0, 10: 1, MOST: 2}
    by_class: dict[int, dict[str, float | None]] = {}
    curves: dict[int, tuple[FloatArray, FloatArray]] = {}
    for index in range(1, classes + 1):
        k, rank = index - 1, ranked(images, index, "iou", kind)
        total = int(rank.truths.sum())
        values: dict[str, float | None] = {"objects": total}
        values |= {"ap": ap(every, every, k, 0, 2), "ap50": ap(0, every, k, 0, 2), "ap75": ap(5, every, k, 0, 2)}
        values |= {f"ap_{size}": ap(every, every, k, area, 2) for size, area in areas.items()}
        values |= {f"ar_{most}": ar(every, k, 0, place) for most, place in mosts.items()}
        values |= {f"ar_{size}": ar(every, k, area, 2) for size, area in areas.items()}
        if total:
            found = np.cumsum(rank.hit)
            curves[index] = found / total, found / np.arange(1, len(found) + 1)
        by_class[index] = values | {"voc_ap50": voc_average_precision(*curves[index]) if total else None}
    return DetectionScores(
        kind,
        ap(every, every, every, 0, 2),
        ap(0, every, every, 0, 2),
        ap(5, every, every, 0, 2),
        {size: ap(every, every, every, area, 2) for size, area in areas.items()},
        {most: ar(every, every, 0, place) for most, place in mosts.items()},
        {size: ar(every, every, area, 2) for size, area in areas.items()},
        by_class,
        curves,
    )


@dataclass(frozen=True)
class Ap50Interval:
    """COCO's AP@.50 and its interval (low, high): the mean over classes, and of each class. None where undefined."""

    ap50: float | None
    interval: tuple[float, float] | None
    by_class: Mapping[int, tuple[float | None, tuple[float, float] | None]]


def ap50_interval(
    images: Sequence[ImageObjects],
    patients: Sequence[str],
    classes: int,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    kind: Kind = "box",
) -> Ap50Interval:
    """AP@.50 with its percentile interval, drawing patients (one name an image) with replacement.

    Each image is matched once; a draw only says how often each detection and each truth counts. A draw without a true object of a
    class leaves that class out, as COCO's mean does. No interval with fewer than FEWEST_PATIENTS.
    """
    if len(images) != len(patients):
        raise ValueError(f"{len(images)} images, but patients of {len(patients)}")
    if not images:
        return Ap50Interval(None, None, dict.fromkeys(range(1, classes + 1), (None, None)))
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level {level} must lie between 0 and 1, and draws {draws} above 0")
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    once = np.ones((1, len(names)))
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    ranks = [ranked(images, index, "iou", kind) for index in range(1, classes + 1)]
    values = np.stack([_ap50(rank, patient, once) for rank in ranks], axis=1)
    drawn = np.stack([_ap50(rank, patient, times.astype(np.float64)) for rank in ranks], axis=1)

    def interval(column: FloatArray) -> tuple[float, float] | None:
        known = column[~np.isnan(column)]
        if len(names) < FEWEST_PATIENTS or not known.size:
            return None
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    means = [_mean(np.nan_to_num(row, nan=-1.0)) for row in np.concatenate([values, drawn])]
    return Ap50Interval(
        means[0],
        interval(np.array([np.nan if mean is None else mean for mean in means[1:]])),
        {k + 1: (_mean(np.nan_to_num(values[:, k], nan=-1.0)), interval(drawn[:, k])) for k in range(classes)},
    )


def _ap50(rank: Ranked, patient: IntArray, times: FloatArray) -> FloatArray:
    """COCO's average precision of each draw (D), NaN without a truth; ``times`` (D, P) says how often each patient was drawn."""
    out = np.full(len(times), np.nan)
    block = max(1, _BLOCK // max(1, len(rank.scores)))
    for start in range(0, len(times), block):
        counted = times[start : start + block][:, patient]
        truths = counted @ rank.truths
        weights = counted[:, rank.image]
        seen = np.cumsum(weights, axis=1)[:, rank.hit]
        found = np.cumsum(weights[:, rank.hit], axis=1)
        # Precision can only peak at a hit, so hits alone make the curve; spacing(1) is COCO's guard against 0 / 0.
        precision = found / (seen + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / np.maximum(truths, 1)[:, None]
        # How many of COCO's 101 recalls each hit is the first to reach.
        reached = np.searchsorted(_RECALLS, recall, side="right")
        sums = np.sum(np.diff(reached, axis=1, prepend=0) * envelope, axis=1) / len(_RECALLS)
        out[start : start + block] = np.where(truths > 0, sums, np.nan)
    return out


def _coco(images: Sequence[ImageObjects], classes: int, kind: Kind) -> tuple[FloatArray, FloatArray]:
    """Precision (IoUs, 101 recalls, K, areas, most detections) and recall (IoUs, K, areas, most detections); -1 is undefined."""
    if not any(len(image.true_boxes) for image in images):
        return np.full((10, 101, classes, 4, 3), -1.0), np.full((10, classes, 4, 3), -1.0)
    from faster_coco_eval import COCO, COCOeval_faster

    def annotations(true: bool) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for number, image in enumerate(images, 1):
            boxes, labels = (image.true_boxes, image.true_labels) if true else (image.boxes, image.labels)
            corners = boxes.astype(np.float64)
            spans = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
            entries = [
                {"image_id": number, "category_id": label, "bbox": span, "area": span[2] * span[3], "iscrowd": 0}
                for label, span in zip(labels.tolist(), spans.tolist(), strict=True)
            ]
            if kind == "mask":
                from faster_coco_eval.core import mask as coco

                masks = image.both_masks()[1 if true else 0]
                for entry, mask, area in zip(entries, masks, coco.area(masks) if masks else (), strict=True):
                    entry |= {"segmentation": mask, "area": float(area)}
            if not true:
                for entry, score in zip(entries, image.scores.tolist(), strict=True):
                    entry["score"] = score
            out += entries
        # Ids start at 1: to COCO's code, 0 means "not matched".
        return [entry | {"id": place} for place, entry in enumerate(out, 1)]

    described = {
        "images": [{"id": number, "height": image.size[0], "width": image.size[1]} for number, image in enumerate(images, 1)],
        "categories": [{"id": index, "name": str(index)} for index in range(1, classes + 1)],
    }
    quiet = lambda *_: None  # noqa: E731
    truth, found = (COCO({**described, "annotations": annotations(true)}, print_function=quiet) for true in (True, False))
    run = COCOeval_faster(truth, found, {"box": "bbox", "mask": "segm"}[kind], print_function=quiet)
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def _mean(values: FloatArray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
