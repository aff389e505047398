"""The scale bar that stands in a page before its script draws one that follows the zoom, and on paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.types import Geometry

_PANE = (640, 480)
_BAR = 110
"""CSS pixels: of a view, and of the longest bar."""


@dataclass(frozen=True)
class Bar:
    """A line x1, y1, x2, y2 and its words at ``x``, ``y``, ``size`` high, in pixels of the scan."""

    line: tuple[float, float, float, float]
    x: float
    y: float
    size: float
    text: str


def spacing_of_bars(geometry: Geometry) -> list[float | None] | None:
    """Millimetres of a row and a column, None for what is unknown; an estimate would look as true as what is known."""
    known = geometry.trusted().spacing_mm
    return None if known is None else list(known[-2:])


def scale_bars(geometry: Geometry) -> list[Bar]:
    """One along the columns, and one along the rows where these are of another size, or alone known; as viewer.js draws them."""
    spacing = spacing_of_bars(geometry)
    if spacing is None:
        return []
    (height, width), (row_mm, column_mm) = geometry.plane, spacing
    step = max(width / _PANE[0], height / _PANE[1])  # pixels of the scan a CSS pixel
    x, y, bars = 14 * step, height - 26 * step, []
    if column_mm:
        across = nice_length(_BAR * step * column_mm)
        bars.append(Bar((x, y, x + across / column_mm, y), x, y + 17 * step, 12.5 * step, length_text(across)))
    if row_mm and not (column_mm and abs(row_mm / column_mm - 1) <= 0.01):
        down = nice_length(_BAR * step * row_mm)
        top = y - down / row_mm
        bars.append(Bar((x, y, x, top), x + 7 * step, top + 10 * step, 12.5 * step, length_text(down)))
    return bars


def nice_length(longest: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is at most ``longest``."""
    power = 10.0 ** math.floor(math.log10(longest))
    return next((n * power for n in (5, 2, 1) if n * power <= longest * (1 + 1e-9)), power)


def length_text(millimetres: float) -> str:
    return f"{millimetres * 1000:.3g} µm" if millimetres < 1 else f"{millimetres:.3g} mm"
