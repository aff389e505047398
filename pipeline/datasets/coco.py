"""Objects from COCO JSON (https://cocodataset.org/#format-data): parsed once a file, and only what an image needs is decoded."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.datasets.objects import Mask, Objects, fitted
from pipeline.errors import CardError, LabelFileError

log = logging.getLogger(__name__)
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A parsed file: image entries and annotations by image id. ``has_masks``: whether every object has a segmentation."""

    images: Mapping[str, tuple[dict[str, Any], ...]]
    annotations: Mapping[Any, list[dict[str, Any]]]
    categories: Mapping[Any, str]
    has_masks: bool


def read_coco(path: Path) -> CocoFile:
    """The file, parsed when it is first asked for and whenever it has changed.

    Raises
    ------
    LabelFileError: it is not COCO JSON.
    """
    about = path.stat()
    with _lock:  # one thread parses, the others wait for it
        read = _parse(path, about.st_mtime_ns, about.st_size)
    if isinstance(read, str):
        raise LabelFileError(path, read)
    return read


@lru_cache(maxsize=4)
def _parse(path: Path, _changed: int, _size: int) -> CocoFile | str:
    """The file, or what is wrong with it: kept, so that a large file is not parsed anew for each image."""
    section = "images"
    try:
        data = json.loads(path.read_bytes())
        images: dict[str, tuple[dict[str, Any], ...]] = {}
        for entry in data["images"]:
            name = PurePosixPath(str(entry["file_name"]).replace("\\", "/")).name
            images[name] = (*images.get(name, ()), {key: entry[key] for key in ("id", "file_name", "height", "width")})
        section = "categories"
        categories = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        crowds, section = 0, "annotations"
        for entry in data["annotations"]:
            if entry.get("iscrowd"):
                crowds += 1
                continue
            kept = {key: entry.get(key) for key in ("id", "category_id", "bbox", "segmentation")}
            by_image[entry["image_id"]].append(kept)
        known = {entry["id"] for entries in images.values() for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"the part {section!r}: {type(error).__name__}"
        if isinstance(error, KeyError):
            what = f"the key {error.args[0]!r} is missing" + (
                f" in the part {section!r}" if section in data and error.args[0] != section else ""
            )
        return f"this is not COCO JSON with images, annotations and categories ({what})"
    objects = [entry for entries in by_image.values() for entry in entries]
    lost = sum(len(entries) for image, entries in by_image.items() if image not in known)
    drawn = sum(bool(entry["segmentation"]) for entry in objects)
    for count, fault in (
        (crowds, "marks %d objects as crowds; they are left out"),
        (lost, "has %d objects of images that it does not list; they are left out"),
        (drawn and len(objects) - drawn, "has %d objects without a mask among others with one; of all of them only the boxes are taken"),
    ):
        if count:
            log.warning(f"a COCO file {fault}", count)
    return CocoFile(images, by_image, categories, drawn == len(objects))


def from_coco(path: Path, image: Path, plane: tuple[int, int], classes: Mapping[str, int], *, unlisted_is_empty: bool) -> Objects:
    """The objects of one image; of those with masks, boxes fit the masks.

    Parameters
    ----------
    classes: name of a category to label, 0 for what is left out.
    unlisted_is_empty: an image that the file does not list has no objects, and is not a fault.

    Raises
    ------
    CardError: the image is not listed or of another size, a category that the card does not name, a box or mask that is none.
    """
    coco = read_coco(path)
    entry = _entry(coco, image)
    if entry is None:
        if unlisted_is_empty:
            return Objects.make(plane, [], [], () if coco.has_masks else None)
        raise CardError("the COCO file does not list this image; complete it, or say missing: empty in the card")
    if (entry["height"], entry["width"]) != plane:
        said, real = (f"{columns} x {rows}" for rows, columns in ((entry["height"], entry["width"]), plane))
        raise CardError(f"the COCO file says {said} pixels, but the image has {real}")
    boxes, pieces, labels = [], [], []
    for annotation in coco.annotations.get(entry["id"], []):
        name = coco.categories.get(annotation["category_id"], "")
        if name not in classes:
            raise CardError(f"COCO object {annotation['id']} is of category {name!r}, which the card does not name")
        if not classes[name]:
            continue
        labels.append(classes[name])
        if coco.has_masks:
            mask = _mask(annotation, plane)
            if not mask.any():
                raise CardError(f"the mask of COCO object {annotation['id']} holds no pixel; correct its label")
            pieces.append((0, 0, mask))
        else:
            boxes.append(_box(annotation))
    return fitted(plane, pieces, labels) if coco.has_masks else Objects.make(plane, boxes, labels).checked()


def _entry(coco: CocoFile, image: Path) -> dict[str, Any] | None:
    """The entry whose file name is the image's; where several folders hold one of this name, the one whose path ends alike."""
    entries = coco.images.get(image.name, ())
    if len(entries) > 1:
        whole = "/" + image.as_posix()
        entries = tuple(e for e in entries if whole.endswith("/" + str(e["file_name"]).replace("\\", "/").lstrip("./")))
        if len(entries) != 1:
            raise CardError("the COCO file lists several images of this name, and their folders do not tell which is meant")
    return entries[0] if entries else None


def _box(annotation: dict[str, Any]) -> list[float]:
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (TypeError, ValueError):
        raise CardError(f"the bbox of COCO object {annotation['id']} is not [x, y, width, height]") from None
    return [x, y, x + width, y + height]


def _mask(annotation: dict[str, Any], plane: tuple[int, int]) -> Mask:
    from faster_coco_eval import mask as rle

    shape, (rows, columns) = annotation["segmentation"], plane
    try:
        if isinstance(shape, dict):
            if tuple(shape["size"]) != plane:
                raise CardError(f"the mask of COCO object {annotation['id']} is {shape['size']}, but the image is {list(plane)}")
            runs = rle.frPyObjects(shape, rows, columns) if isinstance(shape["counts"], list) else shape
        else:
            polygons = [[float(v) for v in polygon] for polygon in shape]
            # A slip of the decimal point must not draw an outline of a billion pixels.
            if any(len(p) < 6 or len(p) % 2 or not all(math.isfinite(v) and abs(v) <= 2 * max(plane) for v in p) for p in polygons):
                raise ValueError
            runs = rle.merge(rle.frPyObjects(polygons, rows, columns))
        return np.asarray(rle.decode(runs), dtype=bool)
    except (ValueError, TypeError, KeyError, RuntimeError):
        raise CardError(f"the mask of COCO object {annotation['id']} cannot be drawn; correct its label") from None
