"""How a long step says how far it has come."""

from __future__ import annotations

from typing import Protocol


class ProgressCallback(Protocol):
    """Called after each piece of work: how far, of how many (if known), and a word on the current state."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


def no_progress(done: int, total: int | None = None, note: str = "") -> None:
    """Progress that nobody watches."""


def duration(seconds: float) -> str:
    """A length of time as a person says it: 40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
