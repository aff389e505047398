"""The records of a run on their way to MLflow: an append-only journal on disk with the files that belong to each record.

One process appends (training), one other delivers (:mod:`pipeline.tracking.sender`); a record is on the disk before
``append`` returns, so a power cut or ``kill -9`` on either side loses nothing::

    RUN/unsent/journal.jsonl     one record a line, numbered 0, 1, 2, ... over the whole life of the run
    RUN/unsent/files/00000012/   the files of record 12
    RUN/tracking/target.json     which MLflow run this is (written by the training side)
    RUN/tracking/sent.json       how far delivery has come (written by whoever holds RUN/tracking/lock)
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from filelock import Timeout

from pipeline.atomic import write_text
from pipeline.errors import ConfigError
from pipeline.lock import locked


@dataclass(frozen=True)
class Record:
    """One thing to tell MLflow. ``time_ms`` is when it happened, so a second delivery is recognised as the same."""

    number: int
    kind: str
    time_ms: int
    body: dict[str, Any]


@dataclass
class Sent:
    """How far delivery has come: records below ``sent`` are in MLflow, or were ``refused`` by it."""

    sent: int = 0
    run_id: str | None = None
    model_version: str | None = None
    refused: int = 0
    problem: str | None = None
    started: bool = False
    last_step: int = -1
    _path: Path | None = field(default=None, repr=False)

    @classmethod
    def load(cls, run_dir: Path) -> Sent:
        path = run_dir / "tracking" / "sent.json"
        known = {f.name for f in fields(cls)} - {"_path"}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{key: value for key, value in stored.items() if key in known}, _path=path)
        except FileNotFoundError:
            return cls(_path=path)
        except (ValueError, AttributeError, RecursionError):
            raise ConfigError(
                f"{run_dir.name}: tracking/sent.json is damaged; remove it, and what is still in unsent is sent again "
                "(MLflow recognises what it has)"
            ) from None

    def save(self) -> None:
        stored = asdict(self)
        stored.pop("_path")
        if self._path is not None and self._path.parent.parent.is_dir():  # the folder of a run that somebody deletes stays deleted
            write_text(self._path, json.dumps(stored, indent=1) + "\n")


class Spool:
    """The journal of one run. Only one process may append at a time; any number may read."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.folder = run_dir / "unsent"
        self.journal = self.folder / "journal.jsonl"
        self._next: int | None = None
        self._read_position = 0

    def files(self, number: int) -> Path:
        """Where the files of a record stand."""
        return self.folder / "files" / f"{number:08d}"

    def append(self, kind: str, body: dict[str, Any], stage: Callable[[Path], None] | None = None) -> int:
        """Write one record durably and return its number; ``stage(folder)`` first puts its files in place.

        Raises
        ------
        OSError: the disk is full or read-only; the journal is then as it was before.
        """
        if self._next is None:
            self._next = self._mend()
        number = self._next
        self.folder.mkdir(parents=True, exist_ok=True)
        if stage is not None:
            folder = self.files(number)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            stage(folder)
        record = {"number": number, "kind": kind, "time_ms": time.time_ns() // 1_000_000, "body": body}
        line = (json.dumps(record, separators=(",", ":")) + "\n").encode()
        with self.journal.open("ab") as stream:
            before = stream.tell()
            try:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(before)
                raise
        self._next = number + 1
        return number

    def _mend(self) -> int:
        """Cut off a line that a crash left half written; the number of the next record."""
        following = Sent.load(self.run_dir).sent
        if not self.journal.exists():
            return following
        text = self.journal.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            with self.journal.open("r+b") as stream:
                stream.truncate(whole)
        for record in self._parse(text[:whole]):
            following = max(following, record.number + 1)
        return following

    @staticmethod
    def _parse(text: bytes) -> Iterator[Record]:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                yield Record(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise ConfigError(f"unsent/journal.jsonl: line {number} is damaged; take it out, and the others are sent") from None

    def read(self) -> list[Record]:
        """Every whole record in the journal, in order."""
        self._read_position = 0
        return self.read_new()

    def read_new(self) -> list[Record]:
        """The records that have been appended since this object last read."""
        try:
            with self.journal.open("rb") as stream:
                stream.seek(self._read_position)
                text = stream.read()
        except FileNotFoundError:
            return []
        whole = text.rfind(b"\n") + 1
        self._read_position += whole
        return list(self._parse(text[:whole]))

    def discard_files(self, number: int) -> None:
        shutil.rmtree(self.files(number), ignore_errors=True)

    def compact(self) -> None:
        """Once everything is sent, remove the journal; what a resumed run must remember moves to ``sent.json``.

        Call it with :func:`sender_lock` held and nobody appending.
        """
        sent, records = Sent.load(self.run_dir), self.read()
        if any(record.number >= sent.sent for record in records):
            return
        sent.started = sent.started or any(record.kind == "start" for record in records)
        sent.last_step = max([sent.last_step, *(r.body["step"] for r in records if r.kind == "metrics")])
        sent.save()
        self.journal.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "files", ignore_errors=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()


@contextmanager
def sender_lock(run_dir: Path) -> Iterator[bool]:
    """Whether this process alone may deliver; the system releases the lock when its holder dies."""
    path = run_dir / "tracking" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, Timeout(str(path))))
            alone = True
        except Timeout:
            alone = False
        yield alone
