"""The files of a labelled set that hold many cases: who was rejected, and the boxes of all images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import write_text
from pipeline.review.reviewed import LabelledObject
from pipeline.review.state import ReviewState

REJECTED = "rejected.csv"


def write_rejected(folder: Path, rejected: Sequence[tuple[str, ReviewState]], accepted: Iterable[str]) -> None:
    """``quality`` 1: for its quality, which a model that grades photographs may learn from. What was ``accepted`` since is taken out."""
    path = folder / REJECTED
    rows: dict[str, list[str]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = {row[0]: row for row in list(csv.reader(file))[1:] if row}
    for name in accepted:
        rows.pop(name, None)
    for name, state in rejected:
        quality = str(int("quality" in state.reasons))
        rows[name] = [name, " ".join(state.reasons), quality, state.reviewer, state.at, state.bundle_id, state.mask_sha256]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "reasons", "quality", "reviewer", "at", "bundle_id", "model_sha256"])
    writer.writerows(rows[name] for name in sorted(rows))
    write_text(path, out.getvalue())


class Boxes:
    """The set's boxes in one COCO file, by image; not written where there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: dict[str, dict[str, Any]] = {}
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            names = {one["id"]: one["name"] for one in found["categories"]}
            by_id = {one["id"]: one for one in found["images"]}
            for image in found["images"]:
                self._images[image["file_name"]] = {"size": (image["height"], image["width"]), "objects": []}
            for one in found["annotations"]:
                entry = {"name": names[one["category_id"]], "bbox": one["bbox"], "segmentation": one["segmentation"]}
                self._images[by_id[one["image_id"]]["file_name"]]["objects"].append(entry)

    def put(self, image: str, size: tuple[int, int], objects: Sequence[LabelledObject]) -> bytes:
        """Set the objects of an image, and return them as bytes to be hashed."""
        listed = []
        for one in objects:
            x1, y1, x2, y2 = (round(float(np.float32(value)), 4) for value in one.box)
            box = [x1, y1, round(x2 - x1, 4), round(y2 - y1, 4)]
            listed.append({"name": one.name, "bbox": box, "segmentation": dict(one.segmentation) if one.segmentation else []})
        self._images[image] = {"size": size, "objects": listed}
        return json.dumps(listed, sort_keys=True).encode()

    def drop(self, image: str) -> None:
        self._images.pop(image, None)

    def write(self) -> None:
        if not self._images:
            return
        numbers: dict[str, int] = {}
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, (name, own) in enumerate(sorted(self._images.items()), 1):
            rows, columns = own["size"]
            images.append({"id": number, "file_name": name, "width": columns, "height": rows})
            for one in own["objects"]:
                category = numbers.setdefault(one["name"], len(numbers) + 1)
                area = one["bbox"][2] * one["bbox"][3]
                row = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "area": area, "iscrowd": 0}
                annotations.append(row | {"bbox": one["bbox"], "segmentation": one["segmentation"]})
        categories = [{"id": number, "name": name} for name, number in numbers.items()]
        whole = {"categories": categories, "images": images, "annotations": annotations}
        write_text(self._path, json.dumps(whole, ensure_ascii=False) + "\n")
