"""What became of each file: the memory of a prediction that may be killed at any moment.

SQLite underneath, so that a hundred thousand files neither fill memory nor make a lookup slow; the ledger that people read
(OUT/ledger.csv) is exported from it. Tokens, stamps and case keys only: no path, name, UID or date.

OUT/journal.sqlite is written by one process when a run is complete (inference/settle.py), and never changed, but replaced. While
a run goes on each process has a copy of its own, with what it and the others found since (inference/shares.py): nobody reads a database
that another process writes, which is not safe on network file systems.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, fields, replace
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Literal, get_args

from pipeline.atomic import atomic_path
from pipeline.errors import ConfigError
from pipeline.scans.archives import archive_counts
from pipeline.scans.database import closed_on_error, opened, refusals
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import Refused, status_of
from pipeline.scans.walk import UNLISTED

Status = Literal["done", "part", "failed", "duplicate"] | Refused
LEDGER = ("case", "token", "sha256", "status", "code", "reason")
VERSION = 4
"""Of the file's layout (PRAGMA user_version). 1, which had no number, held size and modification time in clear; 2 knew no
days of visits; 3 did not know which results are settled."""


@dataclass(frozen=True)
class Entry:
    """One file: ``token`` is the keyed hash of its relative path, ``stamp`` of its size and modification time, ``instance`` of its SOP
    Instance UID; ``pixels`` is the SHA-256 of the picture alone; ``series`` groups the slices of a volume; each is "" if unknown, and so
    is ``case``, which of a ``part`` is the volume's.

    ``patient_source`` and ``day`` (the visit's, on a calendar that tells no date) are as of a Scan. ``reason`` says why a file
    did not become a result; of one that did, what its reader noticed that a person must know. ``seconds`` that it took.

    ``key`` is the name that the file's own case has, or would have: ``case`` differs where two pictures have one name. ``own`` is the
    file's own SHA-256 where ``sha256`` is its volume's. ``place`` stands for the folder of a slice, ``judged`` for the files of its
    series that were looked at together. ``settled``: a complete run has ended with it, so that no other file takes its place any more.
    """

    token: str
    stamp: str
    sha256: str
    instance: str
    case: str
    status: Status
    code: str
    reason: str
    seconds: float
    pixels: str = ""
    series: str = ""
    patient_source: str = ""
    day: int | None = None
    key: str = ""
    own: str = ""
    place: str = ""
    judged: str = ""
    settled: int = field(default=0, compare=False)

    def row(self) -> tuple[object, ...]:
        """Its fields in their order."""
        return _ROW(self)

    def may_be(self, other: Entry) -> bool:
        """Whether two files may hold one picture, or have one name."""
        return self.sha256 == other.sha256 or self.case == other.case or bool(self.instance and self.instance == other.instance)


_FIELDS = tuple(f.name for f in fields(Entry))
_ROW = attrgetter(*_FIELDS)
_COLUMNS = ", ".join(f'"{name}"' for name in _FIELDS)
_PATIENT = """substr("case", 1, instr("case", '_') - 1)"""
_KNOWN = "SELECT max(sha256 = ? AND status IN ('done', 'part') AND settled) FROM entries WHERE token = ?"
"""Whether the result of a content of a file is settled; None where nothing is known of the file."""
_FORGET = "DELETE FROM entries WHERE token = ? AND (status != 'done' OR sha256 = ?)"
_ENTER = f"INSERT INTO entries ({_COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))})"  # noqa: S608 (fixed names)
_AT_ONCE, _UNSAVED = 500, 1000
"""Tokens that one question asks for (older SQLites take 999); entries of a copy between two writes to its file, so that neither memory
nor the time of an entry grows."""
_SETTLE = "UPDATE entries SET settled = 1 WHERE status IN ('done', 'part', 'duplicate') AND NOT settled AND id BETWEEN ? AND ?"
_GATHER = """
DROP TABLE IF EXISTS temp.gathered;
CREATE TEMP TABLE gathered AS
  SELECT id, token, status, "case", key, series, instance, pixels, settled,
  CASE WHEN instance != '' AND pixels != '' THEN instance || ' ' || pixels WHEN own != '' THEN own ELSE sha256 END AS content,
  id IN (SELECT max(id) FROM entries GROUP BY token) AS is_last
  FROM entries WHERE status IN ('done', 'part', 'duplicate') AND sha256 != '' AND (is_last OR (status = 'done' AND settled));
"""


class Journal:
    """Entries of one OUT folder; used by one thread. Every method raises ConfigError where the disk or the file refuses.

    A ``copy`` is not kept for a crash, so that an entry costs no write to the disk.

    Raises
    ------
    ConfigError: the file is there and is damaged, no journal, or of a newer ocuseg; or it cannot be written.
    """

    def __init__(self, path: Path, pseudonyms: Pseudonyms, *, copy: bool = False) -> None:
        self._name, self._copy, self._unsaved = path.name, copy, 0
        with self._refusals(), closed_on_error(opened(path, create=True)) as self._database:
            self._prepare(pseudonyms)

    def _refusals(self) -> AbstractContextManager[None]:
        return refusals(f"{self._name} in the output folder", "is damaged or no journal of ocuseg; give a new output folder")

    def _prepare(self, pseudonyms: Pseudonyms) -> None:
        # A rollback journal, not WAL: hospital shares are network file systems, where WAL is not safe.
        self._database.execute(f"PRAGMA journal_mode={'MEMORY' if self._copy else 'DELETE'}")
        self._database.execute(f"PRAGMA synchronous={'OFF' if self._copy else 'FULL'}")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise ConfigError(f"{self._name} in the output folder is of a newer ocuseg; update ocuseg, or give a new output folder")
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")  # or each change of the layout would be one of its own
            self._migrate(pseudonyms)
            self._database.execute(f"CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, {_COLUMNS})")
            self._add_days()
            self._add_settled()
            self._database.execute("CREATE INDEX IF NOT EXISTS by_token ON entries (token)")
            for column in ("sha256", "instance"):  # of earlier versions
                self._database.execute(f"DROP INDEX IF EXISTS by_{column}")
        if version < VERSION:
            self._database.execute("VACUUM")  # else what was dropped stays in the file's free pages
            self._database.execute(f"PRAGMA user_version = {VERSION}")
        self._database.execute(f"SELECT {_COLUMNS} FROM entries LIMIT 1").fetchone()  # noqa: S608 (another program's table is said now)

    def _migrate(self, pseudonyms: Pseudonyms) -> None:
        """Layout 1 to 2: a keyed stamp in place of size and modification time, and today's status for each code."""
        if not any(row[1] == "mtime_ns" for row in self._database.execute("PRAGMA table_info(entries)")):
            return
        self._database.create_function("stamp", 2, lambda size, mtime_ns: pseudonyms.token("stamp", f"{size}:{mtime_ns}"))
        self._database.create_function("status_of", 1, status_of)
        self._database.execute("ALTER TABLE entries RENAME TO before")
        for column in ("token", "sha256", "instance"):
            self._database.execute(f"DROP INDEX IF EXISTS by_{column}")
        self._database.execute(f"CREATE TABLE entries (id INTEGER PRIMARY KEY, {_COLUMNS})")
        # No stamp, so that it is looked at again, has a picture with a UID: which pixels stand for that was not known, and another
        # picture of the same UID was taken for a duplicate.
        self._database.execute(
            f"INSERT INTO entries (id, {_COLUMNS}) SELECT id, token, "  # noqa: S608 (fixed names)
            "CASE WHEN instance = '' THEN stamp(size, mtime_ns) ELSE '' END, sha256, instance, \"case\", "
            "CASE status WHEN 'rejected' THEN status_of(code) ELSE status END, code, reason, seconds, '', '', '', NULL, '', '', '', '', 1 "
            "FROM before"
        )
        self._database.execute("DROP TABLE before")

    def _add_days(self) -> None:
        """Layout 2 to 3: what has a result is looked at again for the day of its visit; its result stays."""
        if any(row[1] == "day" for row in self._database.execute("PRAGMA table_info(entries)")):
            return
        self._database.execute("ALTER TABLE entries ADD COLUMN patient_source")
        self._database.execute("ALTER TABLE entries ADD COLUMN day")
        self._database.execute("UPDATE entries SET stamp = '', patient_source = '' WHERE status IN ('done', 'part')")

    def _add_settled(self) -> None:
        """Layout 3 to 4: what there is counts as settled."""
        if any(row[1] == "settled" for row in self._database.execute("PRAGMA table_info(entries)")):
            return
        for column in ("key", "own", "place", "judged", "settled"):
            self._database.execute(f"ALTER TABLE entries ADD COLUMN {column} NOT NULL DEFAULT {1 if column == 'settled' else repr('')}")

    def close(self) -> None:
        with closing(self._database):
            self._database.commit()

    def save(self, path: Path) -> None:
        """Settle it all, and put a copy of it, compact and whole, in the place of ``path``."""
        with self._refusals():
            (last,) = self._database.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
            for first in range(0, last + 1, _UNSAVED):
                with self._database:  # what SQLite keeps for taking back a transaction is in memory
                    self._database.execute(_SETTLE, (first, first + _UNSAVED))
            self._database.execute("DROP INDEX IF EXISTS by_case")
            self._database.commit()
        with self._refusals(), atomic_path(path, durable=True) as staged:
            staged.unlink(missing_ok=True)
            self._database.execute("VACUUM INTO ?", (str(staged),))

    def __iter__(self) -> Iterator[Entry]:
        """All entries by case, then token: the same input gives the same order."""
        yield from self._select('1 ORDER BY "case", token, sha256', ())

    def of_file(self, token: str) -> list[Entry]:
        """Entries of one file; more than one when its content changed after a result was written."""
        return list(self._select("token = ?", (token,)))

    def of_files(self, tokens: Iterable[str]) -> dict[str, list[Entry]]:
        """As :meth:`of_file`, of several files: {token: its entries}, without those that nothing is known of."""
        found: dict[str, list[Entry]] = {}
        left = iter(tokens)
        while some := tuple(islice(left, _AT_ONCE)):
            for entry in self._select(f"token IN ({', '.join('?' * len(some))})", some):
                found.setdefault(entry.token, []).append(entry)
        return found

    def results(self) -> Iterator[Entry]:
        """Finished cases and the parts of volumes, in the order in which they were entered."""
        yield from self._select("status IN ('done', 'part') ORDER BY id", ())

    def knows(self, token: str) -> bool:
        """Whether there is an entry of a file."""
        with self._refusals():
            return self._database.execute("SELECT 1 FROM entries WHERE token = ? LIMIT 1", (token,)).fetchone() is not None

    def by_patient(self) -> Iterator[tuple[str, Iterator[tuple[str, int | None, str]]]]:
        """(patient, (case, day, what counted for the patient) of each of the finished cases), sorted."""
        query = f"""SELECT {_PATIENT}, "case", day, patient_source FROM entries WHERE status = 'done' ORDER BY 1, 2, id"""  # noqa: S608
        with self._refusals():
            for patient, rows in groupby(self._database.execute(query), key=itemgetter(0)):
                yield patient, ((case, day, source) for _, case, day, source in rows)

    def images_of_patients(self) -> Iterator[tuple[str, int]]:
        """(patient, how many files are finished cases or slices of them)."""
        with self._refusals():
            query = f"SELECT {_PATIENT}, count(*) FROM entries WHERE status IN ('done', 'part') GROUP BY 1"  # noqa: S608 (fixed names)
            yield from self._database.execute(query)

    def record(self, *entries: Entry) -> None:
        """Enter, together. Each entry replaces what was known of its file, except results of earlier content; the result of a content
        that was settled stays settled."""
        with self._refusals(), self._change(len(entries)):
            for entry in entries:
                ((settled,),) = self._database.execute(_KNOWN, (entry.sha256, entry.token))
                if settled is not None:
                    self._database.execute(_FORGET, (entry.token, entry.sha256))
                if settled and entry.status in ("done", "part"):
                    entry = replace(entry, settled=1)
                self._database.execute(_ENTER, entry.row())

    def _change(self, entries: int) -> AbstractContextManager[object]:
        """A transaction; of a copy, one of many entries, as nothing of it is kept for a crash."""
        self._unsaved += entries
        if self._copy and self._unsaved < _UNSAVED:
            return nullcontext()
        self._unsaved = 0
        return self._database

    def forget_case(self, case: str) -> None:
        """A case that must not be, and is not settled."""
        with self._refusals(), self._database:
            self._database.execute("DELETE FROM entries WHERE \"case\" = ? AND status = 'done' AND NOT settled", (case,))

    def forget_folder(self, token: str) -> None:
        """A folder that could not be listed, and now can be, is accounted for by its files."""
        with self._refusals(), self._database:
            self._database.execute("DELETE FROM entries WHERE token = ? AND code = ?", (token, UNLISTED))

    def unlisted(self) -> set[str]:
        """Tokens of the folders that could not be listed."""
        return {entry.token for entry in self._select("code = ?", (UNLISTED,))}

    def of_case(self, case: str) -> list[Entry]:
        """Entries of one case: of a volume, of all of its files."""
        return list(self._select('"case" = ?', (case,)))

    def gather(self) -> None:
        """Put what may be a picture into a table of its own, for the questions below: of each file its last entry, and earlier settled
        results."""
        columns = {"content": "", "key": "", "series": "WHERE series != ''", "instance": "WHERE instance != ''"}
        indices = "".join(f"CREATE INDEX temp.gathered_{name} ON gathered ({name}) {which};" for name, which in columns.items())
        with self._refusals(), self._database:
            self._database.executescript(f'{_GATHER} {indices} CREATE INDEX IF NOT EXISTS by_case ON entries ("case", token);')

    def equal_contents(self) -> Iterator[list[Entry]]:
        """Files of one content, or repetitions of one that is not there any more, of which not all are settled."""
        yield from self._groups("content", "1", "min(settled) = 0 AND (count(DISTINCT token) > 1 OR max(status) = 'duplicate')")

    def new_series(self) -> Iterator[list[Entry]]:
        """Files of each series, of which not all are settled."""
        yield from self._groups("series", "is_last AND series != '' AND NOT (settled AND status = 'duplicate')", "min(settled) = 0")

    def equal_names(self) -> Iterator[list[Entry]]:
        """Cases that have one name by what their files say, or not that name, of which not all are settled."""
        having = """min(settled) = 0 AND (count(*) > 1 OR min("case") != min("key"))"""
        yield from self._groups("key", "status = 'done' AND \"key\" != ''", having)

    def conflicts(self) -> Iterator[list[Entry]]:
        """Files of one SOP Instance UID and several pictures, of which not all are settled."""
        which = "is_last AND status != 'duplicate' AND instance != '' AND pixels != ''"
        yield from self._groups("instance", which, "min(settled) = 0 AND count(DISTINCT pixels) > 1")

    def _groups(self, column: str, which: str, having: str) -> Iterator[list[Entry]]:
        query = f"SELECT {column} FROM temp.gathered WHERE {which} GROUP BY {column} HAVING {having} ORDER BY {column}"  # noqa: S608
        with self._refusals():
            values = self._database.execute(query).fetchall()
            for (value,) in values:
                chosen = f"SELECT id FROM temp.gathered WHERE {which} AND {column} = ?"  # noqa: S608 (fixed names)
                yield [*self._select(f"id IN ({chosen}) ORDER BY id", (value,))]

    def counts(self) -> dict[str, int]:
        """How many entries have each status; ``with_warnings`` is how many of those done have something that a person must know.

        Where ZIP archives hold images, they are counted, and these images.
        """
        statuses = [status for part in get_args(Status) for status in (get_args(part) or (part,))]
        with self._refusals():
            found = dict(self._database.execute("SELECT status, COUNT(*) FROM entries GROUP BY status").fetchall())
            warned = self._database.execute("SELECT COUNT(*) FROM entries WHERE status = 'done' AND reason != ''").fetchone()
            unsupported = self._database.execute("SELECT reason FROM entries WHERE code = 'unsupported'").fetchall()
        archives = archive_counts(reason for (reason,) in unsupported)
        return {**{status: found.get(status, 0) for status in statuses}, "with_warnings": int(warned[0]), **archives}

    def export(self, path: Path) -> None:
        """Write the ledger, atomically."""
        with atomic_path(path, durable=True) as staged, staged.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(LEDGER)
            for entry in self:
                writer.writerow([getattr(entry, name) for name in LEDGER])

    def _select(self, condition: str, values: tuple[str, ...]) -> Iterator[Entry]:
        with self._refusals():
            for row in self._database.execute(f"SELECT {_COLUMNS} FROM entries WHERE {condition}", values):  # noqa: S608 (fixed names)
                yield Entry(*row)
