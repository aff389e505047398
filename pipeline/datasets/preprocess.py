"""One case from its files to what is kept of it: read, checked, normalised, its targets in both frames."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pipeline.cards.card import CardCase, DataCard, check_sizes, read_field_of_view, read_scan
from pipeline.cards.objects import Objects, PackedObjects
from pipeline.cards.targets import Truth, WeakMasks, boxes_only, read_truth
from pipeline.datasets.cache import CachedCase
from pipeline.datasets.fingerprint import fingerprint
from pipeline.datasets.normalise import CompactImage, NormaliseConfig, preprocess, to_working
from pipeline.errors import CardError
from pipeline.models.selective_search import SelectiveSearchConfig, selective_search
from pipeline.scans.open import content_sha256
from pipeline.types import LabelMap

TargetKind = Literal["masks", "objects", "grade", "either"]
"""What is needed of every case: a mask of classes, objects with boxes, the class of the whole picture, or whatever there is
(datasets/store.py)."""


def preprocess_case(
    card: DataCard,
    case: CardCase,
    normalise: NormaliseConfig,
    need: TargetKind,
    weak_masks: WeakMasks,
    labels_sha256: list[str | None],
    search: SelectiveSearchConfig | None = None,
) -> CachedCase:
    """The case's arrays; ``labels_sha256`` of its label files goes into the record, and ``search`` makes its proposals.

    Raises
    ------
    CardError: files that do not fit each other or the card, or labels that are not what is needed. ScanError: one that cannot be read.
    """
    scan = read_scan(card, case)
    view = read_field_of_view(card, case, scan)
    truth = None
    if case.labels or need != "either":
        truth = read_truth(card, case, objects=need in ("objects", "either"), weak_masks=weak_masks, scan=scan)
    check_need(case, truth, need)
    mask = None if truth is None else truth.mask
    if mask is not None:
        check_sizes(scan.geometry, mask, "the label")
    if view is not None and view.shape != scan.geometry.plane:
        raise CardError(f"the field of view is {view.shape}, but the image is {scan.geometry.plane} (rows, columns)")
    volume = scan.pixels if scan.pixels.ndim == 4 else scan.pixels[:, None]
    slices = [preprocess(volume[:, index], normalise, card.modality, view) for index in range(volume.shape[1])]
    placement = slices[0].placement
    if any(part.placement != placement for part in slices):
        raise CardError("its slices have fields of view of different size; set data.normalise.field_of_view to whole")
    small = source_mask = None
    if mask is not None:
        source_mask = mask.reshape(volume.shape[1:]).astype(_smallest(card.label_map))
        small = np.stack([to_working(plane, placement) for plane in source_mask])
    objects = source_objects = None
    if truth is not None and truth.objects is not None:
        working = [part.to_working(placement) for part in truth.objects]
        objects, source_objects = PackedObjects.pack(working), PackedObjects.pack(truth.objects)
    same = placement.net == placement.source == placement.resized
    about = {
        "sha256": scan.sha256,
        "labels_sha256": labels_sha256,
        "field_of_view_sha256": None if case.field_of_view is None else content_sha256(case.field_of_view),
        "part": case.part,
        "slices": volume.shape[1],
        "rows": volume.shape[2],
        "columns": volume.shape[3],
        "channels": volume.shape[0],
        "grade": None if truth is None else truth.grade,
        "warnings": list(scan.warnings),
        "placement": {name: list(getattr(placement, name)) for name in ("source", "crop", "resized", "pad")},
    }
    return CachedCase(
        pixels=np.stack([part.pixels for part in slices]),
        valid=np.stack([part.valid for part in slices]),
        offset=np.stack([part.offset for part in slices]),
        scale=np.stack([part.scale for part in slices]),
        fingerprint=fingerprint(scan.pixels),
        mask=small,
        source_valid=None if same else np.stack([part.source_valid for part in slices]),
        source_mask=None if same else source_mask,
        objects=objects,
        source_objects=source_objects,
        proposals=None if search is None else PackedObjects.pack([_proposed(part, search) for part in slices]),
        about=about,
    )


def check_need(case: CardCase, truth: Truth | None, need: TargetKind) -> None:
    """Raises CardError where a case's label is not what is needed."""
    if need in ("masks", "objects") and truth is not None and truth.mask is None and truth.objects is None:
        raise boxes_only(case, "use a detection task, a card with masks, or data.weak_masks: ellipse")
    if need == "grade" and (truth is None or truth.grade is None):
        raise CardError(
            f"case {case.key}: its card does not say what the picture as a whole is (picture_class); use a semantic or detection task"
        )


def _proposed(image: CompactImage, search: SelectiveSearchConfig) -> Objects:
    """Boxes of the image as a network sees it, so that they are those which it finds by itself in prediction."""
    boxes = selective_search(image.to_float()[0].numpy(), search)
    return Objects.make(image.placement.net, boxes, np.zeros(len(boxes), np.int64))


def _smallest(label_map: LabelMap) -> type[np.signedinteger[Any]]:
    largest = 2 ** len(label_map) - 1 if label_map.overlapping else len(label_map)
    return np.int8 if largest <= 127 else np.int16 if largest <= 32767 else np.int32
