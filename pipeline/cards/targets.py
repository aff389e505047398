"""Reads a case's label files as its card says: the semantic mask and the objects, in the source frame."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.cards.card import CardCase, DataCard, check_sizes
from pipeline.cards.coco import from_coco
from pipeline.cards.label_file import DicomSegLabel
from pipeline.cards.labels import (
    CocoLabel,
    InstancesLabel,
    LabelSource,
    MasksLabel,
    ObjectSource,
    PixelSource,
    YoloBoxesLabel,
    combine,
    decode,
    meanings,
    read_placed,
)
from pipeline.cards.object_classes import classes_by_number
from pipeline.cards.object_files import from_components, from_instance_ids, from_masks, from_seg, from_yolo, label_of, read_planes
from pipeline.cards.objects import Objects
from pipeline.cards.patterns import fill
from pipeline.cards.places import file_below
from pipeline.cards.plain_text import read_plain_text
from pipeline.errors import CardError, LabelFileError, OcusegError
from pipeline.types import IGNORE, CaseKey, LabelMap, Scan

log = logging.getLogger(__name__)

Reader = Literal["first", "second"]
WeakMasks = Literal["none", "ellipse"] | float
"""Masks for boxes without any: none, the ellipse inscribed in each, or that ellipse with its axes times a number up to 1."""


@dataclass(frozen=True, eq=False)
class Truth:
    """``mask`` int64 (H, W) or (D, H, W), or None if only boxes are known; ``objects`` of each slice, or None if not requested;
    ``grade`` of the whole picture (Target.grade), of a card that says it."""

    mask: npt.NDArray[np.int64] | None
    objects: tuple[Objects, ...] | None
    grade: int | None = None


def read_target_mask(card: DataCard, case: CardCase, *, reader: Reader = "first", scan: Scan | None = None) -> npt.NDArray[np.int64]:
    """Mask int64 (H, W) or (D, H, W) in the source frame, encoded by ``card.label_map``; ignored pixels are -1.

    Raises
    ------
    CardError: the case has no label of that reader, only boxes, or files that do not match the card.
    """
    mask = read_truth(card, case, reader=reader, scan=scan).mask
    if mask is None:
        raise boxes_only(case, "score it against a card with masks")
    return mask


def boxes_only(case: CardCase, remedy: str) -> CardError:
    """The remedy if masks are needed but there are only boxes, or a class of the whole picture."""
    if case.picture_class is not None:
        return CardError(f"case {case.key}: its label is a class of the whole picture; use a classification task, or a card with masks")
    return CardError(f"case {case.key}: its labels are boxes, which say nothing about single pixels; {remedy}")


def read_truth(
    card: DataCard,
    case: CardCase,
    *,
    objects: bool = False,
    weak_masks: WeakMasks = "none",
    reader: Reader = "first",
    scan: Scan | None = None,
) -> Truth:
    """The labels of one reader for a case.

    A class's objects come from sources of objects (boxes, instances) if it has any, else from its mask's pixels. Objects with masks
    also count as pixels of their class; boxes without masks do not, unless another source gives the pixels.

    Raises
    ------
    CardError: the case has no label of that reader, or its files do not match the card; names the case.
    """
    files = case.labels if reader == "first" else case.second_reader
    if case.picture_class is not None and reader == "first":
        return Truth(None, None, card.label_map.names.index(case.picture_class))
    if not files:
        raise CardError(f"case {case.key}: card {card.name} has no label of the {reader} reader for it")
    try:
        return _chosen(card, _read(card, files, _Image(case, scan), objects, weak_masks))
    except LabelFileError:
        raise  # of a file of many images, and so of no case
    except OcusegError as error:
        raise CardError(f"case {case.key}: {error}") from error
    except OSError as error:
        raise CardError(f"case {case.key}: a label file cannot be read ({error.strerror or type(error).__name__})") from error


@lru_cache(maxsize=10_000)
def _tell_twins(case: CaseKey, twins: int) -> None:
    """Logged once per case, however often it is read."""
    log.warning("case %s: %d of its objects occur twice in its labels, bit for bit; each counts once", case, twins)


class _Image:
    """The image, opened only where its size or identity is needed."""

    def __init__(self, case: CardCase, scan: Scan | None) -> None:
        self.path, self.key, self.fields, self._case, self._scan = case.image, case.key, case.fields, case, scan

    def beside(self, pattern: str) -> Path:
        """The file that a pattern gives for this image."""
        return file_below(self._case.root, fill(pattern, self.fields), "classes_from")

    @property
    def scan(self) -> Scan:
        from pipeline.scans.open import open_scan

        if self._scan is None:
            self._scan = open_scan(self.path)
        return self._scan


def _read(card: DataCard, files: Sequence[tuple[LabelSource, Path | None]], image: _Image, objects: bool, weak_masks: WeakMasks) -> Truth:
    label_map = card.stored_map
    stated = {name for source, _ in files if isinstance(source, PixelSource) for name in meanings(source)}
    layers: list[npt.NDArray[np.int64]] = []
    parts: list[list[Objects]] = []
    pixels: set[str] = set()
    boxed: set[str] = set()
    ways: dict[str, Literal["components", "one"]] = {}
    named: set[str] = set()
    for source, pairs in groupby(files, key=lambda pair: pair[0]):
        paths = [path for _, path in pairs if path is not None]
        names = set(meanings(source)) & set(label_map.names)
        if isinstance(source, PixelSource):
            layers += [decode(source, read_placed(path, image.scan.geometry, source.place), label_map) for path in paths]
            ways |= dict.fromkeys(names, source.objects)
            pixels |= names
            continue
        try:
            found = _objects(card, source, paths, image)
        except LabelFileError as error:
            table = source.classes_from if isinstance(source, InstancesLabel) else None
            raise LabelFileError(error.path, error.fault, (table or source).file) from None
        twins = sum(map(len, found)) - sum(map(len, found := [part.distinct() for part in found]))
        if twins:
            _tell_twins(image.key, twins)
        geometry = image.scan.geometry
        if len(found) != geometry.slices or any(part.plane != geometry.plane for part in found):
            raise CardError(f"the label has {len(found)} x {found[0].plane}, but the image {geometry.slices} x {geometry.plane} pixels")
        drawn = all(part.masks is not None for part in found)
        if weak_masks != "none":
            found = [part.with_ellipses(1.0 if weak_masks == "ellipse" else weak_masks) for part in found]
        named |= names
        parts.append(found)
        if drawn or (weak_masks != "none" and not names <= stated):
            pixels |= names
            stacked = np.stack([part.codes(label_map) for part in found])
            layers.append(stacked if len(geometry.shape) == 3 else stacked[0])
        else:
            boxed |= names
    mask = None
    if boxed & set(card.label_map.names) <= pixels:
        mask = combine(layers, label_map) if layers else np.zeros(image.scan.geometry.shape, dtype=np.int64)
    if not objects:
        return Truth(mask, None)
    derived = combine(layers, label_map) if mask is None and layers else mask
    if derived is not None and set(ways) - named:
        check_sizes(image.scan.geometry, derived, "the label")
        planes = derived if derived.ndim == 3 else derived[None]
        for cls, way in ((c, ways[c.name]) for c in label_map.classes if c.name in set(ways) - named):
            parts.append([from_components(label_map.layers(plane)[cls.index - 1], cls.index, way) for plane in planes])
    plane, slices = parts[0][0].plane, len(parts[0])
    return Truth(mask, tuple(Objects.join(plane, [part[index] for part in parts]) for index in range(slices)))


def _chosen(card: DataCard, truth: Truth) -> Truth:
    """Restricted to the card's chosen classes, numbered as in its label map."""
    if not card.chosen:
        return truth
    places = [card.stored_map.names.index(name) for name in card.label_map.names]
    mask, objects = truth.mask, truth.objects
    if mask is not None:
        mask = np.where(mask == IGNORE, IGNORE, card.label_map.mask(card.stored_map.layers(mask)[places]))
    if objects is not None:
        numbers = np.zeros(len(card.stored_map) + 1, dtype=np.int64)
        numbers[[place + 1 for place in places]] = np.arange(1, len(places) + 1)
        objects = tuple(part.renumbered(numbers) for part in objects)
    return Truth(mask, objects)


