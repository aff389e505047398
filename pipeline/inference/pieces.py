"""Pictures that may be slices of a volume, put aside until every file of their block has been seen, and what they then make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import ScanError
from pipeline.inference.reading import File
from pipeline.scans.series import arrange, stack
from pipeline.types import Scan


@dataclass(frozen=True)
class Piece:
    """``new`` unless its result is known from an earlier run; ``pixels`` of a new one, a known one counts as large as those."""

    file: File
    series: str
    new: bool
    pixels: int = 0


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


def judged(tokens: Iterable[str]) -> str:
    """What stands for the files of a series that were looked at together."""
    return hashlib.sha256(" ".join(sorted(tokens)).encode("ascii")).hexdigest()[:16]
