"""One predicted case as every format sees it: what was found, what a reviewer said of it, and the picture that it belongs to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import OcusegError
from pipeline.export.uids import uid_of
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.review.corrections import model_sha256, read_correction
from pipeline.review.state import ReviewState
from pipeline.types import LabelMap, Laterality

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
    """``run`` as it is of this case · ``original``: data sets (without pixels) of the DICOM file or files it was made of, in the order of
    its planes; () where there is none, which ``without`` gives the reason of · ``review``: what reviewers said of it, if they did."""

    predictions: Path
    case: ReportCase
    run: RunFacts
    original: tuple[Any, ...] = ()
    without: str = ""
    review: ReviewState | None = None

    @property
    def name(self) -> str:
        return str(self.case.key)

    @property
    def label_map(self) -> LabelMap:
        return self.run.label_map

    @property
    def eye(self) -> Laterality | None:
        if self.review is not None and self.review.eye:
            return "R" if self.review.eye == "R" else "L"
        side = self.case.side
        return None if side == "U" else side

    @property
    def eye_words(self) -> str:
        return {"R": "right eye", "L": "left eye", None: "eye unknown"}[self.eye]

    @property
    def algorithm(self) -> Literal["AUTOMATIC", "SEMIAUTOMATIC"]:
        """Of its segments: a mask that a reviewer corrected is the work of both."""
        return "SEMIAUTOMATIC" if self.edited else "AUTOMATIC"

    @cached_property
    def verdict(self) -> ReviewState | None:
        """The review's, where it is about what is exported: predicted anew, a case is a case that nobody reviewed."""
        if self.review is None or self.review.verdict == "unreviewed":
            return None
        known = self.review.mask_sha256
        return self.review if known in ("", model_sha256(self.case.folder)) else None

    @property
    def rejected(self) -> bool:
        return self.verdict is not None and self.verdict.verdict == "rejected"

    @property
    def edited(self) -> bool:
        return self.verdict is not None and self.verdict.verdict == "edited" and bool(self.verdict.correction)

    @cached_property
    def masks(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The mask of each plane, (H, W), in the encoding of the label map: the reviewer's where it was corrected, else the model's."""
        if self.verdict is not None and self.edited:
            corrected = read_correction(self.predictions, self.verdict.correction).masks
            if [mask.shape for mask in corrected] != [self.case.geometry.plane] * len(self.case.planes):
                raise OcusegError("the reviewer's correction has other planes than the case; predict and review it again")
            return tuple(mask.astype(np.int64) for mask in corrected)
        return tuple(map(self.case.mask, self.case.planes))

    def layers(self, at: int) -> npt.NDArray[np.bool_]:
        """Of one plane, (K, H, W)."""
        return self.label_map.layers(self.masks[at])

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
        """When the result that is exported came to be: local time, as DICOM means it."""
        stamp = self.verdict.at if self.verdict is not None else self.run.started
        try:
            started = datetime.fromisoformat(stamp)
        except ValueError:
            started = datetime.fromtimestamp((self.case.folder / "case.json").stat().st_mtime, UTC)
        return (started if started.tzinfo is not None else started.replace(tzinfo=UTC)).astimezone()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that an export of this case depends on."""
        record = {key: value for key, value in self.case.record.to_json().items() if key not in _PASSING}
        digest = hashlib.sha256(json.dumps([OCUSEG, self.run.bundle_name, record], sort_keys=True).encode())
        for mask in self.masks:
            digest.update(np.ascontiguousarray(mask).tobytes())
        if self.review is not None:
            digest.update(repr((self.review, self.verdict is None)).encode())
        digest.update("".join(str(one.SOPInstanceUID) for one in self.original).encode())
        return digest.hexdigest()

    def state(self, settings: Settings) -> str:
        """The fingerprint of this case's export with these settings."""
        words = (self.fingerprint, settings.labelmap, "seg" in settings.formats, settings.organisation, settings.rejected)
        return hashlib.sha256(repr(words).encode()).hexdigest()

    def uid(self, settings: Settings, *words: object) -> str:
        """Of an object of this case: the same each time, and another one as soon as anything in it may differ."""
        return uid_of(self.state(settings), *words)
