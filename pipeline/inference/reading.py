"""From a file to a scan that is ready for the network, or the reason why there is none; runs in reader threads."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.errors import ScanError
from pipeline.inference.journal import Status
from pipeline.inference.predict import Predictor, Ready
from pipeline.scans.files import MAX_PIXELS, open_regular, sha256_of
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import open_scan
from pipeline.scans.workers import Pool
from pipeline.training.bundle import Bundle
from pipeline.types import Scan

log = logging.getLogger(__name__)

_TIME_LIMIT_S = 600.0
_FLAT = ("fundus", "slo")
"""Modalities that are single pictures, never stacks of slices."""


@dataclass(frozen=True)
class File:
    """One file to look at. ``path`` stays in memory; ``token`` is what is written."""

    path: Path
    token: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, eq=False)
class Read:
    """What a reader thread made of a file: a scan that is ready for the network, or why there is none."""

    file: File
    seconds: float
    ready: Ready | None = None
    status: Status = "rejected"
    code: str = ""
    reason: str = ""
    sha256: str = ""
    case: str = ""


def read_file(file: File, folder: Path, names: Pseudonyms, predictor: Predictor, suspect: bool = False) -> Read:
    """Runs in a reader thread: decode, refuse what does not fit, normalise. A ``suspect`` is first decoded in a process apart."""
    began = time.perf_counter()
    case = ""
    try:
        if suspect:
            try_apart(file.path, folder, names)
        scan = open_scan(file.path, pseudonyms=names, root=folder)
        case = str(scan.case)
        check_modality(scan, predictor.bundle)
        return Read(file, time.perf_counter() - began, predictor.ready(scan), sha256=scan.sha256, case=case)
    except ScanError as error:
        return Read(file, time.perf_counter() - began, None, "rejected", error.code, str(error), _sha256(file.path), case)
    except Exception as error:  # one file must not end the run
        log.warning("%s could not be prepared: %s", file.token, type(error).__name__, exc_info=log.isEnabledFor(logging.DEBUG))
        return Read(file, time.perf_counter() - began, None, "failed", *failure(error), sha256=_sha256(file.path), case=case)


def try_apart(path: Path, folder: Path, names: Pseudonyms) -> None:
    """Decode a file in a process of its own, so that a decoder that crashes or never ends takes that one along, and not the run.

    Raises
    ------
    ScanError: ``crashed`` or ``timeout``.
    """
    pool = Pool(folder, names, 1, MAX_PIXELS, _TIME_LIMIT_S)
    for _, record in pool.run([(path, None)]):
        if record.code in ("crashed", "timeout"):
            raise ScanError(record.code, record.reason)


def check_modality(scan: Scan, bundle: Bundle) -> None:
    """Refuse a scan of another kind than the bundle was trained on; one that does not say its kind is let through.

    Raises
    ------
    ScanError: code ``wrong_modality``.
    """
    if scan.modality not in ("unknown", bundle.modality):
        raise ScanError("wrong_modality", f"the scan is {scan.modality}, the bundle was trained on {bundle.modality}")
    if bundle.modality in _FLAT and scan.geometry.slices > 1:
        raise ScanError(
            "wrong_modality", f"a volume of {scan.geometry.slices} slices is no {bundle.modality} picture, which the bundle was trained on"
        )


def failure(error: Exception) -> tuple[str, str]:
    """(code, reason) of an unexpected error. Its own words may hold paths or names, so only its kind is kept."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out_of_memory", "memory did not suffice; it is tried again when the command is run again"
    if isinstance(error, OSError):
        return "disk", f"a file could not be read or written ({error.strerror or type(error).__name__}); it is tried again on the next run"
    return "error", f"{type(error).__name__} while working on it; it is tried again on the next run"


def _sha256(path: Path) -> str:
    """Hash of a file that did not become a scan, or "" where it cannot be read."""
    try:
        with open_regular(path) as file:
            return sha256_of(file)
    except (OSError, ScanError):
        return ""
