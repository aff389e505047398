"""COCO JSON (https://cocodataset.org/#format-data) of a case beside its pictures: objects as they were found, or corrected; of a class that
is an area each connected piece, as compressed run lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

from pipeline.atomic import atomic_path, write_text
from pipeline.drawing.overlay import NOTICE
from pipeline.export.case import ExportCase, Settings
from pipeline.export.exporter import EXPORTERS, Document, LeftOut
from pipeline.inference.object_files import COCO_FILE
from pipeline.metrics.matching import encode_mask
from pipeline.review.corrected import CorrectedCase
from pipeline.review.reviewed import LabelledObject


@EXPORTERS.add("coco")
def export_coco(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """``coco.json`` and the pictures that it names."""
    if not case.label_map.classes:
        raise LeftOut("no model of the run finds anything in this kind of picture")
    for plane in case.case.planes:
        yield Document(plane.image, lambda path, name=plane.image: _copy(case.case.folder / name, path))  # type: ignore[misc]
    if case.run.objects and not case.reviewed.edited:
        yield Document(COCO_FILE, lambda path: _copy(case.case.folder / COCO_FILE, path))
    else:
        yield Document(COCO_FILE, lambda path: write_text(path, json.dumps(record(case), ensure_ascii=False) + "\n"))


def _copy(source: Path, path: Path) -> None:
    with atomic_path(path) as staged:
        copyfile(source, staged)


def record(case: ExportCase) -> dict[str, Any]:
    """The whole file."""
    rows, columns = case.case.geometry.plane
    labels = case.case.labels if isinstance(case.case, CorrectedCase) else None
    by_pixels = case.label_map.names if labels is None else labels.by_pixels
    annotations = [*_pieces(case, by_pixels), *(() if labels is None else _objects(case, labels.objects))]
    return {
        "info": {"description": f"found by ocuseg; {NOTICE}", "bundle_id": case.case.bundle_id, "review": case.reviewed.verdict},
        "categories": [{"id": cls.index, "name": cls.name} for cls in case.label_map.classes],
        "images": [{"id": at, "file_name": plane.image, "width": columns, "height": rows} for at, plane in enumerate(case.case.planes, 1)],
        "annotations": [{"id": number} | one for number, one in enumerate(annotations, 1)],
    }


def _pieces(case: ExportCase, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Of each plane and class among ``names`` the pieces that hang together, corners included."""
    from skimage.measure import label, regionprops

    for at in range(len(case.case.planes)):
        for cls, layer in zip(case.label_map.classes, case.layers(at), strict=True):
            if cls.name not in names:
                continue
            pieces = label(layer, connectivity=2)
            for piece in regionprops(pieces):
                top, left, bottom, right = (int(edge) for edge in piece.bbox)
                yield {
                    "image_id": at + 1,
                    "category_id": cls.index,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(piece.area),
                    "segmentation": encode_mask(pieces == piece.label, (left, top, right, bottom)),
                    "iscrowd": 0,
                }


def _objects(case: ExportCase, objects: Iterable[LabelledObject]) -> Iterator[dict[str, Any]]:
    from faster_coco_eval.core import mask as coco

    for one in objects:
        x1, y1, x2, y2 = one.box
        drawn = one.segmentation
        yield {
            "image_id": one.plane + 1,
            "category_id": case.label_map.names.index(one.name) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1) if drawn is None else int(coco.area(dict(drawn))),
            "segmentation": [] if drawn is None else dict(drawn),
            "iscrowd": 0,
        }
