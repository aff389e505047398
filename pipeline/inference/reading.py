"""From a file to a scan that is ready for the network, or the reason why there is none; runs in reader threads."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pipeline.errors import BundleError, ScanError
from pipeline.inference.journal import Entry, Status
from pipeline.inference.model_set import ModelSet, PreparedCase
from pipeline.inference.profile import Profile
from pipeline.memory import Budget
from pipeline.scans.record import Opened, status_of
from pipeline.scans.workers import Pool
from pipeline.types import Scan

log = logging.getLogger(__name__)

Fill = Callable[[Scan, Path], Scan]


@dataclass(frozen=True)
class File:
    """One file to look at. ``path`` stays in memory; ``token`` is what is written. ``key``: see scans/listing.py."""

    path: Path
    token: str
    stamp: str
    key: str = ""

    def refused(self, error: ScanError, sha256: str = "") -> Entry:
        """How the file ends where it cannot become a scan."""
        return Entry(self.token, self.stamp, sha256, "", "", status_of(error.code), error.code, str(error), 0.0)


@dataclass(frozen=True, eq=False)
class Read:
    """What a reader thread made of a file: a scan that is ready for the network, or why there is none."""

    file: File
    seconds: float
    ready: PreparedCase | None = None
    status: Status = "rejected"
    code: str = ""
    reason: str = ""
    sha256: str = ""
    case: str = ""
    release: Callable[[], None] = lambda: None

    def entry(self) -> Entry:
        """How a file ends of which no result is made."""
        return Entry(self.file.token, self.file.stamp, self.sha256, "", self.case, self.status, self.code, self.reason, self.seconds)


def read_file(file: File, number: int, pool: Pool, models: ModelSet, fill: Fill, budget: Budget, profile: Profile) -> Read:
    """Runs in a reader thread: let a process decode it, refuse what does not fit, normalise. ``number`` in the order of the files;
    ``fill`` adds what the user states."""
    began = time.perf_counter()
    case, opened = "", Opened()
    status: Status = "failed"
    release = partial(budget.give_back, number)

    def admit(shape: tuple[int, ...], itemsize: int) -> None:
        asked = time.perf_counter()
        budget.take(number, _bytes_under_way(shape, itemsize, models))
        profile.add("read and decode", asked - time.perf_counter())  # waiting is no reading

    try:
        with profile.stage("read and decode"):
            opened = pool.scan(file.path, admit)
        if opened.scan is None:
            raise opened.error or AssertionError
        case = str(opened.scan.case)
        with profile.stage("normalise"):
            ready = models.ready(fill(opened.scan, file.path))
        return Read(file, time.perf_counter() - began, ready, sha256=opened.scan.sha256, case=case, release=release)
    except BundleError:
        raise  # of a bundle that tells kinds, and no fault of this file
    except ScanError as error:
        status, code, reason = status_of(error.code), error.code, str(error)
    except Exception as error:  # one file must not end the run
        log.warning("%s could not be prepared: %s", file.token, type(error).__name__, exc_info=log.isEnabledFor(logging.DEBUG))
        code, reason = failure(error)
    finally:
        budget.skip(number)
    return Read(file, time.perf_counter() - began, None, status, code, reason, opened.sha256 or "", case, release)


def _bytes_under_way(shape: tuple[int, ...], itemsize: int, models: ModelSet) -> int:
    """What a scan takes from its reading until its result is written: a picture with its normalisations and its probabilities, a volume
    with its mask."""
    values = math.prod(shape)
    if len(shape) > 3:
        return values * (itemsize + 2)
    return values * (itemsize + 8 * len(models.predictors)) + 4 * models.classes * math.prod(shape[1:])


def failed(entries: Sequence[Entry], error: Exception) -> list[Entry]:
    """The entries, as they end where something unexpected came between."""
    code, reason = failure(error)
    return [replace(entry, status="failed", code=code, reason=reason) for entry in entries]


def failure(error: Exception) -> tuple[str, str]:
    """(code, reason) of an unexpected error. Its own words may hold paths or names, so only its kind is kept."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out_of_memory", "memory did not suffice; it is tried again when the command is run again"
    if isinstance(error, OSError):
        return "disk", f"a file could not be read or written ({error.strerror or type(error).__name__}); it is tried again on the next run"
    return "error", f"{type(error).__name__} while working on it; it is tried again on the next run"
