"""The objects of a detection bundle on the disk: ``objects.json``, images of instance ids, and COCO JSON for other programs.

One numbering serves all three: an object's id in ``objects.json`` is its pixel value in the instance images and, within the
case's ``coco.json``, its annotation id. COCO: https://cocodataset.org/#format-data, with a ``score`` for each annotation as in
COCO's results, and masks as compressed run lengths.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.atomic import atomic_path
from pipeline.metrics.matching import encode_mask, touched
from pipeline.metrics.threshold import DEFAULT_THRESHOLD
from pipeline.scans.raster import write_png
from pipeline.types import Geometry, LabelClass, LabelMap, Prediction
from pipeline.types.case_record import CaseRecord, ObjectRecord, ObjectsRecord

log = logging.getLogger(__name__)

COCO_FILE = "coco.json"
MOST = int(np.iinfo(np.uint16).max)
"""Objects of one case that can have an id in a 16-bit image."""


@dataclass(frozen=True, eq=False)
class FoundObject:
    """One object of one plane. ``box`` xyxy in source pixels; ``mask`` compressed COCO run lengths of the plane, or None."""

    plane: int
    label: int
    score: float
    box: tuple[float, float, float, float]
    mask: str | None


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """All objects of one case, in descending order of score: the first has id 1. ``thresholds`` by the name of each class that is found
    as objects; ``has_masks``: some have one."""

    objects: tuple[FoundObject, ...]
    has_masks: bool
    thresholds: Mapping[str, float]

    @classmethod
    def of(
        cls, planes: Sequence[Sequence[FoundObject]], has_masks: bool, label_map: LabelMap, thresholds: Mapping[str, float]
    ) -> FoundObjects:
        """The objects of all planes under one numbering; beyond :data:`MOST` those of the lowest scores are left out."""
        known = {name: float(thresholds.get(name, DEFAULT_THRESHOLD)) for name in label_map.names}
        return cls.ranked([found for plane in planes for found in plane], has_masks, known)

    @classmethod
    def ranked(cls, objects: Sequence[FoundObject], has_masks: bool, thresholds: Mapping[str, float]) -> FoundObjects:
        """The highest-scoring ``MOST`` objects in their order."""
        return cls(tuple(sorted(objects, key=lambda found: -found.score)[:MOST]), has_masks, thresholds)

    def counted(self, cls: LabelClass) -> list[tuple[int, FoundObject]]:
        """(id, object) of one class, at or above its threshold."""
        least = self.thresholds.get(cls.name)
        if least is None:
            return []
        return [(number, o) for number, o in enumerate(self.objects, 1) if o.label == cls.index and o.score >= least]


def compact(prediction: Prediction, plane: int) -> list[FoundObject]:
    """The objects of one plane's prediction in few bytes, so that those of a long volume fit into memory."""
    if prediction.boxes is None or prediction.labels is None or prediction.scores is None:
        raise ValueError("a detection has boxes, labels and scores")
    out = []
    for index, (box, label, score) in enumerate(zip(prediction.boxes, prediction.labels, prediction.scores, strict=True)):
        mask = None
        if prediction.instance_masks is not None:
            mask = str(encode_mask(prediction.instance_masks[index], box)["counts"])
        x1, y1, x2, y2 = (_short(value) for value in box)
        out.append(FoundObject(plane, int(label), _short(score), (x1, y1, x2, y2), mask))
    return out


def write_objects(
    folder: Path, found: FoundObjects, label_map: LabelMap, geometry: Geometry, bundle_id: str, pictures: Sequence[str]
) -> None:
    """Write ``objects.json``, ``coco.json`` and, of objects with masks, ``instances_<plane>_<class index>.png`` (uint16) of a case.

    ``pictures``: the file of each plane in ``folder``.

    An instance image holds the ids of the objects at or above their class's threshold, 0 elsewhere; where two overlap, the
    one with the higher score.
    """
    names = {cls.index: cls.name for cls in label_map.classes}
    areas = [_area(o, geometry) for o in found.objects]
    rows = [
        ObjectRecord.model_validate(
            {
                "id": number,
                "plane": o.plane,
                "class": names[o.label],
                "score": o.score,
                "box": o.box,
                "area_px": area,
                "size_mm": _size_mm(o, geometry),
            }
        )
        for number, (o, area) in enumerate(zip(found.objects, areas, strict=True), 1)
    ]
    ObjectsRecord(has_masks=found.has_masks, thresholds=dict(found.thresholds), objects=tuple(rows)).write(folder)
    coco = _coco(found, areas, label_map, geometry, bundle_id, pictures)
    (folder / COCO_FILE).write_text(json.dumps(coco, ensure_ascii=False) + "\n", "utf-8")
    if not found.has_masks:
        return
    for cls in label_map.classes:
        if cls.name not in found.thresholds:
            continue
        counted = found.counted(cls)
        for plane in range(geometry.slices):
            own = [(number, o) for number, o in counted if o.plane == plane]
            write_png(folder / f"instances_{plane:03d}_{cls.index}.png", _ids(own, geometry.plane))