def _instances(source: InstancesLabel, path: Path, image: _Image, label_map: LabelMap) -> list[Objects]:
    planes = read_planes(path, image.scan.geometry, source.place)
    labels: int | dict[int, int] = label_of(source.means or "background", label_map)
    if source.classes_from is not None:
        meant = classes_by_number(source.classes_from, image.beside(source.classes_from.file), image.path, image.fields)
        labels = {number: label_of(name, label_map) for number, name in meant.items()}
        if source.classes_from.unlisted == "background":
            labels = dict.fromkeys((int(n) for plane in planes for n in np.unique(plane)), 0) | labels
    area = (source.min_area_px or 1, source.max_area_px or math.inf)
    return [from_instance_ids(numbers, labels, leave_out=source.leave_out, area=area) for numbers in planes]


def _objects(card: DataCard, source: ObjectSource, paths: Sequence[Path], image: _Image) -> list[Objects]:
    """The objects in a source's files, by slice."""
    label_map, geometry = card.stored_map, image.scan.geometry
    plane = geometry.plane
    if not paths:
        masks = None if isinstance(source, YoloBoxesLabel) else ()
        return [Objects.make(plane, [], [], masks) for _ in range(geometry.slices)]
    if isinstance(source, DicomSegLabel):
        return from_seg(paths, geometry, source, label_map, image.scan.sop_instance_uid)
    if isinstance(source, InstancesLabel):
        return _instances(source, paths[0], image, label_map)
    if isinstance(source, MasksLabel):
        stacks = [read_planes(path, geometry, source.place) for path in paths]
        if any(len(stack) != geometry.slices for stack in stacks):
            raise CardError(f"a mask has another number of slices than the image, which has {geometry.slices}")
        label = label_of(source.means, label_map)
        return [from_masks(masks, plane, label, source.at_least) for masks in zip(*stacks, strict=True)]
    if geometry.slices > 1:
        raise CardError(f"boxes belong to a picture, but the image has {geometry.slices} slices")
    if isinstance(source, CocoLabel):
        categories = {name: label_of(meaning, label_map) for name, meaning in source.categories.items()}
        return [from_coco(paths[0], image.path, plane, categories, unlisted_is_empty=source.missing == "empty")]
    text = read_plain_text(paths[0])
    return [from_yolo(text, plane, {number: label_of(name, label_map) for number, name in source.values.items()})]
