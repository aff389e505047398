"""Objects from COCO JSON (https://cocodataset.org/#format-data): a file is parsed once, only the requested image is decoded."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from pipeline.cards.objects import Mask, Objects, fitted
from pipeline.cards.plain_text import read_regular
from pipeline.errors import CardError, LabelFileError

log = logging.getLogger(__name__)
_lock = threading.Lock()

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
"""The prefix that Label Studio puts before the names of uploaded files."""


@dataclass(frozen=True)
class CocoImage:
    """One entry of a file's images: its id as text, its path with "/" between folders, and (rows, columns), or None if not stated."""

    id: str
    path: str
    plane: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A parsed file: images by file name, annotations by image id, names of categories by id; ids are text.

    ``has_masks``: whether every object has a segmentation.
    """

    images: Mapping[str, tuple[CocoImage, ...]]
    annotations: Mapping[str, list[dict[str, Any]]]
    categories: Mapping[str, str]
    has_masks: bool


def read_coco(path: Path) -> CocoFile:
    """The file, parsed on first use and whenever it has changed.

    Raises
    ------
    LabelFileError: it is not COCO JSON; names the key that is missing or wrong.
    """
    about = path.stat()
    with _lock:  # one thread parses, the others wait for it
        read = _parse(path, about.st_mtime_ns, about.st_size)
    if isinstance(read, str):
        raise LabelFileError(path, read)
    return read


@lru_cache(maxsize=4)
def _parse(path: Path, _changed: int, _size: int) -> CocoFile | str:
    """The file, or what is wrong with it; cached, so that a large file is not parsed again for each image."""
    try:
        return _checked(json.loads(read_regular(path)))
    except CardError as error:
        return str(error)
    except (ValueError, RecursionError) as error:
        place = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        return f"this is not JSON, so not COCO JSON either{place}; export it again"


def _checked(data: Any) -> CocoFile:
    """Parsed JSON as a CocoFile; CardError names the key that is missing or wrong."""
    images = _images(data)
    categories = {}
    for place, entry in _entries(data, "categories"):
        if _id(entry, "id", place) in categories:
            raise CardError(f"{place}: an earlier category has the same id {entry['id']!r}; export the file again")
        categories[_id(entry, "id", place)] = str(_value(entry, "name", place))
    by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    crowds = 0
    for number, (place, entry) in enumerate(_entries(data, "annotations"), 1):
        kept = {key: entry.get(key) for key in ("bbox", "segmentation")}
        kept |= {"id": entry.get("id", number), "category": _id(entry, "category_id", place)}
        if entry.get("iscrowd") not in (None, 0, "0", ""):
            crowds += 1
        else:
            by_image[_id(entry, "image_id", place)].append(kept)
    objects = [entry for entries in by_image.values() for entry in entries]
    known = {image.id for same in images.values() for image in same}
    lost = sum(len(entries) for image, entries in by_image.items() if image not in known)
    if objects and lost == len(objects):
        said = f"image_id {next(iter(by_image))!r}, images have {min(known, default='none')!r}"
        raise CardError(f"annotations: none belongs to an image that the file lists ({said}); export it again with its images")
    bare = [entry["id"] for entry in objects if not entry["segmentation"]]
    drawn = len(objects) - len(bare)
    among = f"among others with one (the first: object {bare[0]})" if bare else ""
    for count, fault in (
        (crowds, "marks %d objects as crowds; they are left out"),
        (lost, "has %d objects of images that it does not list; they are left out"),
        (drawn and len(bare), f"has %d objects without a mask {among}; only the boxes of all objects are used"),
        (sum(map(_leftovers, objects)), "has %d outlines of one or two points beside whole ones; they enclose nothing and are left out"),
    ):
        if count:
            log.warning(f"a COCO file {fault}", count)
    return CocoFile(images, by_image, categories, not bare)


def _images(data: Any) -> dict[str, tuple[CocoImage, ...]]:
    """The images by file name, without the upload prefix that all of them have."""
    listed = []
    for place, entry in _entries(data, "images"):
        sides = entry.get("height"), entry.get("width")
        try:
            plane = None if sides == (None, None) else (int(sides[0]), int(sides[1]))  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise CardError(
                f"{place}: height and width are {sides[0]!r} and {sides[1]!r}, not numbers; correct or leave out both"
            ) from None
        listed.append(CocoImage(_id(entry, "id", place), _path(str(_value(entry, "file_name", place))), plane))
    twice = [name for name, count in Counter(image.id for image in listed).items() if count > 1]
    if twice:
        raise CardError(f"images: {len(twice)} ids occur more than once, the first is {twice[0]!r}; export the file again")
    names = [PurePosixPath(image.path).name for image in listed]
    if all(_UPLOADED.match(name) for name in names):
        names = [_UPLOADED.sub("", name, count=1) for name in names]
    images: dict[str, tuple[CocoImage, ...]] = {}
    for name, image in zip(names, listed, strict=True):
        images[name] = (*images.get(name, ()), image)
    return images


def _path(file_name: str) -> str:
    """A file name as tools write it (a path of any system, an address) -> a path with "/"."""
    if "?d=" in file_name:  # Label Studio's local files: data/local-files/?d=images%5Ca.png
        file_name = unquote(file_name.partition("?d=")[2])
    elif "://" in file_name:
        file_name = unquote(urlsplit(file_name).path)
    return unicodedata.normalize("NFC", file_name.replace("\\", "/"))


def _entries(data: Any, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("images[0]", entry) of a section; CardError if it is not a list of objects."""
    listed = data.get(section) if isinstance(data, dict) else None
    if not isinstance(listed, list):
        fault = f"{section!r} is not a list" if isinstance(data, dict) and section in data else f"the key {section!r} is missing"
        raise CardError(f"this is not COCO JSON with images, annotations and categories ({fault})")
    for number, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise CardError(f"this is not COCO JSON: {section}[{number}] holds no keys")
        yield f"{section}[{number}]", entry


