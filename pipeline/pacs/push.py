"""DICOM objects into a PACS, each once: what an export made, and nothing else unless it is asked for."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PacsError
from pipeline.pacs.connection import Confirm, Connection, back_off
from pipeline.pacs.outbox import Outbox
from pipeline.scans.quiet import quiet
from pipeline.scans.walk import walk
from pipeline.types import ProgressCallback

log = logging.getLogger(__name__)

MADE_BY = ("ocuseg", "ocuseg")
"""Manufacturer and Manufacturer's Model Name of what `ocuseg export` writes; phantoms have another model."""


@dataclass
class Pushed:
    """How a push ended. ``refused``: file, and what the PACS says to it · ``unsent``: how many it was not asked for, and ``why``."""

    sent: int = 0
    sent_before: int = 0
    refused: dict[Path, str] = field(default_factory=dict)
    unsent: int = 0
    why: str = ""

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
    confirm: Confirm | None = None,
    progress: ProgressCallback | None = None,
) -> Pushed:
    """Send DICOM files that the outbox does not know as sent to the PACS called ``pacs``.

    What fails by chance is tried again ``retries`` times; what the PACS refuses is counted, and tried again by the next push.
    ``confirm`` is asked at the end which of the files sent, now or by a push that did not come to ask, the PACS does not promise to
    keep: they count as refused.
    A connection that fails for good is told in the result: what was sent before it did is sent.
    """
    ended = Pushed()
    hashes = {path: _sha256(path) for path in paths}
    known = {path: outbox.status(pacs, hashes[path]) for path in paths}
    pending = [path for path in paths if known[path] not in ("sent", "unconfirmed")]
    ended.sent_before = len(paths) - len(pending)
    asked = [path for path in paths if known[path] == "unconfirmed"]

    def enter(path: Path, refusal: str) -> None:
        outbox.record(pacs, hashes[path], "refused" if refusal else "sent" if confirm is None else "unconfirmed", refusal)
        if refusal:
            ended.refused[path] = refusal
        else:
            asked.append(path)
            ended.refused.pop(path, None)
            ended.sent += 1
        if progress is not None:
            progress(ended.sent + ended.sent_before, len(paths))

    for attempt in range(retries + 1):
        pending, ended.unsent, trouble = _send(connection, pending, enter)
        ended.why = str(trouble or "")
        if not pending or attempt == retries or (trouble is not None and not trouble.passing):
            break
        wait = back_off(attempt)
        log.info("push: %d objects not sent%s; tried again in %.0f s", len(pending), f" ({trouble})" if trouble else "", wait)
        time.sleep(wait)
    if confirm is not None and asked:
        lost = confirm(asked)
        for path in asked:
            outbox.record(pacs, hashes[path], "refused" if path in lost else "sent", lost.get(path, ""))
        ended.refused |= {path: f"not kept: {reason}" for path, reason in lost.items()}
        before = sum(known[path] == "unconfirmed" for path in lost)
        ended.sent_before -= before
        ended.sent -= len(lost) - before
    return ended


def _send(connection: Connection, paths: Sequence[Path], enter: Callable[[Path, str], None]) -> tuple[list[Path], int, PacsError | None]:
    """One attempt: files that are worth another, how many of them were not answered for, and why.

    Whatever became of a file is entered before the next one is sent.
    """
    later: list[Path] = []
    unanswered = dict.fromkeys(paths)
    try:
        for stored in connection.store(paths):
            del unanswered[stored.path]
            enter(stored.path, stored.refusal)
            if stored.passing:
                later.append(stored.path)
    except PacsError as error:
        return [*later, *unanswered], len(unanswered), error
    return later, 0, None


def dicom_files(folder: Path, *, everything: bool = False) -> tuple[list[Path], int]:
    """DICOM files below ``folder`` (or the one that it is) that an export made, or all of them; and how many were left out."""
    found, left_out = [], 0
    for path, _ in walk(folder):
        made_by = _made_by(path)
        if made_by is not None and (everything or made_by == MADE_BY):
            found.append(path)
        elif made_by is not None:
            left_out += 1
    return found, left_out


def _made_by(path: Path) -> tuple[str, str] | None:
    """Manufacturer and model of a DICOM file; None of any other file."""
    from pydicom import dcmread

    with quiet():
        try:
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "Manufacturer", "ManufacturerModelName"])
            return (
                (str(dataset.get("Manufacturer") or ""), str(dataset.get("ManufacturerModelName") or "")) if dataset.SOPClassUID else None
            )
        except Exception:  # whatever a file that is no DICOM does to the reader
            return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