def gather_coco(out: Path) -> None:
    """Write ``out/coco.json``, atomically: the objects of every finished case, one case in memory at a time.

    Cases of several bundles number their own classes; here each name has one number.
    """
    cases: list[Path] = []
    info: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for folder in sorted((out / "cases").iterdir()):
        if folder.is_dir() and (part := _part(folder)) is not None:
            cases.append(folder)
            info = info or part["info"]
            for category in part["categories"]:
                numbers.setdefault(category["name"], len(numbers) + 1)
    with atomic_path(out / COCO_FILE, durable=True) as staged, staged.open("w", encoding="utf-8") as file:
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        start = json.dumps({"info": info, "categories": categories}, ensure_ascii=False)
        file.write(start[:-1] + ', "images": [')
        images = 0
        for case, part in _parts(cases):
            for image in part["images"]:
                row = image | {"id": image["id"] + images, "file_name": f"cases/{case}/{image['file_name']}"}
                file.write(("," if row["id"] > 1 else "") + "\n" + json.dumps(row, ensure_ascii=False))
            images += len(part["images"])
        file.write('],\n"annotations": [')
        images = annotations = 0
        for _, part in _parts(cases):
            names = {category["id"]: category["name"] for category in part["categories"]}
            for found in part["annotations"]:
                annotations += 1
                number = numbers[names[found["category_id"]]]
                row = found | {"id": annotations, "image_id": found["image_id"] + images, "category_id": number}
                file.write(("," if annotations > 1 else "") + "\n" + json.dumps(row, ensure_ascii=False))
            images += len(part["images"])
        file.write("]}\n")


def _parts(cases: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case's name and its own COCO record."""
    for case in cases:
        part = _part(case)
        if part is not None:
            yield case.name, part


def _part(case: Path) -> dict[str, Any] | None:
    """The COCO record of a case; None where no bundle looked for objects, or where somebody spoilt it, which is said."""
    try:
        part: dict[str, Any] = json.loads((case / COCO_FILE).read_text(encoding="utf-8"))
        if {"info", "categories", "images", "annotations"} <= part.keys():
            return part
    except FileNotFoundError:
        if not _has_objects(case):
            return None
    except (OSError, ValueError, AttributeError):
        pass
    log.warning(
        "case %s: %s is missing or damaged and is left out of the whole; remove the case's folder and predict again",
        case.name,
        COCO_FILE,
    )
    return None


def _has_objects(case: Path) -> bool:
    """Whether the record of a case, where it can be read, has a class that was looked for as objects."""
    try:
        return any(found.objects is not None for found in CaseRecord.read(case).classes.values())
    except (OSError, ValueError):
        return True


def _coco(
    found: FoundObjects,
    areas: Sequence[int | None],
    label_map: LabelMap,
    geometry: Geometry,
    bundle_id: str,
    pictures: Sequence[str],
) -> dict[str, Any]:
    rows, columns = geometry.plane
    annotations = []
    for number, (o, area) in enumerate(zip(found.objects, areas, strict=True), 1):
        x1, y1, x2, y2 = o.box
        width, height = round(x2 - x1, 4), round(y2 - y1, 4)
        annotations.append(
            {
                "id": number,
                "image_id": o.plane + 1,
                "category_id": o.label,
                "bbox": [x1, y1, width, height],
                "area": round(width * height, 4) if area is None else area,
                "segmentation": [] if o.mask is None else {"size": [rows, columns], "counts": o.mask},
                "iscrowd": 0,
                "score": o.score,
            }
        )
    return {
        "info": {"description": "objects found by ocuseg; research use, not for diagnosis", "bundle_id": bundle_id},
        "categories": [{"id": cls.index, "name": cls.name} for cls in label_map.classes],
        "images": [{"id": number, "file_name": name, "width": columns, "height": rows} for number, name in enumerate(pictures, 1)],
        "annotations": annotations,
    }


def _ids(counted: Sequence[tuple[int, FoundObject]], shape: tuple[int, int]) -> npt.NDArray[np.uint16]:
    from faster_coco_eval.core import mask as run_lengths

    ids = np.zeros(shape, dtype=np.uint16)
    for number, found in reversed(counted):  # the higher-scoring later, over the others
        if found.mask is None:
            continue
        left, top, right, bottom = touched(found.box, shape)
        inside = run_lengths.decode({"size": list(shape), "counts": found.mask})[top:bottom, left:right]
        ids[top:bottom, left:right][inside.astype(bool)] = number
    return ids


def _area(found: FoundObject, geometry: Geometry) -> int | None:
    from faster_coco_eval.core import mask as run_lengths

    if found.mask is None:
        return None
    return int(run_lengths.area({"size": list(geometry.plane), "counts": found.mask}))


def _size_mm(found: FoundObject, geometry: Geometry) -> tuple[float, float] | None:
    pixel_mm = geometry.trusted().pixel_mm
    if pixel_mm is None:
        return None
    row_mm, column_mm = pixel_mm
    x1, y1, x2, y2 = found.box
    return round((x2 - x1) * column_mm, 4), round((y2 - y1) * row_mm, 4)


def _short(value: np.floating[Any]) -> float:
    """The shortest decimal that means this float32: 0.9 and not 0.8999999761581421, and on the same side of a threshold of 0.9."""
    return float(str(np.float32(value)))
