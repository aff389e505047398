"""The catalogue: one SQLite file that accounts for every file of a tree, by tokens only.

Rows are in the order of the walk, and nothing depends on the time of writing, so the same tree with the same key always gives the
same file, in how many shares it may have been read. It is written next to its final path and moved there when complete.

Of files of equal content (equal SHA-256, or one SOP Instance UID and equal pixels) the one with the smallest (name of its case, token) is
read, the others are its duplicates; of slices, the one in the smallest folder (``place``) first. inference/settle.py decides alike.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from pipeline.errors import ScanError
from pipeline.scans.database import closed_on_error, opened, refusals
from pipeline.scans.originals import OTHER_EYE, Other
from pipeline.scans.record import FileRecord
from pipeline.scans.series import arrange, from_text

READER = 7
"""Raise when files may be read differently than before: catalogues with another number are not continued."""

_COLUMNS = tuple(field.name for field in fields(FileRecord))
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
  position INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, stamp TEXT NOT NULL, sha256 TEXT,
  status TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, "case" TEXT, modality TEXT, rows INTEGER, columns INTEGER,
  slices INTEGER, modality_source TEXT, laterality TEXT, laterality_source TEXT, spacing_source TEXT, format TEXT, instance TEXT,
  related TEXT,
  warnings TEXT NOT NULL, pixels TEXT, series TEXT, piece TEXT, patient_source TEXT, day INTEGER, place TEXT,
  patient TEXT, eye TEXT, visit TEXT, image TEXT
);
CREATE INDEX by_series ON files (series) WHERE series IS NOT NULL;
CREATE VIEW images AS SELECT patient, eye, visit, image, modality, rows, columns, slices, laterality_source, spacing_source, format,
  token, sha256 FROM files WHERE status = 'read' ORDER BY patient, eye, visit, image;
CREATE VIEW days AS SELECT patient, visit, min(day) AS day FROM files WHERE status = 'read' GROUP BY patient, visit;
CREATE VIEW visits AS SELECT patient, visit, eye, count(*) AS images,
  nullif((SELECT count(*) FROM days other WHERE other.patient = files.patient AND other.day <= own.day), 0) AS number,
  (SELECT count(*) FROM days other WHERE other.patient = files.patient AND other.day IS NOT NULL) AS dated,
  own.day - (SELECT min(other.day) FROM days other WHERE other.patient = files.patient) AS days
  FROM files JOIN days own USING (patient, visit) WHERE status = 'read' GROUP BY patient, visit, eye;
CREATE VIEW outcomes AS SELECT status, code, count(*) AS files FROM files GROUP BY status, code;
"""
_BATCH = 1000
_REASONS = {
    "same_content": "the same file lies elsewhere in the tree",
    "same_instance": "the same picture under the same SOP Instance UID lies elsewhere in the tree",
    "conflict": "another file has the same SOP Instance UID and another picture; both are kept, and one of them is named wrongly",
}


class Catalogue:
    """An existing catalogue. A context manager. ``models``: ids of the bundles that are to look at the scans, or "". ``share`` is "3/16" of
    one that holds a part of the files, else "".

    Raises
    ------
    ConfigError: the file is not a catalogue, is damaged, or cannot be opened.
    """

    def __init__(self, path: Path, models: str = "") -> None:
        damaged = "is damaged; remove it and run the command again (every file is then read anew)"
        foreign = "exists and is not a catalogue of ocuseg; give another name"
        with refusals(f"the catalogue {path.name!r}", damaged, foreign), closed_on_error(opened(path)) as self._database:
            about = dict(self._database.execute("SELECT name, value FROM about"))
        self.current = about.get("reader") == READER and about.get("models", "") == models
        """Whether this version, with these models, would make the same records."""
        self.share, self.models = str(about.get("share", "")), str(about.get("models", ""))

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM files").fetchone()[0])

    def __iter__(self) -> Iterator[FileRecord]:
        """Every record, in the order of the walk."""
        for _, record in self.placed():
            yield record

    def placed(self) -> Iterator[tuple[int, FileRecord]]:
        """Every record with its position in the walk, in this order."""
        with closing(self._database.execute(f"SELECT position, {_LIST} FROM files ORDER BY position")) as rows:  # noqa: S608 (our own names)
            for position, *row in rows:
                yield position, FileRecord(*row)

    def get(self, token: str) -> FileRecord | None:
        """The record of one file, if there is one."""
        row = self._database.execute(f"SELECT {_LIST} FROM files WHERE token = ?", (token,)).fetchone()  # noqa: S608
        return FileRecord(*row) if row else None

    def outcomes(self) -> dict[tuple[str, str], int]:
        """Number of files by (status, code)."""
        return {(status, code): count for status, code, count in self._database.execute("SELECT status, code, files FROM outcomes")}

    def with_warnings(self) -> int:
        """Number of images that were read and need a person's attention, for their own content or because of other files."""
        query = "SELECT count(*) FROM files WHERE status = 'read' AND (warnings != '' OR code NOT IN ('', 'volume'))"
        return int(self._database.execute(query).fetchone()[0])

    def groups(self) -> dict[str, int]:
        """Number of patients, eyes (of patients), visits and images among the files that were read."""
        counted = self._database.execute(
            "SELECT count(DISTINCT patient), count(DISTINCT patient || eye), count(DISTINCT patient || visit), count(*) "
            "FROM files WHERE status = 'read'"
        ).fetchone()
        return dict(zip(("patients", "eyes", "visits", "images"), counted, strict=True))


