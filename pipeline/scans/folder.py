"""Hospital trees: walked as a stream, every file examined and accounted for, and only what has changed read again."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.lock import locked
from pipeline.memory import Limits
from pipeline.scans.archives import archive_counts
from pipeline.scans.catalogue import Catalogue, CatalogueWriter
from pipeline.scans.database import refusals
from pipeline.scans.identity import Pseudonyms, roles_that_counted, tell_of_roles, warn_of_one_patient
from pipeline.scans.originals import OTHER_EYE, Originals
from pipeline.scans.place import Role
from pipeline.scans.record import PASSING, FileRecord, Status, examine, open_file, record_of, rejection, stamp_of, token_of
from pipeline.scans.walk import walk
from pipeline.scans.workers import Pool
from pipeline.types import ProgressCallback, Scan

log = logging.getLogger(__name__)

__all__ = ["Counts", "FileRecord", "Status", "index_folder", "scan_folder"]

_WINDOW = 64
"""How many files workers may be ahead of the slowest one; bounds the memory that keeping the order takes."""


@dataclass
class Counts:
    """What became of the files of a tree. ``codes`` counts (status, code); ``unchanged`` were taken from the last catalogue;
    ``with_warnings`` were read, but need a person's attention; ``archives`` counts archives with images, and the images in them."""

    files: int = 0
    unchanged: int = 0
    with_warnings: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    archives: Counter[str] = field(default_factory=Counter)
    groups: dict[str, int] = field(default_factory=dict)

    def status(self, status: Status) -> int:
        return sum(count for (own, _), count in self.codes.items() if own == status)

    def summary(self) -> dict[str, int]:
        """Everything by name, for a table or JSON; ``rejected: CODE`` for each reason."""
        out = {"files": self.files, "unchanged": self.unchanged}
        for status in ("read", "part", "duplicate", "not_an_image", "not_followed", "rejected"):
            out[status] = sum(count for (own, _), count in self.codes.items() if own == status)
        out["with_warnings"] = self.with_warnings
        out.update({f"rejected: {code}": count for (own, code), count in sorted(self.codes.items()) if own == "rejected"})
        return {**out, **self.archives, **self.groups}


_REASONS = {
    "same_content": "the same file lies elsewhere in the tree",
    "same_instance": "the same picture under the same SOP Instance UID lies elsewhere in the tree",
    "conflict": "another file has the same SOP Instance UID and another picture; both are kept, and one of them is named wrongly",
}


def _settle(record: FileRecord, originals: Originals) -> FileRecord:
    """The record, marked as a duplicate if its content or picture came before, or as a conflict if its UID had another picture."""
    if record.status != "read":
        return record
    other = originals.find(record.token, record.sha256, record.instance, record.pixels)
    if other is not None:
        status: Status = "read" if other.kind == "conflict" else "duplicate"
        reason = _REASONS[other.kind] + OTHER_EYE * (status == "duplicate" and other.of_other_eye(record.case or ""))
        record = replace(record, status=status, code=other.kind, reason=reason, related=other.token)
    if record.status == "read":
        originals.add(record.token, record.case or "", record.sha256, record.instance, record.pixels)
    return record


def _known_record(known: Sequence[Catalogue], token: str, stamp: str) -> FileRecord | None:
    for catalogue in known:
        record = catalogue.get(token) if catalogue.current else None
        if record is not None and record.stamp == stamp and record.code not in PASSING:
            return record.alone()
    return None


def scan_folder(
    root: Path,
    *,
    pseudonyms: Pseudonyms,
    workers: int = 2,
    known: Catalogue | Sequence[Catalogue] | None = None,
    limits: Limits | None = None,
    leave_out: Container[str] = (),
    unchanged: Callable[[], None] | None = None,
    look: Callable[[Scan], Scan] | None = None,
) -> Generator[tuple[Path, FileRecord], None, None]:
    """Every file below ``root`` with its record, in the order of :func:`walk`, as a stream.

    Parameters
    ----------
    workers: processes that read; 0 reads in this one (no protection against a decoder that crashes or hangs).
    known: earlier catalogues; a file whose size and modification time are as recorded there is not opened.
    limits: what one file may take; by default what fits this machine.
    leave_out: absolute paths to skip.
    unchanged: called for each file that was taken from ``known``.
    look: what is made of each scan before it is entered, in any thread of this process; a ScanError that it raises rejects the file.

    The first file with a content, or with a picture and its SOP Instance UID, is ``read``, later ones are ``duplicate``. Slices of a volume
    are not joined yet. Paths stay in memory; a record holds none.
    """
    catalogues = [known] if isinstance(known, Catalogue) else list(known or ())
    root = Path(os.path.abspath(root))
    limits = limits or Limits.chosen(workers=workers)

    def jobs() -> Iterator[tuple[Path, FileRecord | None]]:
        for path, problem in walk(root):
            if str(path) in leave_out:
                continue
            if problem is not None:
                yield path, rejection(path, root, pseudonyms, problem)
                continue
            token = token_of(path, root, pseudonyms)
            record = _known_record(catalogues, token, stamp_of(path, pseudonyms)) if catalogues else None
            if record is not None and unchanged is not None:
                unchanged()
            yield path, record

    def read(path: Path, pool: Pool | None = None) -> FileRecord:
        if look is None:
            return examine(path, root, pseudonyms, limits.max_pixels) if pool is None else pool.record(path)
        stamp = stamp_of(path, pseudonyms)
        opened = open_file(path, root, pseudonyms, limits.max_pixels) if pool is None else pool.scan(path)
        return record_of(opened.looked_at(look), path, root, pseudonyms, stamp)

    with closing(Originals()) as originals:
        if workers < 1:
            for path, record in jobs():
                yield path, _settle(record or read(path), originals)
            return
        with ThreadPoolExecutor(workers, "ocuseg-read") as threads, Pool(root, pseudonyms, limits) as pool:
            waiting: deque[tuple[Path, FileRecord | Future[FileRecord]]] = deque()

            def next_one() -> tuple[Path, FileRecord]:
                path, record = waiting.popleft()
                return path, _settle(record if isinstance(record, FileRecord) else record.result(), originals)

            try:
                for path, known_record in jobs():
                    waiting.append((path, known_record or threads.submit(read, path, pool)))
                    while waiting and (len(waiting) > _WINDOW * workers or _is_done(waiting[0][1])):
                        yield next_one()
                while waiting:
                    yield next_one()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)


