"""The record of one file of a hospital tree, without anything that leads back to a person or a place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import ScanError
from pipeline.scans.files import MAX_PIXELS, decoding, open_regular, sha256_of, sniff_file
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import decode_scan
from pipeline.scans.place import place_bytes
from pipeline.scans.series import to_text
from pipeline.scans.walk import IN_EXPORT, LINK, UNLISTED
from pipeline.types import Scan

Refused = Literal["not_an_image", "not_followed", "rejected"]
Status = Literal["read", "part", "duplicate"] | Refused
Look = Callable[[Scan], Scan]
"""What is made of a scan before it is entered; a ScanError that it raises rejects the file."""

_NO_IMAGE = {"not_an_image", "not_a_file", "no_pixels", IN_EXPORT}
PASSING = {"unreadable", "timeout", "crashed", "too_large", "no_geometry", LINK, UNLISTED, IN_EXPORT}
"""Codes caused by the moment or a setting rather than by the file: it is tried again even if unchanged."""


def status_of(code: str) -> Refused:
    """The status that an error code gives a file, in catalogue and ledger alike: not an image, a link not followed, or rejected."""
    return "not_an_image" if code in _NO_IMAGE else "not_followed" if code == LINK else "rejected"


@dataclass(frozen=True)
class FileRecord:
    """One file. ``token``, ``stamp`` and ``instance`` are HMACs of the relative path, of size and modification time, and of the SOP
    Instance UID; ``pixels`` is the SHA-256 of the picture alone. ``series`` and ``piece`` identify a slice of a volume (scans/series.py).

    ``related`` is the token of the file that a duplicate repeats, that has the UID of a ``conflict``, or whose record stands for the
    volume that a ``part`` belongs to. ``code`` and ``reason`` of a file that was read describe such relations, or are empty; ``warnings``
    are the Scan's, joined by "; ". ``case`` is ``str(CaseKey)``. A duplicate keeps what was read from it, so that it can replace an
    original that is removed. ``patient_source`` and ``day`` as of a Scan. ``place`` stands for the folder of a slice.
    """

    token: str
    stamp: str
    sha256: str | None
    status: Status
    code: str = ""
    reason: str = ""
    case: str | None = None
    modality: str | None = None
    rows: int | None = None
    columns: int | None = None
    slices: int | None = None
    modality_source: str | None = None
    laterality: str | None = None
    laterality_source: str | None = None
    spacing_source: str | None = None
    format: str | None = None
    instance: str | None = None
    related: str | None = None
    warnings: str = ""
    pixels: str | None = None
    series: str | None = None
    piece: str | None = None
    patient_source: str | None = None
    day: int | None = None
    place: str | None = None

    def alone(self) -> FileRecord:
        """The record regardless of other files."""
        if self.status not in ("read", "part", "duplicate"):
            return self
        slices = self.slices if self.series is None else 1
        return replace(self, status="read", code="", reason="", related=None, slices=slices)


def stamp_of(path: Path, pseudonyms: Pseudonyms) -> str:
    """A keyed hash of size and modification time of the path's target, or of a broken link itself: the same while nothing changed.

    Keyed, because a scan's modification time is often the date of the visit.
    """
    for look in (os.stat, os.lstat):
        try:
            status = look(path)
        except (OSError, ValueError):
            continue
        return pseudonyms.token("stamp", f"{status.st_size}:{status.st_mtime_ns}")
    return pseudonyms.token("stamp", "")


def rejection(
    path: Path, root: Path, pseudonyms: Pseudonyms, error: ScanError, sha256: str | None = None, kind: str | None = None
) -> FileRecord:
    """The record of a file that is not a Scan."""
    token, stamp = token_of(path, root, pseudonyms), stamp_of(path, pseudonyms)
    return FileRecord(token, stamp, sha256, status_of(error.code), error.code, str(error), format=kind)


def token_of(path: Path, root: Path, pseudonyms: Pseudonyms) -> str:
    """The token of a file's path below ``root``; it stays the same if the whole tree is moved."""
    return pseudonyms.token("path", place_bytes(path, root))


@dataclass(frozen=True, eq=False)
class Opened:
    """The result of opening one file: a Scan, or why there is none; its SHA-256 and format as far as known."""

    scan: Scan | None = None
    error: ScanError | None = None
    sha256: str | None = None
    format: str | None = None

    def looked_at(self, look: Look) -> Opened:
        """With what ``look`` makes of the scan, or the ScanError that it raises."""
        if self.scan is None:
            return self
        try:
            return replace(self, scan=look(self.scan))
        except ScanError as error:
            return replace(self, scan=None, error=error)


def open_file(path: Path, root: Path, pseudonyms: Pseudonyms, max_pixels: int = MAX_PIXELS) -> Opened:
    """Read one file to the end. Never raises because of its contents."""
    sha256: str | None = None
    kind: str | None = None
    try:
        with open_regular(path) as file:
            kind = sniff_file(file)
            with decoding("the file"):
                sha256 = sha256_of(file)
            return Opened(decode_scan(file, kind, path, sha256, pseudonyms, root, max_pixels), None, sha256, kind)
    except ScanError as error:
        return Opened(None, error, sha256, kind)


def examine(path: Path, root: Path, pseudonyms: Pseudonyms, max_pixels: int = MAX_PIXELS) -> FileRecord:
    """Read one file to the end and return its record. Never raises because of its contents."""
    stamp = stamp_of(path, pseudonyms)
    return record_of(open_file(path, root, pseudonyms, max_pixels), path, root, pseudonyms, stamp)


def record_of(opened: Opened, path: Path, root: Path, pseudonyms: Pseudonyms, stamp: str) -> FileRecord:
    """The record of a file that was opened; ``stamp`` as it was before."""
    if opened.error is not None:
        return rejection(path, root, pseudonyms, opened.error, opened.sha256, opened.format)
    scan = opened.scan
    assert scan is not None
    geometry = scan.geometry
    return FileRecord(
        token_of(path, root, pseudonyms),
        stamp,
        scan.sha256,
        "read",
        case=str(scan.case),
        modality=scan.modality,
        rows=geometry.plane[0],
        columns=geometry.plane[1],
        slices=geometry.slices,
        modality_source=None if scan.modality == "unknown" else scan.modality_source,
        laterality=geometry.laterality,
        laterality_source=geometry.laterality_source,
        spacing_source=geometry.spacing_source,
        format=opened.format,
        instance=pseudonyms.token("image", scan.sop_instance_uid) if scan.sop_instance_uid else None,
        warnings=scan.told,
        pixels=pixels_sha256(scan) or None,
        series=scan.piece.series if scan.piece else None,
        piece=to_text(scan.piece) if scan.piece else None,
        patient_source=scan.patient_source,
        day=scan.day,
    )


def pixels_sha256(scan: Scan) -> str:
    """SHA-256 of the picture alone, for a file with a SOP Instance UID; "" for any other."""
    if scan.sop_instance_uid is None:
        return ""
    head = f"{scan.pixels.dtype.name} {scan.pixels.shape} ".encode("ascii")
    return hashlib.sha256(head + np.ascontiguousarray(scan.pixels).tobytes()).hexdigest()
