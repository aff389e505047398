"""Hospital trees: walked as a stream, every file examined and accounted for, and only what has changed read again."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import ConfigError, NothingUsableError
from pipeline.memory import Limits
from pipeline.scans.catalogue import Catalogue, CatalogueWriter
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import PASSING, FileRecord, Status, examine, size_and_time, token_of
from pipeline.scans.workers import Pool
from pipeline.types import Advance

__all__ = ["Counts", "FileRecord", "Status", "index_folder", "scan_folder", "walk"]

_WINDOW = 64
"""Files a worker may be ahead of the slowest one: what bounds memory while the order is kept."""


def walk(root: Path) -> Iterator[Path]:
    """Every file below ``root``, sorted by the bytes of its name within each folder, as a stream; any name, no loops.

    A symbolic link to a folder inside ``root`` is left out, because that folder is visited in its own place; one that leads
    outside is followed, each such folder once. A folder that cannot be listed is yielded itself, so that it is accounted for.
    """
    top = os.fsencode(os.path.abspath(root))
    if not os.path.exists(top):
        raise NothingUsableError("the folder to read does not exist")
    if not os.path.isdir(top):
        yield Path(os.fsdecode(top))
        return
    real_top = os.path.realpath(top)
    outside: set[tuple[int, int]] = set()  # folders reached through links that leave the tree; usually none
    # One entry a level: the folder, its names yet to come (last first), and whether a link outside led here.
    levels: list[tuple[bytes, list[bytes], bool]] = [(b"", [top], False)]
    while levels:
        folder, names, foreign = levels[-1]
        if not names:
            levels.pop()
            continue
        path = os.path.join(folder, names.pop())
        if not os.path.isdir(path):
            yield Path(os.fsdecode(path))
            continue
        if os.path.islink(path) and path != top:
            real = os.path.realpath(path)
            if real == real_top or real.startswith(os.path.join(real_top, b"")):
                continue
            foreign = True
        try:
            if foreign:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in outside:
                    continue
                outside.add((status.st_dev, status.st_ino))
            levels.append((path, sorted(os.listdir(path), reverse=True), foreign))
        except OSError:
            yield Path(os.fsdecode(path))


@dataclass
class Counts:
    """What became of the files of a tree. ``codes`` counts (status, code); ``unchanged`` were taken from the last catalogue;
    ``with_warnings`` were read, and a person should look at them."""

    files: int = 0
    unchanged: int = 0
    with_warnings: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups: dict[str, int] = field(default_factory=dict)

    def status(self, status: Status) -> int:
        return sum(count for (own, _), count in self.codes.items() if own == status)

    def summary(self) -> dict[str, int]:
        """Everything by name, for a table or JSON; ``rejected: CODE`` for each reason."""
        out = {"files": self.files, "unchanged": self.unchanged}
        for status in ("read", "duplicate", "not_an_image", "rejected"):
            out[status] = sum(count for (own, _), count in self.codes.items() if own == status)
        out["with_warnings"] = self.with_warnings
        out.update({f"rejected: {code}": count for (own, code), count in sorted(self.codes.items()) if own == "rejected"})
        return {**out, **self.groups}


class _Originals:
    """The first file of each content and each SOP Instance UID, kept in a temporary file so that memory stays flat."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA cache_size = -4096;"
            "CREATE TABLE seen (what TEXT PRIMARY KEY, token TEXT NOT NULL, sha256 TEXT) WITHOUT ROWID;"
        )

    def settle(self, record: FileRecord) -> FileRecord:
        """The record, as a duplicate when its content or its UID came before."""
        if record.status != "read":
            return record
        for what, code in ((record.sha256, "same_content"), (record.instance, "same_instance")):
            row = what and self._database.execute("SELECT token, sha256 FROM seen WHERE what = ?", (what,)).fetchone()
            if row:
                reason = "the same file lies elsewhere in the tree"
                if code == "same_instance":
                    reason = "another file with other bytes has the same SOP Instance UID; the first one counts"
                return replace(record, status="duplicate", code=code, reason=reason, duplicate_of=row[0])
        rows = [(what, record.token, record.sha256) for what in (record.sha256, record.instance) if what]
        self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", rows)
        return record

    def close(self) -> None:
        self._database.close()