def _value(entry: dict[str, Any], key: str, place: str) -> Any:
    if entry.get(key) is None:
        raise CardError(f"this is not COCO JSON: {place} has no {key!r}")
    return entry[key]


def _id(entry: dict[str, Any], key: str, place: str) -> str:
    """An id as text, so that 1, 1.0 and "1", written by different tools, are equal."""
    value = _value(entry, key, place)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def from_coco(path: Path, image: Path, plane: tuple[int, int], classes: Mapping[str, int], *, unlisted_is_empty: bool) -> Objects:
    """The objects of one image; boxes are fitted to masks if there are any.

    Parameters
    ----------
    classes: name of a category to label, 0 to leave it out.
    unlisted_is_empty: an image that the file does not list has no objects, and is not a fault.

    Raises
    ------
    CardError: the image is not listed or of another size, a category that the card does not name, an invalid box or mask.
    LabelFileError: the file is not COCO JSON.
    """
    coco = read_coco(path)
    entry = _entry(coco, image)
    if entry is None:
        if unlisted_is_empty:
            return Objects.make(plane, [], [], () if coco.has_masks else None)
        raise CardError("the COCO file does not list this image; complete it, or say missing: empty in the card")
    if entry.plane not in (None, plane):
        said, real = (f"{columns} x {rows}" for rows, columns in (entry.plane, plane))
        turned = " (the sides are swapped: the picture was turned, or height and width are)" if entry.plane == plane[::-1] else ""
        raise CardError(f"the COCO file says {said} pixels, but the image has {real}{turned}")
    boxes, pieces, labels, called = [], [], [], []
    for annotation in coco.annotations.get(entry.id, []):
        name = coco.categories.get(annotation["category"])
        if name is None:
            raise CardError(
                f"COCO object {annotation['id']} has category_id {annotation['category']}, which the file's categories do not list"
            )
        if name not in classes:
            raise CardError(f"COCO object {annotation['id']} is of category {name!r}, which the card does not name")
        if not classes[name]:
            continue
        labels.append(classes[name])
        called.append(f"COCO object {annotation['id']}")
        if coco.has_masks:
            pieces.append((0, 0, _mask(annotation, plane, sized=entry.plane is not None)))
        else:
            boxes.append(_box(annotation))
    return fitted(plane, pieces, labels) if coco.has_masks else Objects.make(plane, boxes, labels).checked(called)


