"""Decoded, normalised cases, made once and cached compactly: in memory, or on disk and mapped into memory (datasets/cache.py)."""

from __future__ import annotations

import copy
import logging
import weakref
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.cards.card import CardCase, DataCard, read_scan
from pipeline.cards.objects import Objects
from pipeline.cards.targets import WeakMasks
from pipeline.datasets.augment import Plan
from pipeline.datasets.cache import CachedCase, load_case, save_case
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.places import Places
from pipeline.datasets.preprocess import TargetKind
from pipeline.datasets.reading import CaseReader
from pipeline.datasets.sharing import ALONE, Team, read_together
from pipeline.datasets.windows import StoredPlane, Windows, cut
from pipeline.errors import CardError
from pipeline.models.selective_search import SelectiveSearchConfig
from pipeline.types import CaseKey, LabelMap, Placement, ProgressCallback, Scan, Target

log = logging.getLogger(__name__)

READ_REMEDY = "mend it, take it out, or leave out all that cannot be read by data.skip_unreadable: true"


class CaseStore:
    """Every given case, decoded and normalised; sample ``i`` is one picture, or one slice of a volume (:meth:`cut` also gives
    neighbouring slices together, for networks of volumes).

    Parameters
    ----------
    cache: "memory" keeps the arrays; "disk" writes them below ``cache_dir`` and maps what is needed, so that a set larger than
        memory works and the next run starts at once. The key is the content of the files and all that shapes the arrays.
    need: "masks" (a semantic task) refuses labels without masks and reads no objects; "objects" (detection) reads objects, and masks
        where there are any; "grade" (classification) the class of each picture; "either" is as "objects" and keeps images without labels.
        An image with N = 0 objects is as good as any.
    search: makes proposals of every image, for networks that look at boxes which are made beforehand; None: there are none.
    unsearched: cases that get no proposals all the same, because no network will look at them.
    weak_masks: "ellipse" makes a mask of every object of which only the box is known.
    workers: threads that decode. team: processes that make the same store together, of which each decodes its part.
    progress: called as ``progress(done, total)``.

    Raises
    ------
    CardError: a case whose files cannot be used, by its name.
    """

    unreadable: dict[CaseKey, str]

    def __init__(
        self,
        card: DataCard,
        cases: Sequence[CardCase],
        normalise: NormaliseConfig,
        cache: Literal["memory", "disk"] = "memory",
        cache_dir: Path | None = None,
        *,
        need: TargetKind = "masks",
        weak_masks: WeakMasks = "none",
        search: SelectiveSearchConfig | None = None,
        unsearched: Collection[CaseKey] = (),
        skip_unreadable: bool = False,
        workers: int = 2,
        team: Team = ALONE,
        progress: ProgressCallback | None = None,
    ) -> None:
        if cache == "disk" and cache_dir is None:
            raise ValueError("a disk cache needs cache_dir")
        self.card, self.normalise = card, normalise
        self._on_disk = cache == "disk"
        self._cached: dict[CaseKey, CachedCase] = {}
        self._samples: list[tuple[CaseKey, int]] = []
        self._where: dict[CaseKey, range] = {}
        self.unreadable = {}
        self._renew()
        self._cases = {case.key: case for case in cases}
        reader = CaseReader(card, normalise, need, weak_masks, cache_dir if self._on_disk else None, search, unsearched)
        with closing(read_together(reader.load_or_error, cases, workers, team)) as results:
            for done, (case, loaded) in enumerate(zip(cases, results, strict=True), 1):
                if isinstance(loaded, CachedCase):
                    self._cached[case.key] = loaded
                    self._where[case.key] = range(len(self._samples), len(self._samples) + len(loaded.pixels))
                    self._samples += [(case.key, index) for index in range(len(loaded.pixels))]
                elif skip_unreadable:
                    self.unreadable[case.key] = str(loaded)
                else:
                    raise CardError(f"{loaded}; {READ_REMEDY}") from loaded.__cause__
                if progress is not None:
                    progress(done, len(cases))
        counts = Counter(cached.pixels.shape[1] for cached in self._cached.values())
        self._channels = max(counts, default=0)
        self._warn(counts)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def label_map(self) -> LabelMap:
        return self.card.label_map

    @property
    def channels(self) -> int:
        """Input channels of a network for these samples: a set of grey and colour images counts as colour."""
        return self._channels

    def keys(self) -> tuple[CaseKey, ...]:
        """The cases, in the order of the samples."""
        return tuple(self._cached)

    def indices(self, keys: Sequence[CaseKey]) -> list[int]:
        """Samples of these cases, in this order."""
        return [index for key in keys for index in self._where[key]]

    def case_of(self, index: int) -> CaseKey:
        return self._samples[index][0]

    def scan(self, index: int) -> Scan:
        """The whole scan that a sample is of, read anew as it is stored.

        Raises
        ------
        ScanError, OSError: its file is no longer what it was.
        """
        return read_scan(self.card, self._cases[self.case_of(index)])

    def slice_of(self, index: int) -> int:
        """0 for a picture."""
        return self._samples[index][1]

    def size(self, index: int) -> tuple[int, int]:
        """(rows, columns) of a sample in the working frame."""
        shape = self._cached[self._samples[index][0]].valid.shape
        return shape[1], shape[2]

    def plane(self, index: int) -> StoredPlane:
        """The arrays of a sample, as they are cached; no mask where there are objects, of which detectors learn."""
        key, slice_index = self._samples[index]
        cached = self._cached[key]
        mask = self.working_mask(index) if cached.objects is None else None
        return StoredPlane(
            cached.pixels[slice_index], cached.valid[slice_index], mask, cached.offset[slice_index], cached.scale[slice_index]
        )

    def cut(self, wanted: Sequence[tuple[int, Plan]], slices: int | None = None, *, pinned: bool = False) -> Windows:
        """The regions that plans ask for (windows.cut)."""
        return cut(self, wanted, slices, pinned=pinned)

    @property
    def clamp(self) -> bool:
        return self.normalise.clamps

    def block(self, index: int, slices: int) -> range:
        """Samples of this slice and those behind it in its volume, at most ``slices``."""
        return range(index, min(index + slices, self._where[self.case_of(index)].stop))

    def placement(self, index: int) -> Placement:
        """From the source frame of a sample to the working frame."""
        return self._cached[self.case_of(index)].placement

    def for_processes(self, folder: Path, keys: Sequence[CaseKey]) -> CaseStore:
        """What processes need that only cut samples of these cases, little to pickle: arrays are in files, below ``folder`` if in memory
        so far, and none is of the source frame."""
        other = copy.copy(self)
        other._on_disk, other._cases, other._cached = True, {}, {}
        for number, key in enumerate(keys):
            cached = replace(
                self._cached[key], fingerprint=np.zeros(0, np.float32), source_valid=None, source_mask=None, source_objects=None
            )
            there: CachedCase | None = cached
            if not self._on_disk:
                save_case(cached, folder / str(number))
                there = load_case(folder / str(number))
            if there is None:
                raise CardError(f"case {key}: its arrays cannot be copied for the loader processes; check the disk of the temporary folder")
            other._cached[key] = there
        return other

    def _renew(self) -> None:
        """What belongs to this very store. Nothing refers back to it in a circle, so that its arrays, processes and temporary files go
        with it."""
        self.places = Places(weakref.proxy(self))
        self.feeds: dict[Any, Any] = {}  # what brings samples to devices (feed.py); a feed holds the store until this is cleared

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("places", "feeds")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew()

    def working_mask(self, index: int) -> npt.NDArray[Any] | None:
        """The mask in the working frame as it is cached (a small integer type)."""
        key, slice_index = self._samples[index]
        mask = self._cached[key].mask
        return None if mask is None else np.asarray(mask[slice_index])

    def working_objects(self, index: int) -> Objects | None:
        """The objects in the working frame, or None where none were asked for."""
        key, slice_index = self._samples[index]
        packed = self._cached[key].objects
        return None if packed is None else packed.unpack(slice_index, self.size(index))

    def proposals(self, index: int) -> Objects | None:
        """Proposals in the working frame, all of label 0, or None where none were asked for."""
        key, slice_index = self._samples[index]
        packed = self._cached[key].proposals
        return None if packed is None else packed.unpack(slice_index, self.size(index))

    def box_sizes(self, keys: Sequence[CaseKey]) -> npt.NDArray[np.float32]:
        """(N, 2): width and height, in working pixels, of every box of these cases."""
        boxes = [packed.boxes for key in keys if (packed := self._cached[key].objects) is not None]
        return np.concatenate([b[:, 2:] - b[:, :2] for b in boxes]) if boxes else np.zeros((0, 2), dtype=np.float32)

    def labelled_classes(self, keys: Sequence[CaseKey]) -> set[str]:
        """Names of the classes of which at least one pixel inside the field of view, or at least one object, is labelled in these cases.

        In the source frame, so that objects that are too small for the working frame count.
        """
        names, found = self.label_map.names, set[str]()
        for key in keys:
            if len(found) == len(names):
                break
            cached = self._cached[key]
            if (grade := cached.about.get("grade")) is not None:
                found.add(names[grade])
                continue
            if cached.source_objects is not None:
                found |= {names[label - 1] for label in np.unique(cached.source_objects.labels).tolist()}
                continue
            mask, valid = (cached.mask, cached.valid) if cached.source_mask is None else (cached.source_mask, cached.source_valid)
            if mask is not None and valid is not None:
                found |= self.label_map.held(np.asarray(mask)[np.asarray(valid)])
        return found

    def grade(self, index: int, *, mirrored: bool = False) -> int | None:
        """What the picture of a sample is as a whole (Target.grade), or what it becomes when left and right change places."""
        grade: int | None = self._cached[self.case_of(index)].about.get("grade")
        return self.label_map.mirrored(grade) if mirrored and grade is not None else grade

    def working_valid(self, index: int) -> npt.NDArray[np.bool_]:
        key, slice_index = self._samples[index]
        return np.asarray(self._cached[key].valid[slice_index])

    def source_target(self, index: int) -> Target:
        """What is true of a sample in the source frame: its mask, encoded by the card's label map, and its objects as labelled."""
        key, slice_index = self._samples[index]
        cached = self._cached[key]
        stored = cached.mask if cached.source_mask is None else cached.source_mask
        mask = None if stored is None else stored[slice_index]
        if cached.source_objects is not None:
            return cached.source_objects.unpack(slice_index, cached.placement.source).target(mask)
        if (grade := self.grade(index)) is not None:
            return Target(grade=grade)
        if mask is None:
            raise CardError(f"case {key}: card {self.card.name} has no label of the first reader for it")
        return Target(mask=torch.from_numpy(np.array(mask, dtype=np.int64)))

    def valid_in_source(self, index: int) -> npt.NDArray[np.bool_]:
        """Field of view, bool (H, W), in the source frame."""
        key, slice_index = self._samples[index]
        cached = self._cached[key]
        return np.array((cached.valid if cached.source_valid is None else cached.source_valid)[slice_index])

    def fingerprints(self) -> dict[CaseKey, npt.NDArray[np.float32]]:
        return {key: np.array(cached.fingerprint) for key, cached in self._cached.items()}

    def hashes(self) -> dict[CaseKey, str]:
        """SHA-256 of each case's image file."""
        return {key: cached.about["sha256"] for key, cached in self._cached.items()}

    def manifest(self, keys: Collection[CaseKey] | None = None) -> list[dict[str, Any]]:
        """What was read (of ``keys`` alone, where given), for the run's record: case, hashes, sizes. No path and no name of a file."""
        names = ("sha256", "labels_sha256", "field_of_view_sha256", "slices", "rows", "columns", "channels", "part", "warnings")
        return [
            {"case": str(key)} | {name: cached.about[name] for name in names}
            for key, cached in self._cached.items()
            if keys is None or key in keys
        ]

    def _warn(self, channels: Mapping[int, int]) -> None:
        """Say what is wrong with cases that can be used all the same; ``channels``: how many images have one, and three."""
        if self.unreadable:
            first = next(iter(self.unreadable.values()))
            log.warning("%d of %d cases cannot be read and are left out: %s", len(self.unreadable), len(self._cases), first)
        warned = Counter(text for cached in self._cached.values() for text in cached.about["warnings"])
        if warned:
            number = sum(bool(cached.about["warnings"]) for cached in self._cached.values())
            most = "; ".join(f"{text} ({count})" for text, count in warned.most_common(3))
            log.warning("%d of %d images were read with warnings, which `ocuseg card check` lists: %s", number, len(self._cached), most)
        if len(channels) > 1:
            log.warning(
                "%d of %d images are grey and repeated to colour; data.normalise.channels: grey makes all alike",
                channels[1],
                len(self._cached),
            )
        labelled, seen = (
            sum(len(p.boxes) for k in self._cached.values() if (p := getattr(k, name)) is not None)
            for name in ("source_objects", "objects")
        )
        if seen < labelled:
            log.warning(
                "%d of %d objects are smaller than a pixel at the working scale and are not learnt; leave data.normalise at the "
                "source's own scale and set data.crop", labelled - seen, labelled,
            )  # fmt: skip
