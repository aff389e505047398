"""The audit log of a review: an SQLite file that only grows, each event chained to the one before by its hash.

Triggers refuse UPDATE, DELETE and anything but the next row; whoever goes round them breaks the chain, and :meth:`AuditLog.verify` says
where. A chain cannot show that its whole end was replaced by somebody who computed it anew: for that a department notes the newest hash
elsewhere (`ocuseg review verify --head`).

The journal is SQLite's rollback journal, not a write-ahead log, because PREDICTIONS often lies on a network share, where processes
share no memory. Each call opens the file and closes it, so that threads and processes need nothing in common.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Literal

from pipeline.errors import OcusegError

Action = Literal["accept", "reject", "edit", "comment", "eye", "adjudicate"]
Role = Literal["reader", "second", "adjudicator"]
Verdict = Literal["unreviewed", "accepted", "rejected", "edited"]

REVIEW, LOG_FILE = "review", "log.sqlite"
START = "0" * 64
"""What the first event follows."""
_PATIENCE_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, reviewer TEXT NOT NULL, role TEXT NOT NULL, "case" TEXT NOT NULL,
  version INTEGER NOT NULL, action TEXT NOT NULL, verdict TEXT NOT NULL, reasons TEXT NOT NULL, comment TEXT NOT NULL, eye TEXT NOT NULL,
  correction TEXT NOT NULL, bundle_id TEXT NOT NULL, mask_sha256 TEXT NOT NULL, ocuseg TEXT NOT NULL, previous TEXT NOT NULL,
  hash TEXT NOT NULL, UNIQUE ("case", version));
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the review log only grows'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the review log only grows'); END;
CREATE TRIGGER IF NOT EXISTS no_replace BEFORE INSERT ON events WHEN NEW.seq <= (SELECT max(seq) FROM events)
BEGIN SELECT RAISE(ABORT, 'the review log only grows'); END;
"""


@dataclass(frozen=True)
class Event:
    """One thing that a reviewer did to one case.

    ``at``: UTC, ISO 8601 · ``version`` counts the events of the case from 1 · ``verdict`` that the event gives, "" where it gives none ·
    ``eye``: R or L, or "" · ``correction``: name of the correction that the verdict stands for, "" for the model's own mask ·
    ``mask_sha256`` of what the model found (:func:`pipeline.review.corrections.model_sha256`) · ``ocuseg``: the version that wrote it ·
    ``previous``: hash of the event before. :meth:`AuditLog.append` fills seq, at, version, ocuseg, previous and hash.
    """

    reviewer: str
    role: Role
    case: str
    action: Action
    verdict: Verdict | Literal[""] = ""
    reasons: tuple[str, ...] = ()
    comment: str = ""
    eye: str = ""
    correction: str = ""
    bundle_id: str = ""
    mask_sha256: str = ""
    seq: int = 0
    at: str = ""
    version: int = 0
    ocuseg: str = ""
    previous: str = START
    hash: str = ""

    def digest(self) -> str:
        """SHA-256 of the canonical JSON (sorted keys, no spaces, UTF-8) of all fields but ``hash``."""
        content = asdict(self)
        del content["hash"]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


_COLUMNS = tuple(field.name for field in fields(Event))
_INSERT = "INSERT INTO events ({}) VALUES ({})".format(", ".join(f'"{name}"' for name in _COLUMNS), ", ".join("?" * len(_COLUMNS)))  # noqa: S608
_SELECT = "SELECT {} FROM events".format(", ".join(f'"{name}"' for name in _COLUMNS))  # noqa: S608


class VersionConflict(OcusegError):
    """Somebody else was first: ``by`` whom, ``at`` what time, and the case's ``version`` as the reviewer may see it."""

    def __init__(self, by: str, at: str, version: int) -> None:
        when = f" at {at[11:16]} UTC on {at[:10]}" if at else ""
        who = f"{by} changed this case{when}" if by else "this case is not as it was shown"
        super().__init__(f"{who}, after you opened it; nothing of yours was stored: load it again and look before you decide")
        self.by, self.at, self.version = by, at, version


def visible(events: Sequence[Event], reviewer: str, role: Role, blinded: bool) -> list[Event]:
    """The events of one case that a reviewer may see, in their order.

    ``blinded``: readers and second readers see their own role's alone until they have given a verdict themselves.
    """
    if not blinded or role == "adjudicator" or any(one.verdict and one.reviewer == reviewer and one.role == role for one in events):
        return list(events)
    return [one for one in events if one.role == role]


class LogUnusable(OcusegError):
    """The log can be neither read nor written now; later it may."""


