"""A measure from visit to visit, as a small line without axes (a sparkline) beside its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 120, 32
_MARGIN = 4


@dataclass(frozen=True)
class TrendLine:
    """One eye: ``texts``, one a visit, "" where it was not measured · ``path`` and ``points`` in a drawing of 120 x 32."""

    eye: str
    texts: tuple[str, ...]
    path: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Trend:
    """One measure of both eyes, on one scale."""

    title: str
    lines: tuple[TrendLine, ...]


Number = tuple[str, str, str, float | None, str, str, bool]
"""Eye, key, title, value, text, unit, and whether the size of a pixel is estimated."""


def trends(visits: Sequence[Sequence[Number]]) -> list[Trend]:
    """Of each measure that an eye has at two visits at least; visits in the order given, equally far apart. Numbers of different
    units, or on an estimated and on a known scale, are trends of their own."""
    titles: dict[tuple[str, str, bool], str] = {}
    table: dict[tuple[tuple[str, str, bool], str], list[tuple[float | None, str]]] = {}
    for at, numbers in enumerate(visits):
        for eye, name, title, value, text, unit, estimated in numbers:
            key = (name, unit, estimated)
            titles.setdefault(key, title)
            table.setdefault((key, eye), [(None, "")] * len(visits))[at] = (value, text)
    out = []
    for key, title in titles.items():
        own = {eye: table[key, eye] for eye in ("OD", "OS") if (key, eye) in table}
        known = [value for cells in own.values() for value, _ in cells if value is not None]
        if max(sum(value is not None for value, _ in cells) for cells in own.values()) < 2:
            continue
        low, high = min(known), max(known)
        out.append(Trend(title, tuple(_line(eye, cells, low, high) for eye, cells in own.items())))
    return out


def _line(eye: str, cells: Sequence[tuple[float | None, str]], low: float, high: float) -> TrendLine:
    step = (WIDTH - 2 * _MARGIN) / max(1, len(cells) - 1)
    points = tuple((round(_MARGIN + at * step, 1), _height(value, low, high)) for at, (value, _) in enumerate(cells) if value is not None)
    path = "".join(f"{'L' if at else 'M'}{x:g} {y:g}" for at, (x, y) in enumerate(points))
    return TrendLine(eye, tuple(text for _, text in cells), path, points)


def _height(value: float, low: float, high: float) -> float:
    return HEIGHT / 2 if high == low else round(_MARGIN + (high - value) / (high - low) * (HEIGHT - 2 * _MARGIN), 1)
