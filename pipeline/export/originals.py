"""The DICOM files that cases were made of, found again below the folder of scans: by their tokens and their SHA-256, never by a name.

The ledger knows the keyed hash of each file's relative path; with the site key and the same folder that leads straight to the file, whose
content must still be the one that was read. Where that does not find them all, every DICOM file below the folder is hashed.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ScanError
from pipeline.scans.dicom import read_dataset
from pipeline.scans.files import decoding, open_regular, sha256_of, sniff_file
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.quiet import quiet
from pipeline.scans.record import token_of
from pipeline.scans.walk import walk
from pipeline.types import ProgressCallback, no_progress

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SLICE = re.compile(r"slice (\d+) of \d+")


@dataclass
class Found:
    """DICOM files by the SHA-256 of their content, and that by the token of their path."""

    paths: dict[str, Path] = field(default_factory=dict)
    by_token: dict[str, str] = field(default_factory=dict)


@dataclass
class Wanted:
    """What is known of a case's files. ``sha256``: of its one file, or over those of a volume's slices in order, of which all but the
    first (``others``: slice number to SHA-256) are known by themselves; ``token`` of the first one's path."""

    sha256: str
    token: str = ""
    others: dict[int, str] = field(default_factory=dict)

    def files(self, found: Found, *, anywhere: bool) -> list[Path] | None:
        """In order; None where one of them was not found. ``anywhere``: the first slice may be any file."""
        if not self.others:
            return [found.paths[self.sha256]] if self.sha256 in found.paths else None
        rest = [sha256 for _, sha256 in sorted(self.others.items())]
        if not all(sha256 in found.paths for sha256 in rest):
            return None
        known = found.by_token.get(self.token, "")
        tail = "".join(rest)
        first = next((one for one in (known, *(found.paths if anywhere else ())) if _sha256(one + tail) == self.sha256), None)
        return None if first is None else [found.paths[sha256] for sha256 in (first, *rest)]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Originals:
    """The files of those cases of which all were found, in the order of their planes."""

    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def headers(self, case: str) -> tuple[Any, ...]:
        """The data sets of a case's files without their pixels: one, or one a plane; () where they were not found.

        Raises
        ------
        ScanError: a file cannot be read any more.
        """
        return tuple(map(_header, self.files.get(case, ())))


def find_originals(
    predictions: Path, cases: Mapping[str, str], root: Path, names: Pseudonyms | None, progress: ProgressCallback = no_progress
) -> Originals:
    """Look below ``root`` for the DICOM files of ``cases``, {name: SHA-256}; without the site key (``names``) by their contents alone."""
    wanted, tokens = _of_ledger(predictions, cases)
    paths = {path: "" if names is None else token_of(path, root, names) for path, problem in walk(root) if problem is None}
    known = Found()
    _hash({path: token for path, token in paths.items() if token in tokens}, known, progress)
    if any(one.files(known, anywhere=False) is None for one in wanted.values()):
        _hash({path: token for path, token in paths.items() if token not in tokens}, known, progress)
    found = {case: one.files(known, anywhere=True) for case, one in wanted.items()}
    return Originals({case: tuple(files) for case, files in found.items() if files is not None})


def _hash(paths: Mapping[Path, str], found: Found, progress: ProgressCallback) -> None:
    """Add the DICOM files among ``paths``, each with its token."""
    for number, (path, token) in enumerate(paths.items(), 1):
        progress(number, len(paths), "comparing files with the cases")
        try:
            with open_regular(path) as file:
                if sniff_file(file) == "dicom":
                    sha256 = sha256_of(file)
                    found.paths.setdefault(sha256, path)
                    found.by_token[token] = sha256
        except (ScanError, OSError):
            continue


def _of_ledger(predictions: Path, cases: Mapping[str, str]) -> tuple[dict[str, Wanted], set[str]]:
    """What is wanted of each case, and the tokens of all their files; a lost ledger leaves what the cases themselves say."""
    wanted = {case: Wanted(sha256) for case, sha256 in cases.items()}
    tokens: set[str] = set()
    try:
        with (predictions / "ledger.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                one = wanted.get(row.get("case") or "")
                if one is None or row.get("status") not in ("done", "part"):
                    continue
                tokens.add(row.get("token") or "")
                if row["status"] == "done":
                    one.token = row.get("token") or ""
                if row["status"] == "part" and (number := _SLICE.match(row.get("reason") or "")):
                    one.others[int(number[1])] = row.get("sha256") or ""
    except (OSError, csv.Error):
        pass
    return wanted, tokens


def _header(path: Path) -> Any:
    with quiet(), open_regular(path) as file, decoding("the original DICOM file"):
        dataset = read_dataset(file)
        for keyword in _PIXELS:
            if keyword in dataset:
                del dataset[keyword]
        return dataset