_LIST = ", ".join(f'"{name}"' for name in _COLUMNS)


class CatalogueWriter:
    """Fills a new catalogue file row by row; after a kill, the rows written so far can be read. ``models`` and ``share`` as of
    :class:`Catalogue`."""

    def __init__(self, path: Path, models: str = "", share: str = "") -> None:
        with closed_on_error(sqlite3.connect(path)) as self._database:
            self._database.executescript(_SCHEMA)
            self._database.execute("INSERT INTO about VALUES ('reader', ?), ('models', ?), ('share', ?)", (READER, models, share))
            self._database.commit()
        self._count = 0

    def add(self, record: FileRecord, position: int | None = None) -> None:
        """``position`` of the file in the order of the whole walk, in which records come; without one they are counted."""
        parts = record.case.split("_") if record.case else [None] * 4
        values = [getattr(record, name) for name in _COLUMNS]
        marks = ", ".join("?" * (len(values) + 5))
        self._count += 1
        self._database.execute(
            f"INSERT OR IGNORE INTO files (position, {_LIST}, patient, eye, visit, image) VALUES ({marks})",  # noqa: S608
            (self._count if position is None else position, *values, *parts),
        )
        if self._count % _BATCH == 0:
            self._database.commit()

    def join(self) -> None:
        """Once all files are in, what they say of each other: duplicates and both sides of a conflict are marked, slices of a volume become
        one image, and its parts. A volume's record is its first slice's, with the number of all in ``slices``; what cannot be a volume
        says why.
        """
        self._mark_duplicates()
        self._mark_conflicts()
        for (series,) in self._database.execute(
            "SELECT series FROM files WHERE status = 'read' AND series IS NOT NULL GROUP BY series HAVING count(*) > 1"
        ).fetchall():
            query = "SELECT token, piece FROM files WHERE status = 'read' AND series = ? ORDER BY position"
            tokens, pieces = zip(*self._database.execute(query, (series,)), strict=True)
            try:
                arrangement = arrange([from_text(piece) for piece in pieces])
            except ScanError as error:
                values = (error.code, str(error), series)
                self._database.execute("UPDATE files SET code = ?, reason = ? WHERE status = 'read' AND series = ?", values)
                continue
            first, *rest = (tokens[index] for index in arrangement.order)
            reason = "; ".join((f"its {len(tokens)} slices lie in as many files", *arrangement.warnings))
            code = "volume_in_doubt" if arrangement.warnings else "volume"
            self._database.execute("UPDATE files SET code = ?, reason = ?, slices = ? WHERE token = ?", (code, reason, len(tokens), first))
            self._database.executemany(
                "UPDATE files SET status = 'part', code = 'slice', reason = ?, related = ? WHERE token = ?",
                [(f"slice {number} of {len(tokens)} of a volume", first, token) for number, token in enumerate(rest, 2)],
            )

    def _mark_duplicates(self) -> None:
        content = "coalesce(instance || ' ' || pixels, sha256)"
        self._database.execute(f"CREATE INDEX by_content ON files ({content}) WHERE status = 'read'")
        groups = f"SELECT {content} FROM files WHERE status = 'read' GROUP BY 1 HAVING count(*) > 1"  # noqa: S608 (fixed names)
        for (value,) in self._database.execute(groups).fetchall():
            query = f"""SELECT token, sha256, "case" FROM files WHERE status = 'read' AND {content} = ?
                ORDER BY coalesce(place, ''), "case", token"""  # noqa: S608
            (first, sha256, case), *others = self._database.execute(query, (value,)).fetchall()
            for token, own, name in others:
                other = Other("same_content" if own == sha256 else "same_instance", first, case)
                reason = _REASONS[other.kind] + OTHER_EYE * other.of_other_eye(name)
                values = (other.kind, reason, first, token)
                self._database.execute("UPDATE files SET status = 'duplicate', code = ?, reason = ?, related = ? WHERE token = ?", values)
        self._database.execute("DROP INDEX by_content")

    def _mark_conflicts(self) -> None:
        groups = "SELECT instance FROM files WHERE status = 'read' AND pixels IS NOT NULL GROUP BY instance HAVING count(*) > 1"
        for (instance,) in self._database.execute(groups).fetchall():
            query = """SELECT token FROM files WHERE status = 'read' AND instance = ? ORDER BY "case", token"""
            first, *others = (token for (token,) in self._database.execute(query, (instance,)))
            rows = [(first, token) for token in others] + [(None, first)]
            values = [(_REASONS["conflict"], related, token) for related, token in rows]
            self._database.executemany("UPDATE files SET code = 'conflict', reason = ?, related = ? WHERE token = ?", values)

    def commit(self) -> None:
        self._database.commit()

    def close(self) -> None:
        try:
            self._database.commit()
        finally:
            self._database.close()