def _known_record(known: Sequence[Catalogue], token: str, path: Path) -> FileRecord | None:
    for catalogue in known:
        record = catalogue.get(token) if catalogue.current else None
        if record is not None and (record.size, record.mtime_ns) == size_and_time(path) and record.code not in PASSING:
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
) -> Generator[tuple[Path, FileRecord], None, None]:
    """Every file below ``root`` with its record, in the order of :func:`walk`, as a stream.

    Parameters
    ----------
    workers: processes that read; 0 reads in this one (no protection against a decoder that crashes or hangs).
    known: earlier catalogues; a file whose size and modification time are as recorded there is not opened.
    limits: what one file may take; what fits this machine, where nothing is given.
    leave_out: absolute paths that are not looked at.
    unchanged: called for each file that was taken from ``known``.

    The first file of a content or a SOP Instance UID is ``read``, later ones are ``duplicate``. Paths stay in memory; a record
    holds none.
    """
    catalogues = [known] if isinstance(known, Catalogue) else list(known or ())
    root = Path(os.path.abspath(root))
    limits = limits or Limits.chosen(workers=workers)

    def jobs() -> Iterator[tuple[Path, FileRecord | None]]:
        for path in walk(root):
            if str(path) in leave_out:
                continue
            record = _known_record(catalogues, token_of(path, root, pseudonyms), path) if catalogues else None
            if record is not None and unchanged is not None:
                unchanged()
            yield path, record

    with closing(_Originals()) as originals:
        if workers < 1:
            for path, record in jobs():
                yield path, originals.settle(record or examine(path, root, pseudonyms, limits.max_pixels))
            return
        with ThreadPoolExecutor(workers, "ocuseg-read") as threads, Pool(root, pseudonyms, limits) as pool:
            waiting: deque[tuple[Path, FileRecord | Future[FileRecord]]] = deque()

            def next_one() -> tuple[Path, FileRecord]:
                path, record = waiting.popleft()
                return path, originals.settle(record if isinstance(record, FileRecord) else record.result())

            try:
                for path, known_record in jobs():
                    waiting.append((path, known_record or threads.submit(pool.record, path)))
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
    progress: Advance | None = None,
    on_file: Callable[[Path, FileRecord], None] | None = None,
    limits: Limits | None = None,
) -> Counts:
    """Write the catalogue of ``root`` to ``out``, or bring the one there up to date.

    Killed at any moment, the catalogue that was there stays as it was, and the next run goes on from what this one had read.
    ``progress(done)`` is called after each file, ``on_file(path, record)`` with its record.

    Raises
    ------
    ConfigError: ``out`` exists and is not a catalogue, or cannot be written.
    NothingUsableError: ``root`` does not exist.
    """
    out = Path(os.path.abspath(out))
    staged, left_over = out.with_name(out.name + ".part"), out.with_name(out.name + ".interrupted")
    counts = Counts()

    def count_unchanged() -> None:
        counts.unchanged += 1

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _keep_longer(staged, left_over)
        with ExitStack() as stack:
            known = [stack.enter_context(Catalogue(path)) for path in (out, left_over) if path.exists()]
            writer = stack.enter_context(closing(CatalogueWriter(staged)))
            found = scan_folder(
                root,
                pseudonyms=pseudonyms,
                workers=workers,
                known=known,
                limits=limits,
                leave_out={f"{path}{end}" for path in (out, staged, left_over) for end in ("", "-journal")},
                unchanged=count_unchanged,
            )
            for path, record in stack.enter_context(closing(found)):
                writer.add(record)
                counts.files += 1
                counts.codes[record.status, record.code] += 1
                counts.with_warnings += record.status == "read" and bool(record.warnings)
                if on_file is not None:
                    on_file(path, record)
                if progress is not None:
                    progress(counts.files)
        with Catalogue(staged) as complete:
            counts.groups = complete.groups()
        os.replace(staged, out)
        left_over.unlink(missing_ok=True)
    except (OSError, sqlite3.OperationalError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(f"the catalogue {out.name!r} cannot be written ({why}); check the folder and the space on the disk") from None
    return counts


def _keep_longer(staged: Path, left_over: Path) -> None:
    """An interrupted run's catalogue becomes ``left_over``, unless the one before it had come further; a broken one goes."""
    lengths = []
    for path in (staged, left_over):
        try:
            with Catalogue(path) as catalogue:
                lengths.append(len(catalogue))
        except (ConfigError, sqlite3.Error):
            lengths.append(-1)
            path.unlink(missing_ok=True)
    if lengths[0] > lengths[1]:
        os.replace(staged, left_over)
    staged.unlink(missing_ok=True)
    staged.with_name(staged.name + "-journal").unlink(missing_ok=True)
