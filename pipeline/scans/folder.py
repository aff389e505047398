"""Hospital trees: walked as a stream, every file examined and accounted for, and only what has changed read again."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.atomic import atomic_path
from pipeline.errors import ConfigError, StoppedRun, TooManyFailures
from pipeline.lock import locked
from pipeline.memory import Limits
from pipeline.scans.archives import archive_counts
from pipeline.scans.catalogue import Catalogue, CatalogueWriter
from pipeline.scans.database import refusals
from pipeline.scans.identity import Pseudonyms, roles_that_counted, tell_of_roles, warn_of_one_patient
from pipeline.scans.listing import Listed, Listing
from pipeline.scans.merging import merge_catalogues, part_of
from pipeline.scans.place import Role
from pipeline.scans.record import PASSING, FileRecord, Look, Status, examine, open_file, record_of, rejection, stamp_of
from pipeline.scans.shard import Shard, Share
from pipeline.scans.workers import Pool
from pipeline.types import ProgressCallback

log = logging.getLogger(__name__)

__all__ = ["Counts", "FileRecord", "Status", "index_folder", "scan_files"]

Reader = Callable[[Iterator[tuple[Listed, FileRecord | None]]], Iterator[tuple[Listed, FileRecord]]]
"""Gives each file with its record, in order, and reads those that come without one."""
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


def _known_record(known: Sequence[Catalogue], token: str, stamp: str) -> FileRecord | None:
    for catalogue in known:
        record = catalogue.get(token) if catalogue.current else None
        if record is not None and record.stamp == stamp and record.code not in PASSING:
            return record.alone()
    return None


def scan_files(
    listing: Listing,
    root: Path,
    *,
    pseudonyms: Pseudonyms,
    workers: int = 2,
    known: Catalogue | Sequence[Catalogue] | None = None,
    limits: Limits | None = None,
    unchanged: Callable[[FileRecord], None] | None = None,
    again: bool = False,
    look: Look | None = None,
    reader: Reader | None = None,
) -> Generator[tuple[Listed, FileRecord], None, None]:
    """Every file of a listing's share with its record, in the order of the walk, as a stream. ``root`` is what tokens are of.

    Parameters
    ----------
    workers: processes that read; 0 reads in this one (no protection against a decoder that crashes or hangs).
    known: earlier catalogues; a file whose size and modification time are as recorded there is not opened.
    limits: what one file may take; by default what fits this machine.
    unchanged: called for each file that was taken from ``known``. again: what was rejected is opened nevertheless.
    look: called in any thread of this process. reader: who reads in place of this process and its ``workers``, and looks, too.

    Each record is of its file alone: duplicates and slices of a volume are found when all are there (:meth:`CatalogueWriter.join`). Paths
    stay in memory; a record holds none.
    """
    catalogues = [known] if isinstance(known, Catalogue) else list(known or ())
    limits = limits or Limits.chosen(workers=workers)

    def jobs() -> Iterator[tuple[Listed, FileRecord | None]]:
        for file in listing:
            if file.problem is not None:
                yield file, rejection(file.path, root, pseudonyms, file.problem)
                continue
            record = _known_record(catalogues, file.token, stamp_of(file.path, pseudonyms)) if catalogues else None
            if again and record is not None and record.status == "rejected":
                record = None
            if record is not None and unchanged is not None:
                unchanged(record)
            yield file, record

    def read(path: Path) -> FileRecord:
        if look is None:
            return examine(path, root, pseudonyms, limits.max_pixels)
        stamp = stamp_of(path, pseudonyms)
        return record_of(open_file(path, root, pseudonyms, limits.max_pixels).looked_at(look), path, root, pseudonyms, stamp)

    def placed(file: Listed, record: FileRecord) -> tuple[Listed, FileRecord]:
        return file, replace(record, place=file.key if record.series else None)

    if reader is not None:
        for file, found in reader(jobs()):
            yield placed(file, found)
        return
    if workers < 1:
        for file, record in jobs():
            yield placed(file, record or read(file.path))
        return
    with ThreadPoolExecutor(workers, "ocuseg-read") as threads, Pool(root, pseudonyms, limits) as pool:
        waiting: deque[tuple[Listed, FileRecord | Future[FileRecord]]] = deque()

        def next_one() -> tuple[Listed, FileRecord]:
            file, record = waiting.popleft()
            return placed(file, record if isinstance(record, FileRecord) else record.result())

        try:
            for file, known_record in jobs():
                waiting.append((file, known_record or threads.submit(pool.record, file.path, look)))
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
    look: Look | None = None,
    models: str = "",
    share: Share | None = None,
    reader: Reader | None = None,
) -> Counts:
    """Write the catalogue of ``root`` to ``out``, or bring the one there up to date.

    If it is killed, an existing catalogue stays as it was, and the next run continues from what this one had read.
    ``progress(done, all)`` is called after each file; at the end ``on_file(path, record)`` with each record. ``look`` and
    ``reader`` as of :func:`scan_files`, by bundles with these ids (``models``): a catalogue that others made is not continued.
    ``share``: which part of it this process does; with a scratch folder the catalogue is written there, and moved when it ends or stops.

    With a shard its part of the catalogue is written beside ``out`` (:func:`part_of`), and what its files say of those of other
    shards is not known; the last one puts all parts together (:func:`merge_catalogues`).

    Raises
    ------
    ConfigError: ``out`` exists and is not a catalogue, is damaged, cannot be written, or another process is writing it.
    NothingUsableError: ``root`` does not exist. StoppedRun, TooManyFailures: as ``share`` has it.
    """
    share = share or Share()
    shard, ends = share.shard, share.ends_at()
    whole = out = Path(os.path.abspath(out))
    if shard is not None:
        out = part_of(whole, shard)
    what = f"the catalogue {out.name!r}"
    staged, left_over = out.with_name(out.name + ".part"), out.with_name(out.name + ".interrupted")
    lock = out.with_name(f".{out.name}.lock")
    own = _OwnFiles(whole)
    counts, roles, rejected = Counts(), Counter[Role](), 0

    def count_unchanged(record: FileRecord) -> None:
        nonlocal rejected
        counts.unchanged += 1
        rejected -= record.status == "rejected"  # its failure was counted when it was read

    with ExitStack() as held:
        held.enter_context(refusals(what, "is damaged; remove it and run the command again (every file is then read anew)"))
        out.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(lock, ConfigError(f"another process is writing {what}; wait for it, or give another name")))
        _keep_longer(staged, left_over, models)
        if share.scratch is not None:
            staged = Path(held.enter_context(TemporaryDirectory(prefix="ocuseg-", dir=share.scratch))) / "catalogue"
            held.callback(_keep_longer, staged, left_over, models)
        with ExitStack() as stack:
            known = [stack.enter_context(Catalogue(path, models)) for path in dict.fromkeys((out, left_over, whole)) if path.exists()]
            if not all(catalogue.current for catalogue in known):
                log.info("%s is of another version of ocuseg, or of other models; every file is read anew", what)
            every = Listing(root, Path(os.path.abspath(root)), pseudonyms, chosen=share.chosen, shard=shard, leave_out=own)
            listing = stack.enter_context(closing(every))
            if shard is not None:
                log.info("share %s: %s of %s files are mine", shard, f"{listing.mine:,}", f"{listing.total:,}")
            writer = stack.enter_context(closing(CatalogueWriter(staged, models, "" if shard is None else str(shard))))
            found = scan_files(
                listing,
                Path(os.path.abspath(root)),
                pseudonyms=pseudonyms,
                workers=workers,
                known=known,
                limits=limits,
                unchanged=count_unchanged,
                again=share.again,
                look=look,
                reader=reader,
            )
            most = share.most_failures(listing.mine)
            for file, record in stack.enter_context(closing(found)):
                writer.add(record, None if shard is None else file.position)
                counts.files += 1
                if record.status == "read":
                    roles.update(roles_that_counted(record.case or "", file.path, root, pseudonyms))
                counts.archives.update(archive_counts([record.reason]))
                rejected += record.status == "rejected"
                if rejected > most:
                    raise TooManyFailures(f"{rejected} files were rejected, more than --max-failures allows; what was read is kept")
                if progress is not None:
                    progress(counts.files, listing.mine)
                if time.monotonic() > ends:
                    raise StoppedRun("the time of --stop-after is over: what was read is kept; run the same command again to continue")
            if shard is None:
                writer.join()
            writer.commit()
            complete = stack.enter_context(Catalogue(staged))
            if on_file is not None:
                for record in complete:
                    listed = listing.get(record.token)
                    if listed is not None:
                        on_file(listed.path, record)
            counts.codes.update(complete.outcomes())
            counts.with_warnings, counts.groups = complete.with_warnings(), complete.groups()
            warn_of_one_patient(Counter((record.case or "").partition("_")[0] for record in complete if record.status == "read").items())
        tell_of_roles(roles)
        _move(staged, out)
        left_over.unlink(missing_ok=True)
        if shard is not None and all(part_of(whole, Shard(number, shard.of)).exists() for number in range(1, shard.of + 1)):
            merge_catalogues(whole, wait=True)
    return counts


class _OwnFiles(Container[str]):
    """Paths of what belongs to the catalogue ``out``, which may lie among the scans: itself and its parts, whoever writes them."""

    def __init__(self, out: Path) -> None:
        name = rf"{re.escape(out.name)}(\.\d+of\d+)?"
        self._folder, self._name = str(out.parent), re.compile(rf"{name}((\.part|\.interrupted)?(-journal)?)|\.{name}\.lock")

    def __contains__(self, path: object) -> bool:
        folder, name = os.path.split(str(path))
        return folder == self._folder and self._name.fullmatch(name) is not None


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
        _move(staged, left_over)
    for end in ("", "-journal"):
        staged.with_name(staged.name + end).unlink(missing_ok=True)


def _move(source: Path, target: Path) -> None:
    """Have ``target`` replaced whole, also from another disk."""
    if source.parent == target.parent:
        os.replace(source, target)
        return
    with atomic_path(target, durable=True) as staged:
        shutil.copyfile(source, staged)
    source.unlink()