def _is_done(record: FileRecord | Future[FileRecord]) -> bool:
    return isinstance(record, FileRecord) or record.done()


def index_folder(
    root: Path,
    out: Path,
    *,
    pseudonyms: Pseudonyms,
    workers: int = 2,
    progress: ProgressCallback | None = None,
    on_file: Callable[[Path, FileRecord], None] | None = None,
    limits: Limits | None = None,
    look: Callable[[Scan], Scan] | None = None,
    models: str = "",
) -> Counts:
    """Write the catalogue of ``root`` to ``out``, or bring the one there up to date.

    If it is killed, an existing catalogue stays as it was, and the next run continues from what this one had read.
    ``progress(done)`` is called after each file, ``on_file(path, record)`` with its record. ``look`` as of :func:`scan_folder`, by bundles
    with these ids (``models``): a catalogue that others made is not continued.

    Raises
    ------
    ConfigError: ``out`` exists and is not a catalogue, is damaged, cannot be written, or another process is writing it.
    NothingUsableError: ``root`` does not exist.
    """
    out = Path(os.path.abspath(out))
    what = f"the catalogue {out.name!r}"
    staged, left_over = out.with_name(out.name + ".part"), out.with_name(out.name + ".interrupted")
    lock = out.with_name(f".{out.name}.lock")
    own = {str(lock)} | {f"{path}{end}" for path in (out, staged, left_over) for end in ("", "-journal")}
    counts, roles = Counts(), Counter[Role]()

    def count_unchanged() -> None:
        counts.unchanged += 1

    with ExitStack() as held:
        held.enter_context(refusals(what, "is damaged; remove it and run the command again (every file is then read anew)"))
        out.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(lock, ConfigError(f"another process is writing {what}; wait for it, or give another name")))
        _keep_longer(staged, left_over, models)
        with ExitStack() as stack:
            known = [stack.enter_context(Catalogue(path, models)) for path in (out, left_over) if path.exists()]
            if not all(catalogue.current for catalogue in known):
                log.info("%s is of another version of ocuseg, or of other models; every file is read anew", what)
            writer = stack.enter_context(closing(CatalogueWriter(staged, models)))
            found = scan_folder(
                root,
                pseudonyms=pseudonyms,
                workers=workers,
                known=known,
                limits=limits,
                leave_out=own,
                unchanged=count_unchanged,
                look=look,
            )
            for path, record in stack.enter_context(closing(found)):
                writer.add(record)
                counts.files += 1
                if record.status == "read":
                    roles.update(roles_that_counted(record.case or "", path, root, pseudonyms))
                counts.archives.update(archive_counts([record.reason]))
                if on_file is not None:
                    on_file(path, record)
                if progress is not None:
                    progress(counts.files)
            writer.join()
        with Catalogue(staged) as complete:
            counts.codes.update(complete.outcomes())
            counts.with_warnings, counts.groups = complete.with_warnings(), complete.groups()
            warn_of_one_patient(Counter((record.case or "").partition("_")[0] for record in complete if record.status == "read"))
        tell_of_roles(roles)
        os.replace(staged, out)
        left_over.unlink(missing_ok=True)
    return counts


def _keep_longer(staged: Path, left_over: Path, models: str) -> None:
    """An interrupted run's catalogue becomes ``left_over``, unless the one before it got further; a broken or old one is deleted."""
    lengths = []
    for path in (staged, left_over):
        length = -1
        if path.exists():
            with suppress(ConfigError, sqlite3.Error), Catalogue(path, models) as catalogue:
                length = len(catalogue) if catalogue.current else -1
        if length < 0:
            path.unlink(missing_ok=True)
        lengths.append(length)
    if lengths[0] > lengths[1]:
        os.replace(staged, left_over)
    for end in ("", "-journal"):
        staged.with_name(staged.name + end).unlink(missing_ok=True)
