"""What processes that share an output folder tell each other: how the files of each block ended, each block one file that appears whole."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.atomic import unless_gone
from pipeline.inference.journal import Entry, Journal


class Shares:
    """The published entries below ``folder``; ``me`` names this process.

    ``ORIGIN.N.jsonl`` holds the entries of a block (or of what of it was finished when its process was stopped: ``ORIGIN-part``), one
    a line, and their checksum; N counts how often the block was worked on, as what failed is tried again by a later call.

    Nothing waits for the disk: a file that a loss of power leaves incomplete does not fit its checksum, and counts as an empty one, so
    that its block is worked on again. The cases that it told of are there, and recognised.
    """

    def __init__(self, folder: Path, me: str) -> None:
        self._folder, self._me = folder, me
        self._known: dict[str, int] = {}  # the highest number of each block when this process began, or took it in
        folder.mkdir(parents=True, exist_ok=True)

    def is_news(self, block: str) -> bool:
        """Whether somebody has published ``block`` since this process took in what there was."""
        return self._path(block, self._known.get(block, 0) + 1).exists()

    def publish(self, block: str, entries: Sequence[Entry], *, whole: bool = True) -> None:
        """Raises OSError where the disk refuses."""
        name = block if whole else f"{block}-part"
        number = self._known.get(name, 0) + 1
        while self._path(name, number).exists():
            number += 1
        staged = self._folder / f".{name}.{self._me}"
        text = "".join(json.dumps(entry.row()) + "\n" for entry in entries)
        staged.write_text(text + _checksum(text), encoding="ascii")
        os.replace(staged, self._path(name, number))
        self._known[name] = number

    def is_empty(self) -> bool:
        return next(self._published(), None) is None

    def take_in(self, journal: Journal, told: Callable[[Entry], None] = lambda entry: None) -> None:
        """Record in ``journal`` what was published and is not known yet, in that order: of a file that failed in a process that was
        stopped, and that a later one has done, the last word counts."""
        for _, name, number in sorted((self._published_at(*one), *one) for one in self._published(news=True)):
            with unless_gone():  # somebody has just put everything into the journal
                entries = self._read(name, number)
                journal.record(*entries)
                for entry in entries:
                    told(entry)
                self._known[name] = number

    def forget(self) -> None:
        """Remove what was taken in: it is in the folder's own journal now."""
        for name, number in list(self._published()):
            if number <= self._known.get(name, 0):
                self._path(name, number).unlink(missing_ok=True)
        self._known = {}

    def clear_up(self, living: Sequence[str]) -> None:
        """Remove what processes had begun to write that live no more."""
        for path in self._folder.glob(".*"):
            if path.suffix[1:] not in living:
                path.unlink(missing_ok=True)

    def _published(self, *, news: bool = False) -> Iterator[tuple[str, int]]:
        """(block, number) of each file, or of the ones that are not taken in yet."""
        with os.scandir(self._folder) as files:
            for file in files:
                name, _, number = file.name.removesuffix(".jsonl").rpartition(".")
                if file.name.endswith(".jsonl") and number.isdecimal() and (not news or int(number) > self._known.get(name, 0)):
                    yield name, int(number)

    def _published_at(self, block: str, number: int) -> int:
        """By the shared file system's clock."""
        at = 0
        with unless_gone():
            at = self._path(block, number).stat().st_mtime_ns
        return at

    def _path(self, block: str, number: int) -> Path:
        return self._folder / f"{block}.{number}.jsonl"

    def _read(self, block: str, number: int) -> list[Entry]:
        text, end, checksum = self._path(block, number).read_text(encoding="ascii", errors="replace").rpartition("\n")
        if checksum != _checksum(text + end):
            return []
        return [Entry(*json.loads(line)) for line in text.splitlines()]


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
