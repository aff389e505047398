"""One predicted case as every format sees it: what was found, what a reviewer said of it, and the picture that it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.export.uids import uid_of
from pipeline.inference.case_files import mask_dtype
from pipeline.reports.objects import read_objects
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.review.corrected import NOT_REVIEWED, CorrectedCase, Reviewed
from pipeline.types import LabelMap, Laterality
from pipeline.types.case_record import CASE_FILE

OCUSEG = version("ocuseg")
_PASSING = ("seconds", "engine")
"""Of a case's record: what another run of the same bundle on the same file need not repeat."""


@dataclass(frozen=True)
class Settings:
    """``formats`` asked for · ``labelmap``: segmentations as LABELMAP where classes do not overlap · ``organisation``: whose reviewers
    verify reports ("": none is called verified) · ``rejected``: also cases that a reviewer rejected."""

    formats: tuple[str, ...]
    labelmap: bool = False
    organisation: str = ""
    rejected: bool = False


@dataclass(frozen=True, eq=False)
class ExportCase:
    """``case`` as it was reviewed, ``run`` as it is of this case · ``original``: data sets (without pixels) of the DICOM file or files it
    was made of, in the order of its planes; () where there is none, which ``without`` gives the reason of · ``reviewed``: what reviewers
    said of it · ``printed`` makes the PDF of a case, and of a few words on its review · ``fellow``: the other eye, whose numbers stand in
    that PDF."""

    predictions: Path
    case: ReportCase
    run: RunFacts
    original: tuple[Any, ...] = ()
    without: str = ""
    reviewed: Reviewed = NOT_REVIEWED
    printed: Callable[[ReportCase, str], bytes] | None = None
    fellow: ReportCase | None = None

    @property
    def name(self) -> str:
        return str(self.case.key)

    @property
    def label_map(self) -> LabelMap:
        return self.run.label_map

    @property
    def eye(self) -> Laterality | None:
        """The eye as an attribute may state it: not one that a network found in the picture, which a reader of the tag would take for
        the hospital's own word. It stands in words, with its source."""
        side = self.case.side
        return None if side == "U" or self.case.geometry.laterality_source == "picture" else side

    @property
    def eye_words(self) -> str:
        words = {"R": "right eye", "L": "left eye", "U": "eye unknown"}[self.case.side]
        return f"{words} (from the picture)" if self.case.side != "U" and self.eye is None else words

    @property
    def person(self) -> str:
        """The reviewer as one name: in DICOM a backslash, as in DOMAIN\\user, would begin a second one."""
        return _one_name(self.reviewed.reviewer)

    @property
    def author(self) -> str:
        """Who drew the correction that is exported, as one name; "" of the model's own answer."""
        return _one_name(self.reviewed.author) if self.reviewed.edited else ""

    @property
    def algorithm(self) -> Literal["AUTOMATIC", "SEMIAUTOMATIC"]:
        """Of its segments: a mask that a reviewer corrected is the work of both."""
        return "SEMIAUTOMATIC" if self.reviewed.edited else "AUTOMATIC"

    @cached_property
    def masks(self) -> tuple[npt.NDArray[np.unsignedinteger[Any]], ...]:
        """The mask of each plane, (H, W), in the encoding of the label map."""
        kind = mask_dtype(self.label_map)
        return tuple(self.case.mask(plane).astype(kind) for plane in self.case.planes)

    def layers(self, at: int) -> npt.NDArray[np.bool_]:
        """Of one plane, (K, H, W)."""
        return self.label_map.layers(self.masks[at].astype(np.int64))

    @cached_property
    def marked(self) -> tuple[int, ...]:
        """Places in the label map of the classes whose pixels are marked; a detector without masks marks none of its own."""
        names = self.label_map.names
        if isinstance(self.case, CorrectedCase) and self.case.labels is not None:
            drawn = {one.name for one in self.case.labels.objects if one.segmentation is not None}
            return tuple(place for place, name in enumerate(names) if name in self.case.labels.by_pixels or name in drawn)
        if not self.run.objects:
            return tuple(range(len(names)))
        objects = read_objects(self.case, self.run)
        return tuple(place for place in range(len(names)) if objects.has_masks or place in objects.by_pixels)

    @cached_property
    def held(self) -> set[str]:
        """Names of the classes that have a pixel anywhere."""
        return {name for mask in self.masks for name in self.label_map.held(mask.astype(np.int64))}

    def rgb(self, at: int) -> npt.NDArray[np.uint8]:
        """The picture of one plane as it is shown, (H, W, 3)."""
        image = self.case.image(self.case.planes[at])
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image

    def bundle_of(self, name: str) -> tuple[str, str]:
        """Name and id of the bundle that found a class; joined by "+" where several did and nobody knows which."""
        found = self.case.found.get(name)
        own = (found.bundle_id if found is not None else "") or self.case.bundle_id
        names = dict(zip(self.run.bundle_id.split("+"), self.run.bundle_name.split(" + "), strict=False))
        return " + ".join(names.get(one, "bundle") for one in own.split("+")), own

    @cached_property
    def made(self) -> datetime:
        """When what is exported came to be, by a model or by the reviewer who corrected it: local time, as DICOM means it."""
        return moment(self.reviewed.drawn if self.reviewed.edited else self.run.started, self.case.folder / CASE_FILE)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that every object of this case depends on."""
        record = _lasting(self.case)
        editor = (self.reviewed.author, self.reviewed.drawn) if self.reviewed.edited else None
        words = [OCUSEG, self.run.bundle_name, record, self.eye_words, editor, [str(one.SOPInstanceUID) for one in self.original]]
        digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
        for mask in self.masks:
            digest.update(np.ascontiguousarray(mask).tobytes())
        return digest.hexdigest()

    def state(self, settings: Settings, kind: str) -> str:
        """The fingerprint of one kind of its objects: a verdict makes another report of measurements, and the same segmentation."""
        words: list[Any] = [self.fingerprint, kind]
        if kind in ("seg", "sr"):
            words.append(settings.labelmap)
        if kind == "pdf":
            words += [self.reviewed.words, self.fellow and (str(self.fellow.key), _lasting(self.fellow))]
        if kind == "sr":
            words += ["seg" in settings.formats, settings.organisation, self.reviewed]
        return hashlib.sha256(repr(words).encode()).hexdigest()

    def uid(self, settings: Settings, kind: str, *words: object) -> str:
        """Of an object of this case: the same each time, and another one as soon as anything in it may differ."""
        return uid_of(self.state(settings, kind), *words)


def _lasting(case: ReportCase) -> dict[str, Any]:
    return {key: value for key, value in case.record.to_json().items() if key not in _PASSING}


def _one_name(person: str) -> str:
    return person.replace("\\", "/")


def moment(stamp: str, file: Path) -> datetime:
    """An ISO 8601 time as local time; of what is none the time of a file."""
    try:
        read = datetime.fromisoformat(stamp)
    except ValueError:
        read = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).astimezone()
