"""How a long step says how far it has come."""

from __future__ import annotations

from typing import Protocol


class Advance(Protocol):
    """Called after each piece of work: how far, of how many (if known), and a word on the current state."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


def silent(done: int, total: int | None = None, note: str = "") -> None:
    """Progress that nobody watches."""
