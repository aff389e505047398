"""DICOM objects into a PACS, each once: what an export made, and nothing else unless it is asked for."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PacsError
from pipeline.pacs.connection import Connection, back_off
from pipeline.pacs.outbox import Outbox
from pipeline.scans.quiet import quiet
from pipeline.scans.walk import walk
from pipeline.types import ProgressCallback

log = logging.getLogger(__name__)

MANUFACTURER = "ocuseg"
OURS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    "1.2.840.10008.5.1.4.1.1.88.22": "SR",
    "1.2.840.10008.5.1.4.1.1.88.33": "SR",
    "1.2.840.10008.5.1.4.1.1.88.34": "SR",
    "1.2.840.10008.5.1.4.1.1.7": "SC",
    "1.2.840.10008.5.1.4.1.1.7.2": "SC",
    "1.2.840.10008.5.1.4.1.1.7.4": "SC",
    "1.2.840.10008.5.1.4.1.1.104.1": "PDF",
}
"""What `ocuseg export` writes, by SOP class."""


@dataclass
class Pushed:
    """How a push ended. ``refused``: file, and what the PACS says to it."""

    sent: int = 0
    sent_before: int = 0
    refused: dict[Path, str] = field(default_factory=dict)

    def refusals(self, folder: Path) -> dict[str, str]:
        """What was refused, by the file's path in ``folder``."""
        return {str(path.relative_to(folder) if path.is_relative_to(folder) else path.name): why for path, why in self.refused.items()}


def push(
    connection: Connection,
    pacs: str,
    paths: Sequence[Path],
    outbox: Outbox,
    *,
    retries: int = 3,
    progress: ProgressCallback | None = None,
) -> Pushed:
    """Send DICOM files that the outbox does not know as sent to the PACS called ``pacs``.

    What fails by chance is tried again ``retries`` times; what the PACS refuses is counted, and tried again by the next push.
    A connection that fails for good ends in each unsent file's reason, not in an error.
    """
    ended = Pushed()
    hashes = {path: _sha256(path) for path in paths}
    pending = [path for path in paths if not outbox.is_sent(pacs, hashes[path])]
    ended.sent_before = len(paths) - len(pending)

    def enter(path: Path, refusal: str) -> None:
        outbox.record(pacs, hashes[path], refusal)
        if refusal:
            ended.refused[path] = refusal
        else:
            ended.sent += 1
            ended.refused.pop(path, None)
        if progress is not None:
            progress(ended.sent + ended.sent_before, len(paths))

    for attempt in range(retries + 1):
        pending = _send(connection, pending, enter)
        if not pending or attempt == retries:
            break
        wait = back_off(attempt)
        log.info("push: %d objects not sent; tried again in %.0f s", len(pending), wait)
        time.sleep(wait)
    return ended


def _send(connection: Connection, paths: Sequence[Path], enter: Callable[[Path, str], None]) -> list[Path]:
    """One attempt; what is worth another is returned. Whatever became of a file is entered before the next one is sent."""
    later: list[Path] = []
    unanswered = dict.fromkeys(paths)
    try:
        for stored in connection.store(paths):
            del unanswered[stored.path]
            enter(stored.path, stored.refusal)
            if stored.passing:
                later.append(stored.path)
    except PacsError as error:
        for path in unanswered:
            enter(path, str(error))
        later += unanswered if error.passing else ()
    return later


def dicom_files(folder: Path, is_wanted: Callable[[str, str], bool]) -> tuple[list[Path], int]:
    """DICOM files below ``folder`` (or the one that it is) that are wanted by SOP class and manufacturer, and how many others."""
    found, left_out = [], 0
    for path, _ in walk(folder):
        said = _read(path)
        if said is not None and is_wanted(*said):
            found.append(path)
        elif said is not None:
            left_out += 1
    return found, left_out


def is_ours(sop_class: str, manufacturer: str) -> bool:
    """Whether `ocuseg export` makes such objects, and this one is ocuseg's: no new picture of an eye."""
    return sop_class in OURS and manufacturer == MANUFACTURER


def _read(path: Path) -> tuple[str, str] | None:
    """SOP class and manufacturer of a DICOM file; None of any other file."""
    from pydicom import dcmread

    with quiet():
        try:
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Manufacturer"])
            return str(dataset.SOPClassUID), str(dataset.get("Manufacturer") or "")
        except Exception:  # whatever a file that is no DICOM does to the reader
            return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
