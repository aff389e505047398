"""What becomes of one file: its new content, or a ScanError that says why there is none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cleaned:
    """A file without whose it is. ``suffix``: how its name ends · ``removed``: names (never values) of what was taken away or replaced ·
    ``notes``: what a person should know, such as another format · ``needles``: texts that named the person, which nothing may hold ·
    ``searched``: the part of the content in which a word could be, for looking for them."""

    content: bytes
    suffix: str
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    needles: frozenset[str] = frozenset()
    searched: bytes = b""
