"""Pictures that may be slices of a volume, held by name until every file has been seen, and what they then make."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ScanError
from pipeline.inference.reading import File
from pipeline.scans.database import TemporaryDatabase
from pipeline.scans.series import arrange, stack
from pipeline.types import Scan


@dataclass(frozen=True)
class Piece:
    """``new`` unless its result is known from an earlier run; ``note`` is what is to be told of it, or ""."""

    file: File
    new: bool
    note: str


class Pieces(TemporaryDatabase):
    """The files of each series."""

    def __init__(self) -> None:
        super().__init__(
            "CREATE TABLE pieces (series, path BLOB, token, stamp, new, note, pixels);CREATE INDEX by_series ON pieces (series);"
        )

    def add(self, series: str, file: File, *, new: bool, note: str = "", pixels: int = 0) -> None:
        """``pixels`` of a new one; a known one counts as large as those."""
        row = (series, os.fsencode(file.path), file.token, file.stamp, new, note, pixels)
        self._database.execute("INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def groups(self) -> Iterator[tuple[list[Piece], int]]:
        """The files of each series that has something new, in the order of the walk, and how many pixels they have together."""
        query = "SELECT series, count(*) * max(pixels) FROM pieces GROUP BY series HAVING max(new) ORDER BY min(rowid)"
        for series, pixels in self._database.execute(query).fetchall():
            rows = self._database.execute("SELECT path, token, stamp, new, note FROM pieces WHERE series = ? ORDER BY rowid", (series,))
            yield [Piece(File(Path(os.fsdecode(p)), token, stamp), bool(new), note) for p, token, stamp, new, note in rows], pixels


def volume_of(scans: Sequence[Scan]) -> tuple[Scan, tuple[int, ...]]:
    """The volume that pictures of one series make, and the indices of its slices in order.

    Raises
    ------
    ScanError: ``no_volume``.
    """
    pieces = [scan.piece for scan in scans if scan.piece is not None]
    if len(pieces) < len(scans):
        raise ScanError("no_volume", "a file of its series changed while it was being read; run the command again")
    arrangement = arrange(pieces)
    return stack(scans, arrangement), arrangement.order