def _entry(coco: CocoFile, image: Path) -> CocoImage | None:
    """The entry whose file name is the image's; if several folders hold a file of this name, the one whose path ends like the image's."""
    entries = coco.images.get(unicodedata.normalize("NFC", image.name), ())
    if len(entries) > 1:
        whole = "/" + unicodedata.normalize("NFC", image.as_posix())
        entries = tuple(entry for entry in entries if whole.endswith("/" + entry.path.lstrip("./")))
        if len(entries) != 1:
            raise CardError("the COCO file lists several images of this name, and their folders do not tell which is meant")
    return entries[0] if entries else None


def _box(annotation: dict[str, Any]) -> list[float]:
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (TypeError, ValueError, OverflowError):
        raise CardError(f"the bbox of COCO object {annotation['id']} is not [x, y, width, height]") from None
    return [x, y, x + width, y + height]


def _mask(annotation: dict[str, Any], plane: tuple[int, int], *, sized: bool) -> Mask:
    """The whole mask of an object; ``sized``: the file states the image's size, so that outlines certainly belong to this image."""
    from faster_coco_eval import mask as rle

    shape, (rows, columns), name = annotation["segmentation"], plane, f"COCO object {annotation['id']}"
    try:
        if isinstance(shape, dict):
            if tuple(shape["size"]) != plane:
                turned = "; its sides are swapped" if tuple(shape["size"]) == plane[::-1] else ""
                raise CardError(f"the mask of {name} is {shape['size']}, but the image is {list(plane)} (rows, columns){turned}")
            runs = rle.frPyObjects(shape, rows, columns) if isinstance(shape["counts"], list) else shape
            extent = ""
        else:
            polygons = _outlines(name, shape)
            edges = [edge(v for p in polygons for v in p[axis::2]) for edge in (min, max) for axis in (0, 1)]
            extent = f" (it reaches from {edges[0]:g}, {edges[1]:g} to {edges[2]:g}, {edges[3]:g})"
            reach = (0.01 if not sized else 1) * max(plane)
            # A slip of the decimal point must not draw an outline of a billion pixels, nor a picture of another size be taken for this one.
            if min(edges[:2]) < -reach or edges[2] > columns + reach or edges[3] > rows + reach:
                raise CardError(f"the outline of {name} reaches outside its image of {columns} x {rows} pixels{extent}; correct its label")
            runs = rle.merge(rle.frPyObjects(polygons, rows, columns))
        mask = np.asarray(rle.decode(runs), dtype=bool)
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError):
        raise CardError(f"the mask of {name} cannot be drawn; correct its label") from None
    if not mask.any():
        raise CardError(f"the mask of {name} holds no pixel of its image{extent}; correct its label, or take the object out")
    return mask


def _outlines(name: str, shape: Any) -> list[list[float]]:
    """The outlines [x1, y1, x2, y2, ...] of an object, without those of one or two points beside valid ones; ValueError if invalid."""
    polygons = [[float(v) for v in polygon] for polygon in shape]
    if any(len(p) % 2 or not all(map(math.isfinite, p)) for p in polygons):
        raise ValueError
    whole = [p for p in polygons if len(p) >= 6]
    if not whole:
        raise CardError(f"the outline of {name} has {max(map(len, polygons)) // 2} points, which enclose nothing; it needs three")
    return whole


def _leftovers(entry: dict[str, Any]) -> int:
    """How many outlines of an object enclose nothing, while others do."""
    shape = entry["segmentation"]
    if not isinstance(shape, list) or not all(isinstance(polygon, list) for polygon in shape):
        return 0
    short = sum(len(polygon) < 6 for polygon in shape)
    return short if short < len(shape) else 0
