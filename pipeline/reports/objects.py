"""The objects of a detector's case: boxes with class and score, and the contours of those that have a mask.

Read as defensively as the rest of a case: what is damaged is left out and said, and the page is made all the same.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.drawing.contours import instance_paths
from pipeline.errors import OcusegError
from pipeline.reports import wording
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.scans.raster import read_image
from pipeline.types import LabelMap
from pipeline.types.case_record import OBJECTS_FILE, DamagedObject, ObjectRecord, ObjectsRecord, PlaneRecord, first_fault

MOST_IN_A_SLICE = 2_000
MOST_IN_A_CASE = 20_000
"""More boxes than this no reader tells apart and no browser moves; the highest-scoring are kept."""


@dataclass(frozen=True)
class FoundObject:
    """One object: ``slice`` and ``label`` count from 0 in the case's planes and the label map, ``box`` is xyxy in source pixels."""

    id: int
    slice: int
    label: int
    score: float
    box: tuple[float, float, float, float]
    area_px: int | None
    size_mm: tuple[float, float] | None


@dataclass(frozen=True)
class CaseObjects:
    """``thresholds``: the bundle's, one a class · ``found``: in descending order of score, also those below the thresholds.

    ``readable`` is False where the file could not be used: then nobody knows what was found, which is not the same as nothing.
    """

    has_masks: bool = False
    thresholds: tuple[float, ...] = ()
    found: tuple[FoundObject, ...] = ()
    warnings: tuple[str, ...] = ()
    readable: bool = True
    by_pixels: frozenset[int] = frozenset()
    """Classes, from 0, that another bundle of several found as pixels."""

    @functools.cached_property
    def _by_slice(self) -> dict[int, list[FoundObject]]:
        out: dict[int, list[FoundObject]] = defaultdict(list)
        for one in self.found:
            out[one.slice].append(one)
        return out

    def in_slice(self, at: int) -> list[FoundObject]:
        return self._by_slice.get(at, [])

    def above(self, one: FoundObject) -> bool:
        return one.score >= self.thresholds[one.label]

    @property
    def boxes_only(self) -> bool:
        return self.readable and not self.has_masks and not self.by_pixels

    def counts(self) -> tuple[int | None, ...]:
        """Objects at or above the bundle's threshold, one number a class; None where it is not known."""
        counted = Counter(one.label for one in self.found if self.above(one))
        known = range(len(self.thresholds))
        return tuple(0 if label in self.by_pixels else counted[label] if self.readable else None for label in known)


def read_objects(case: ReportCase, run: RunFacts) -> CaseObjects:
    """objects.json of one case; where it cannot be used, no objects and the reason as a warning."""
    names = run.label_map.names
    by_pixels = frozenset(label for label, name in enumerate(names) if case.by_pixels(name))
    stated = dict(run.thresholds)
    fallback = tuple(stated.get(name, 0.5) for name in names)
    try:
        data = ObjectsRecord.read(case.folder)
    except FileNotFoundError:
        return CaseObjects(
            False,
            fallback,
            (),
            (f"{OBJECTS_FILE} is missing, so no boxes are shown; predict this case again.",),
            readable=False,
            by_pixels=by_pixels,
        )
    except (OSError, ValueError) as error:
        reason = f"{OBJECTS_FILE} is damaged ({first_fault(error)}), so no boxes are shown; predict this case again."
        return CaseObjects(False, fallback, (), (reason,), readable=False, by_pixels=by_pixels)
    warnings = []
    stated |= {name: least for name, least in data.thresholds.items() if least is not None}
    thresholds = tuple(stated.get(name, 0.5) for name in names)
    slices = {plane.index: at for at, plane in enumerate(case.planes)}
    known: dict[int, FoundObject] = {}
    damaged: list[str] = []
    for place, read in enumerate(data.objects, 1):
        try:
            one = _checked(read, case, run.label_map, slices)
            if one.id in known:
                raise OcusegError(f"id {one.id} is there twice")
            known[one.id] = one
        except OcusegError as error:
            damaged.append(f"entry {place}: {error}")
    if damaged:
        warnings.append(
            f"{OBJECTS_FILE}: {wording.count(len(damaged))} of {wording.count(len(data.objects))} objects are left out ({damaged[0]})."
        )
    found = tuple(sorted(known.values(), key=lambda one: (-one.score, one.id)))
    complete = CaseObjects(data.has_masks, thresholds, found, by_pixels=by_pixels)
    for name, counted in zip(names, complete.counts(), strict=True):
        recorded = case.found[name].objects if name in case.found else None
        if recorded is not None and recorded != counted:
            numbers = f"{counted} objects at the threshold where the prediction recorded {recorded}"
            other = "other objects than the prediction recorded"
            warnings.append(f"{name}: {OBJECTS_FILE} holds {other if case.record.withheld(name) else numbers}.")
    kept = _highest_scoring(found)
    if len(kept) < len(found):
        warnings.append(f"Of {wording.count(len(found))} objects the {wording.count(len(kept))} highest-scoring are shown.")
    return CaseObjects(data.has_masks, thresholds, kept, tuple(warnings), by_pixels=by_pixels)


