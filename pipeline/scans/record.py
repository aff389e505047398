"""What is known of one file of a hospital tree, without anything that leads back to a person or a place."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import ScanError
from pipeline.scans.files import MAX_PIXELS, decoding, open_regular, sha256_of, sniff_file
from pipeline.scans.identity import Pseudonyms, place_bytes
from pipeline.scans.open import decode_scan
from pipeline.types import Scan

Status = Literal["read", "duplicate", "not_an_image", "rejected"]

_NO_IMAGE = {"not_an_image", "not_a_file", "no_pixels"}
PASSING = {"unreadable", "timeout", "crashed", "too_large"}
"""Codes that tell of the moment or of a setting rather than of the file: it is tried again even when it has not changed."""


@dataclass(frozen=True)
class FileRecord:
    """One file. ``token`` and ``instance`` are HMACs of the relative path and the SOP Instance UID; ``duplicate_of`` is a token.

    ``code`` and ``reason`` are empty for a file that was read; ``warnings`` are then those of the Scan, joined by "; ". ``case`` is
    ``str(CaseKey)``. A duplicate keeps what was read of it, so that it can take the place of an original that is removed.
    """

    token: str
    size: int
    mtime_ns: int
    sha256: str | None
    status: Status
    code: str = ""
    reason: str = ""
    case: str | None = None
    modality: str | None = None
    rows: int | None = None
    columns: int | None = None
    slices: int | None = None
    laterality: str | None = None
    laterality_source: str | None = None
    spacing_source: str | None = None
    format: str | None = None
    instance: str | None = None
    duplicate_of: str | None = None
    warnings: str = ""

    def alone(self) -> FileRecord:
        """The record as it is without regard to other files."""
        if self.status != "duplicate":
            return self
        return replace(self, status="read", code="", reason="", duplicate_of=None)


def size_and_time(path: Path) -> tuple[int, int]:
    """(bytes, modification time in ns) of what the path leads to, else of the link itself, else (0, 0)."""
    for look in (os.stat, os.lstat):
        try:
            status = look(path)
        except (OSError, ValueError):
            continue
        return status.st_size, status.st_mtime_ns
    return 0, 0


def rejection(
    path: Path, root: Path, pseudonyms: Pseudonyms, error: ScanError, sha256: str | None = None, kind: str | None = None
) -> FileRecord:
    """The record of a file that is no Scan."""
    size, mtime_ns = size_and_time(path)
    status: Status = "not_an_image" if error.code in _NO_IMAGE else "rejected"
    return FileRecord(token_of(path, root, pseudonyms), size, mtime_ns, sha256, status, error.code, str(error), format=kind)


def token_of(path: Path, root: Path, pseudonyms: Pseudonyms) -> str:
    """The token of a file's place below ``root``; it stays the same when the whole tree is moved."""
    return pseudonyms.token("path", place_bytes(path, root))


@dataclass(frozen=True, eq=False)
class Opened:
    """What a look at one file gave: a Scan, or why there is none; its SHA-256 and format as far as they were found out."""

    scan: Scan | None = None
    error: ScanError | None = None
    sha256: str | None = None
    format: str | None = None


def open_file(path: Path, root: Path, pseudonyms: Pseudonyms, max_pixels: int = MAX_PIXELS) -> Opened:
    """Read one file to the end. Never raises for what a file holds.

    A folder comes here only when it could not be listed.
    """
    sha256: str | None = None
    kind: str | None = None
    try:
        if os.path.isdir(path):
            raise ScanError("unreadable", "the folder cannot be listed; check its permissions")
        with open_regular(path) as file:
            kind = sniff_file(file)
            with decoding("the file"):
                sha256 = sha256_of(file)
            return Opened(decode_scan(file, kind, path, sha256, pseudonyms, root, max_pixels), None, sha256, kind)
    except ScanError as error:
        return Opened(None, error, sha256, kind)


def examine(path: Path, root: Path, pseudonyms: Pseudonyms, max_pixels: int = MAX_PIXELS) -> FileRecord:
    """Read one file to the end and say what it is. Never raises for what a file holds."""
    size, mtime_ns = size_and_time(path)
    return record_of(open_file(path, root, pseudonyms, max_pixels), path, root, pseudonyms, size, mtime_ns)


def record_of(opened: Opened, path: Path, root: Path, pseudonyms: Pseudonyms, size: int, mtime_ns: int) -> FileRecord:
    """The record of a file that was opened; ``size`` and ``mtime_ns`` as they were before."""
    if opened.error is not None:
        return rejection(path, root, pseudonyms, opened.error, opened.sha256, opened.format)
    scan = opened.scan
    assert scan is not None
    geometry = scan.geometry
    return FileRecord(
        token_of(path, root, pseudonyms),
        size,
        mtime_ns,
        scan.sha256,
        "read",
        case=str(scan.case),
        modality=scan.modality,
        rows=geometry.plane[0],
        columns=geometry.plane[1],
        slices=geometry.slices,
        laterality=geometry.laterality,
        laterality_source=geometry.laterality_source,
        spacing_source=geometry.spacing_source,
        format=opened.format,
        instance=pseudonyms.token("image", scan.sop_instance_uid) if scan.sop_instance_uid else None,
        warnings="; ".join(scan.warnings),
    )
