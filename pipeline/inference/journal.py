"""What became of each file, on disk before the next one: the memory of a prediction that may be killed at any moment.

SQLite underneath (OUT/journal.sqlite), so that a hundred thousand files neither fill memory nor make a lookup slow; the ledger
that people read (OUT/ledger.csv) is exported from it. Tokens and case keys only: no path, no name, no UID.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from pipeline.atomic import atomic_path
from pipeline.errors import ConfigError

Status = Literal["done", "rejected", "failed", "duplicate"]
LEDGER = ("case", "token", "sha256", "status", "code", "reason", "seconds")


@dataclass(frozen=True)
class Entry:
    """One file: ``token`` is the keyed hash of its relative path, ``instance`` of its SOP Instance UID; ``case`` is "" if unknown.

    ``reason`` says why a file did not become a result; of one that did, what its reader noticed that a person must know.
    """

    token: str
    size: int
    mtime_ns: int
    sha256: str
    instance: str
    case: str
    status: Status
    code: str
    reason: str
    seconds: float


class Journal:
    """Entries of one OUT folder; used by one thread.

    Raises
    ------
    ConfigError: the file is there and is not a journal.
    """

    def __init__(self, path: Path) -> None:
        columns = ", ".join(f'"{f.name}"' for f in fields(Entry))
        self._columns = columns
        try:
            self._database = sqlite3.connect(path)
            # A rollback journal, not WAL: hospital shares are network file systems, where WAL is not safe.
            self._database.execute("PRAGMA journal_mode=DELETE")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(f"CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, {columns})")
            for column in ("token", "sha256", "instance"):
                self._database.execute(f"CREATE INDEX IF NOT EXISTS by_{column} ON entries ({column})")
            self._database.commit()
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{path.name} in the output folder is damaged ({error}); give a new output folder") from error

    def close(self) -> None:
        self._database.close()

    def __iter__(self) -> Iterator[Entry]:
        """All entries by case, then token: the same input gives the same order."""
        yield from self._select('1 ORDER BY "case", token, sha256', ())

    def of_file(self, token: str) -> list[Entry]:
        """Entries of one file; more than one when its content changed after a result was written."""
        return list(self._select("token = ?", (token,)))

    def done_with(self, sha256: str, instance: str) -> Entry | None:
        """A finished case with the same content, or else with the same SOP Instance UID."""
        for column, value in (("sha256", sha256), ("instance", instance)):
            if value:
                for entry in self._select(f"{column} = ? AND status = 'done' ORDER BY id LIMIT 1", (value,)):
                    return entry
        return None

    def record(self, entry: Entry) -> None:
        """Write one entry through to the disk. It replaces what was known of the file, except results of earlier content.

        Raises
        ------
        ConfigError: the disk is full or gone.
        """
        marks = ", ".join("?" * len(fields(Entry)))
        try:
            with self._database:
                self._database.execute(
                    "DELETE FROM entries WHERE token = ? AND (status != 'done' OR sha256 = ?)", (entry.token, entry.sha256)
                )
                self._database.execute(f"INSERT INTO entries ({self._columns}) VALUES ({marks})", astuple(entry))  # noqa: S608 (fixed names)
        except sqlite3.OperationalError as error:
            raise ConfigError(f"the output folder's journal cannot be written ({error}); make room and run the command again") from error

    def counts(self) -> dict[str, int]:
        """How many entries have each status; what is no image at all is told apart from images that were rejected.

        ``with_warnings`` is how many of those done have something that a person must know.
        """
        found = {"done": 0, "rejected": 0, "failed": 0, "duplicate": 0, "not_an_image": 0}
        query = "SELECT CASE code WHEN 'not_an_image' THEN code ELSE status END AS kind, COUNT(*) FROM entries GROUP BY kind"
        found |= dict(self._database.execute(query).fetchall())
        warned = "SELECT COUNT(*) FROM entries WHERE status = 'done' AND reason != ''"
        return found | {"with_warnings": int(self._database.execute(warned).fetchone()[0])}

    def export(self, path: Path) -> None:
        """Write the ledger, atomically."""
        with atomic_path(path, durable=True) as staged, staged.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(LEDGER)
            for entry in self:
                writer.writerow([f"{entry.seconds:.3f}" if name == "seconds" else getattr(entry, name) for name in LEDGER])

    def _select(self, condition: str, values: tuple[str, ...]) -> Iterator[Entry]:
        for row in self._database.execute(f"SELECT {self._columns} FROM entries WHERE {condition}", values):  # noqa: S608 (fixed names)
            yield Entry(*row)