def outlines(case: ReportCase, plane: PlaneRecord, label_map: LabelMap, objects: CaseObjects) -> tuple[dict[int, str], set[int], list[str]]:
    """Contours (SVG path data by object id) on one slice, the classes (from 0) that have them, and what did not fit together.

    A class that is not among those is to be drawn from the mask as a whole.
    """
    at = case.planes.index(plane)
    paths: dict[int, str] = {}
    drawn: set[int] = set()
    warnings: list[str] = []
    for label, cls in enumerate(label_map.classes):
        if label in objects.by_pixels:
            continue
        name = instance_file(plane, cls.index)
        own = {one.id: one for one in objects.in_slice(at) if one.label == label}
        if not (case.folder / name).exists():
            if any(map(objects.above, own.values())):
                warnings.append(f"{name} is missing, so {cls.name} has one contour of all; predict this case again.")
            continue
        try:
            ids = _read_ids(case, name)
        except (OcusegError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            warnings.append(f"{name} is damaged ({reason}), so {cls.name} has one contour of all; predict this case again.")
            continue
        traced = instance_paths(ids)
        if traced is None:
            warnings.append(f"{name} is so ragged that {cls.name} has one contour of all.")
            continue
        strangers = traced.keys() - own.keys()
        if strangers:
            warnings.append(f"{name}: {wording.count(len(strangers))} contours belong to no object shown and are left out.")
        paths |= {at: path for at, path in traced.items() if at in own}
        drawn.add(label)
    return paths, drawn, warnings


def instance_file(plane: PlaneRecord, class_index: int) -> str:
    return f"instances_{plane.index:03d}_{class_index}.png"


def rows(case: ReportCase, objects: CaseObjects, names: Sequence[str]) -> list[list[Any]]:
    """What the page's script draws: id, slice, class, score, x1, y1, x2, y2, size and area in words ("" where unknown or withheld)."""
    hidden = [case.record.withheld(name) for name in names]
    return [
        [
            one.id,
            one.slice,
            one.label,
            round(one.score, 4),
            *(round(value, 1) for value in one.box),
            "" if hidden[one.label] else wording.box_size(one.box, one.size_mm),
            "" if hidden[one.label] or one.area_px is None else wording.area(case, one.area_px),
        ]
        for one in objects.found
    ]


def _checked(read: ObjectRecord | DamagedObject, case: ReportCase, label_map: LabelMap, slices: dict[int, int]) -> FoundObject:
    """With its box cut to the scan, and sizes in mm only where the size of the scan's pixels is known.

    Raises
    ------
    OcusegError: it cannot be read, is of another slice or class, or its box has no extent on the scan.
    """
    if isinstance(read, DamagedObject):
        raise OcusegError(read.reason)
    if read.name not in label_map.names:
        raise OcusegError(f"the run has no class {read.name!r}")
    if read.plane not in slices:
        raise OcusegError(f"the case has no slice {read.plane}")
    high, wide = case.geometry.plane
    x1, y1, x2, y2 = (min(max(value, 0.0), float(most)) for value, most in zip(read.box, (wide, high, wide, high), strict=True))
    if not (x1 < x2 and y1 < y2):
        raise OcusegError("its box has no extent on the scan")
    sizes = read.size_mm if case.geometry.trusted().pixel_mm is not None else None
    if sizes is not None and min(sizes) <= 0:
        raise OcusegError("its size in mm is not above 0")
    label = label_map.names.index(read.name)
    return FoundObject(read.id, slices[read.plane], label, read.score, (x1, y1, x2, y2), read.area_px, sizes)


def _highest_scoring(found: tuple[FoundObject, ...]) -> tuple[FoundObject, ...]:
    in_slice: Counter[int] = Counter()
    kept = []
    for one in found:
        in_slice[one.slice] += 1
        if in_slice[one.slice] <= MOST_IN_A_SLICE:
            kept.append(one)
    return tuple(kept[:MOST_IN_A_CASE])


def _read_ids(case: ReportCase, name: str) -> npt.NDArray[np.int64]:
    ids = read_image(case.folder / name)
    if ids.shape != case.geometry.plane:
        raise OcusegError(f"it is {ids.shape} where the case says {case.geometry.plane}")
    return ids.astype(np.int64)
