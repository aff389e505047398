"""Found objects against true ones: a row an image and class, COCO's scores with intervals over patients, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.drawing.curves import draw_froc, draw_precision_recall
from pipeline.evaluation.summary import DRAWS, LEVEL, SEED
from pipeline.metrics.detection import DetectionScores, ap50_interval, average_precision
from pipeline.metrics.froc import froc
from pipeline.metrics.localisation import Located
from pipeline.metrics.objects import MOST, Counts, ImageObjects, centre_hits
from pipeline.metrics.overlap import Presence
from pipeline.metrics.proposals import recall
from pipeline.metrics.threshold import DEFAULT_THRESHOLD
from pipeline.tasks.detection import HITS
from pipeline.types import CaseKey, LabelMap

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ScoredPlane:
    """One picture, or one slice. ``objects`` are of the shared classes 1..K, inside the field of view on both sides.

    ``outside``: true objects whose centre lies outside it, which are not scored. ``proposals`` float32 (P, 4), highest-scoring first.
    """

    case: CaseKey
    plane: int
    objects: ImageObjects
    outside: int
    proposals: Boxes | None = None

    @classmethod
    def of(
        cls, case: CaseKey, plane: int, evidence: ImageObjects, shared: Shared, labelled: int, proposals: Boxes | None = None
    ) -> ScoredPlane:
        """From a task's evidence, in the bundle's labels, less the classes that only the bundle knows.

        ``labelled``: true objects of the shared classes, wherever they lie.
        """
        true, found = _renamed(evidence.true_labels, shared.ours), _renamed(evidence.labels, shared.ours)
        kept, stays = np.flatnonzero(true > 0), np.flatnonzero(found > 0)
        masks, true_masks = evidence.masks, evidence.true_masks
        objects = replace(
            evidence,
            true_boxes=evidence.true_boxes[kept],
            true_labels=true[kept],
            boxes=evidence.boxes[stays],
            labels=found[stays],
            scores=evidence.scores[stays],
            masks=None if masks is None else [masks[n] for n in stays],
            true_masks=None if true_masks is None else [true_masks[n] for n in kept],
        )
        return cls(case, plane, objects, labelled - len(kept), proposals)


@dataclass(frozen=True)
class Shared:
    """The classes that bundle and card share, by name, as a label map of their own, and the class of each under both."""

    label_map: LabelMap
    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    @classmethod
    def of(cls, names: Sequence[str], ours: LabelMap, theirs: LabelMap) -> Shared:
        places = [[label_map.names.index(name) for name in names] for label_map in (ours, theirs)]
        roles = [ours.roles[own] or theirs.roles[other] for own, other in zip(*places, strict=True)]
        classes = (
            replace(ours.classes[own], index=k, inside=None, role=role)
            for k, (own, role) in enumerate(zip(places[0], roles, strict=True), 1)
        )
        return cls(LabelMap(tuple(classes), ours.overlapping), tuple(p + 1 for p in places[0]), tuple(p + 1 for p in places[1]))

    def own_labels(self, classes: int) -> npt.NDArray[np.int64]:
        """int64 (classes + 1): the bundle's label of each of the card's, 0 of what the bundle does not know."""
        table = np.zeros(classes + 1, dtype=np.int64)
        table[list(self.theirs)] = self.ours
        return table


def object_table(planes: Sequence[ScoredPlane], names: Sequence[str], thresholds: Mapping[str, float]) -> list[list[str]]:
    """``objects.csv``: a heading, then one line a plane and class. Hits by box IoU of at least .50, and by centre."""
    lines = [["case", "patient", "plane", "class", "truth", "tp", "fp", "fn", "centre_tp", "centre_fp", "centre_fn"]]
    for scored in planes:
        for index, name in enumerate(names, 1):
            least = thresholds.get(name, DEFAULT_THRESHOLD)
            counts = [hits([scored.objects], index, least) for hits in HITS.values()]
            numbers = [counts[0].tp + counts[0].fn, *(n for c in counts for n in (c.tp, c.fp, c.fn))]
            lines.append([str(scored.case), scored.case.patient, str(scored.plane), name, *map(str, numbers)])
    return lines


def summarise_objects(
    planes: Sequence[ScoredPlane], label_map: LabelMap, thresholds: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.uint8]]]:
    """The value of ``summary["detection"]``, and pictures by file name.

    ``box`` and ``mask`` (None where either side has no masks): COCO's scores, with ``ap50_low`` and ``ap50_high`` (95 %, patients drawn
    with replacement, or None) beside ``ap50``, and the same by class under ``classes``. ``froc``, ``f1`` (box IoU
    .50) and ``f1_centre`` by class, ``located`` (metrics/localisation.py; None where a picture has several objects of a class),
    ``presence`` of a class's objects in the images (a hit by its centre is found), ``proposals`` (None where none were asked for).
    """
    images, patients = [p.objects for p in planes], [p.case.patient for p in planes]
    names, count = label_map.names, len(label_map)
    has_masks = bool(images) and all(i.masks is not None and i.true_masks is not None for i in images)
    boxes = average_precision(images, count)
    curves = {name: froc(images, index) for index, name in enumerate(names, 1)}
    detection: dict[str, Any] = {
        "images": len(images),
        "patients": len(set(patients)),
        "most_detections": MOST,
        "box": _coco(boxes, images, patients, label_map),
        "mask": _coco(average_precision(images, count, "mask"), images, patients, label_map) if has_masks else None,
        "froc": {name: None if curve is None else curve.to_json() for name, curve in curves.items()},
    }
    for name, hits in HITS.items():
        least = {cls: thresholds.get(cls, DEFAULT_THRESHOLD) for cls in names}
        detection[name] = {cls: _f1(hits(images, index, least[cls]), least[cls]) for index, cls in enumerate(names, 1)}
    counted = {
        cls: [centre_hits([image], index, thresholds.get(cls, DEFAULT_THRESHOLD)) for image in images] for index, cls in enumerate(names, 1)
    }
    detection["located"] = {name: Located.of(images, patients, k).to_json(DRAWS, SEED, LEVEL) for k, name in enumerate(names, 1)}
    detection["presence"] = {cls: asdict(Presence.of(counts)) for cls, counts in counted.items()}
    proposed = [p.proposals for p in planes if p.proposals is not None]
    detection["proposals"] = None
    if proposed:
        truths = [(i.true_boxes, i.true_labels) for i in images]
        detection["proposals"] = recall(proposed, truths, count).to_json(names)
    pictures = {"precision_recall.png": draw_precision_recall(boxes, label_map)}
    pictures["froc.png"] = draw_froc({name: curve for name, curve in curves.items() if curve is not None}, label_map)
    return detection, pictures


def _coco(scores: DetectionScores, images: Sequence[ImageObjects], patients: Sequence[str], label_map: LabelMap) -> dict[str, Any]:
    out = scores.to_json(label_map.names)
    # Classes stand where those of the pixels' scores stand: summary["classes"], summary["detection"]["box"]["classes"].
    classes = out.pop("by_class")
    drawn = ap50_interval(images, patients, len(label_map), draws=DRAWS, seed=SEED, level=LEVEL, kind=scores.kind)
    for index, name in enumerate(label_map.names, 1):
        classes[name] |= _ends(drawn.by_class[index][1])
    return out | _ends(drawn.interval) | {"classes": classes}


def _ends(interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval if interval is not None else (None, None)
    return {"ap50_low": low, "ap50_high": high}


def _f1(counts: Counts, threshold: float) -> dict[str, float | None]:
    return {"f1": counts.f1, "threshold": threshold, "tp": counts.tp, "fp": counts.fp, "fn": counts.fn}


def _renamed(labels: npt.NDArray[np.int64], known: Sequence[int]) -> npt.NDArray[np.int64]:
    """The bundle's labels -> shared classes 1..K, 0 for those that are not shared."""
    table = np.zeros(max([*known, *labels.tolist(), 0]) + 1, dtype=np.int64)
    table[list(known)] = np.arange(1, len(known) + 1)
    return table[labels]
