"""Which files there are at all, left in an output folder while work on it goes on, so that somebody can tell what is missing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.atomic import sync, unless_gone
from pipeline.scans.listing import Listing
from pipeline.scans.shard import Shard

FOUND = "found"
_LINE = 34
"""Bytes of a line: two tokens."""


def note(work: Path, listing: Listing, shard: Shard | None, me: str, *, whole: bool) -> None:
    """Leave, for `ocuseg merge`, the tokens of all files that were listed (of a part of the folder unless ``whole``), and into how many
    shards they are cut."""
    of = 1 if shard is None else shard.of
    path = work / (f"{FOUND}.{of}" if whole else f"{FOUND}.{of}.{me}")
    size = len(f"{of}\n") + _LINE * listing.total
    if path.exists() and path.stat().st_size == size:
        return  # another process has listed as many
    staged = work / f".{FOUND}.{me}"
    with staged.open("w", encoding="ascii", newline="\n") as file:
        file.write(f"{of}\n")
        file.writelines(f"{token} {key}\n" for token, key in listing.tokens_and_keys())
    sync(staged)  # after a loss of power a list has all of its lines, or is not there
    os.replace(staged, path)


def found(work: Path) -> Iterator[tuple[str, str, int]]:
    """(token, key, number of shards) of each file that somebody has listed, once."""
    seen: set[str] = set()
    for path in sorted(work.glob(f"{FOUND}.*"), key=lambda path: -path.stat().st_mtime_ns):
        for token, key, of in _read(path):
            if token not in seen:
                seen.add(token)
                yield token, key, of


def of_others(work: Path, others: Collection[str]) -> Iterator[str]:
    """Tokens of the files that other processes, which are at work, have listed; some come more than once."""
    own = {path.suffix[1:]: path for path in work.glob(f"{FOUND}.*.*")}
    lists = [own[name] for name in others if name in own]
    if any(name not in own for name in others):  # it has listed the whole folder
        lists += [path for path in work.glob(f"{FOUND}.*") if path not in own.values()]
    for path in lists:
        with unless_gone():  # once all is settled
            yield from (token for token, _, _ in _read(path))


def _read(path: Path) -> Iterator[tuple[str, str, int]]:
    with path.open(encoding="ascii") as file:
        of = int(file.readline())
        for line in file:
            token, _, key = line.rstrip("\n").partition(" ")
            yield token, key, of


def forget(work: Path, others: Collection[str]) -> None:
    """Once a run is complete: all but the lists, and what is to become one, of ``others``, which are at work."""
    for path in (*work.glob(f"{FOUND}.*"), *work.glob(f".{FOUND}.*")):
        if path.suffix[1:] not in others:
            path.unlink(missing_ok=True)