class AuditLog:
    """The log of one folder of predictions; a file that is not there yet is made by the first event.

    Raises
    ------
    LogUnusable: the disk refuses, or others hold the file for too long. OcusegError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, predictions: Path) -> AuditLog:
        return cls(predictions / REVIEW / LOG_FILE)

    def append(self, event: Event, expected_version: int, *, blinded: bool = False) -> Event:
        """Store one event and return it as stored; it has reached the disk when this returns.

        Parameters
        ----------
        expected_version: how many events of the case the reviewer had seen when they decided; of a blinded one those that are
            :func:`visible` to them.

        Raises
        ------
        VersionConflict: there are more by now; nothing is stored.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open("rwc") as base:
            base.executescript(_SCHEMA)
            base.execute("BEGIN IMMEDIATE")
            try:
                stored = self._next(base, event, expected_version, blinded)
                base.execute(_INSERT, _row(stored))
                base.execute("COMMIT")
            except BaseException:
                base.execute("ROLLBACK")
                raise
        return stored

    def _next(self, base: sqlite3.Connection, event: Event, expected_version: int, blinded: bool) -> Event:
        earlier = _events(base.execute(f'{_SELECT} WHERE "case" = ? ORDER BY seq', (event.case,)))
        seen = visible(earlier, event.reviewer, event.role, blinded)
        if len(seen) != expected_version:
            last = seen[-1] if seen else None
            raise VersionConflict(last.reviewer if last else "", last.at if last else "", len(seen))
        newest = _events(base.execute(f"{_SELECT} ORDER BY seq DESC LIMIT 1"))
        seq, previous = (newest[0].seq + 1, newest[0].hash) if newest else (1, START)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        made = replace(event, seq=seq, at=now, version=len(earlier) + 1, ocuseg=installed("ocuseg"), previous=previous)
        return replace(made, hash=made.digest())

    def events(self, case: str | None = None, *, after: int = 0) -> list[Event]:
        """In their order: all, those of one case, or those after a ``seq``; none where there is no log."""
        if not self.path.is_file():
            return []
        with self._open("rw") as base:
            if case is None:
                return _events(base.execute(f"{_SELECT} WHERE seq > ? ORDER BY seq", (after,)))
            return _events(base.execute(f'{_SELECT} WHERE seq > ? AND "case" = ? ORDER BY seq', (after, case)))

    def head(self) -> str:
        """Hash of the newest event."""
        if not self.path.is_file():
            return START
        with self._open("rw") as base:
            newest = _events(base.execute(f"{_SELECT} ORDER BY seq DESC LIMIT 1"))
        return newest[0].hash if newest else START

    def verify(self) -> int | None:
        """The first ``seq`` that is not as it was written (changed, missing, moved), or None where all is whole."""
        if not self.path.is_file():
            return None
        with self._open("rw") as base:
            events = _events(base.execute(f"{_SELECT} ORDER BY seq"))
            told = base.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        previous, versions = START, dict[str, int]()
        for seq, event in enumerate(events, start=1):
            versions[event.case] = versions.get(event.case, 0) + 1
            whole = event.seq == seq and event.previous == previous and event.version == versions[event.case]
            if not whole or event.hash != event.digest():
                return seq
            previous = event.hash
        return len(events) + 1 if told is not None and told[0] > len(events) else None

    @contextmanager
    def _open(self, mode: Literal["rw", "rwc"]) -> Iterator[sqlite3.Connection]:
        """``rw`` also of a file that may only be read; a journal that a killed process left is rolled back."""
        try:
            base = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_PATIENCE_S, isolation_level=None)
            try:
                base.execute("PRAGMA synchronous = EXTRA")
                yield base
            finally:
                base.close()
        except sqlite3.OperationalError as error:  # no space, no permission, locked by another process
            raise LogUnusable(f"the review log {REVIEW}/{self.path.name} cannot be used now ({error}); nothing was stored") from None
        except sqlite3.Error as error:
            raise OcusegError(f"the review log {REVIEW}/{self.path.name} cannot be used ({error}); restore it from a backup") from None


def _row(event: Event) -> list[object]:
    return [json.dumps(value) if isinstance(value, tuple) else value for value in asdict(event).values()]


def _events(rows: sqlite3.Cursor) -> list[Event]:
    """A row that no event can be made of is told like any other change: as an event whose hash is wrong."""
    out = []
    for row in rows.fetchall():
        values = dict(zip(_COLUMNS, row, strict=True))
        try:
            values["reasons"] = tuple(json.loads(values["reasons"]))
        except (ValueError, TypeError):
            values["reasons"], values["hash"] = (), ""
        out.append(Event(**values))
    return out
