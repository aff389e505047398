"""Surfaces of the retina as a page draws them: a line each over the B-scan, and how thick the layers are along it."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.reports.results import ReportCase
from pipeline.types import LabelMap

SURFACE_FILE, DEVICE_FILE = "surfaces.csv", "device_surfaces.csv"
DEVICE = "Heidelberg"
"""Who makes the devices whose lines are read (.vol, .e2e and .xml files)."""
_POINTS = 256
"""At most that many points a profile: more than a screen has room for."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SurfaceLines:
    """``depth`` float32 (S, D, W) in px from the top edge, NaN where a surface was not found · ``layers``: places of the layers in the
    label map, from the vitreous down · ``unit`` of thickness, "µm" or "px", of which a row is ``row`` · ``most``: the top of the scale."""

    depth: Floats
    layers: tuple[int, ...]
    unit: str
    row: float
    most: float

    def lines(self, at: int) -> dict[int, str]:
        """SVG path data in half pixels by the place of the layer: its upper surface, of the last one also the lower."""
        out = {place: line_data(self.depth[k, at]) for k, place in enumerate(self.layers)}
        out[self.layers[-1]] += line_data(self.depth[-1, at])
        return out

    def profile(self, at: int) -> list[str]:
        """Thickness along a B-scan as SVG path data, x in columns and y in the unit: of each layer, then of all together."""
        surfaces = self.depth[:, at]
        thick = [*(self.row * np.diff(surfaces, axis=0)), self.row * (surfaces[-1] - surfaces[0])]
        return [profile_data(own) for own in thick]


def read_surface_lines(case: ReportCase, label_map: LabelMap) -> SurfaceLines | None:
    """From surfaces.csv; None for a case without layers, or where the file is missing or does not fit: contours are drawn then."""
    if not label_map.layered:
        return None
    shape = (case.geometry.slices, case.geometry.plane[1], len(label_map.surface_names))
    try:
        names, values = _table(case.folder / SURFACE_FILE)
        if names != tuple(label_map.surface_names):
            return None
        depth = np.moveaxis(values.reshape(shape), -1, 0)
    except (OSError, ValueError):
        return None
    known = case.geometry.trusted().spacing_mm
    height = None if known is None else known[-2]
    row, unit = (1.0, "px") if height is None else (1000 * height, "µm")
    thickest = float(np.nanmax(depth[-1] - depth[0], initial=0)) * row
    step = 100 if unit == "µm" else 20
    return SurfaceLines(depth, tuple(map(label_map.names.index, label_map.layered)), unit, row, step * max(1, math.ceil(thickest / step)))


@dataclass(frozen=True, eq=False)
class DeviceLines:
    """The lines that the device drew into the file: their ``names``, and ``depth`` float32 (S, D, W) as of :class:`SurfaceLines`."""

    names: tuple[str, ...]
    depth: Floats

    def line(self, at: int) -> str:
        """SVG path data in half pixels of all lines on one B-scan."""
        return "".join(map(line_data, self.depth[:, at]))


def read_device_lines(case: ReportCase) -> DeviceLines | None:
    """From device_surfaces.csv; None where there is no such file, or where it does not fit the case."""
    try:
        names, values = _table(case.folder / DEVICE_FILE)
        shape = (case.geometry.slices, case.geometry.plane[1], len(names))
        return DeviceLines(names, np.moveaxis(values.reshape(shape), -1, 0)) if names else None
    except (OSError, ValueError):
        return None


def _table(path: Path) -> tuple[tuple[str, ...], Floats]:
    """Names of surfaces, and their depths one row after the other. Raises OSError, ValueError."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        names = tuple(next(rows, [])[2:])
        return names, np.asarray([float(cell) if cell else math.nan for row in rows for cell in row[2:]], np.float32)


def line_data(depth: Floats) -> str:
    """A surface (W) as open lines through the middles of its columns; points on a straight line are left out."""
    y = np.rint(2 * np.nan_to_num(depth)).astype(np.int64)
    known = np.isfinite(depth)
    parts = []
    for start, stop in _runs(known):
        own = y[start:stop]
        bends = np.flatnonzero(np.diff(own, 2)) + 1
        places = np.unique(np.concatenate([[0], bends, [len(own) - 1]]))
        parts.append(_path(2 * (start + places) + 1, own[places]))
    return "".join(parts)


def profile_data(thickness: Floats) -> str:
    """Means of thickness (W) over at most 256 stretches, interrupted where nothing is known."""
    step = math.ceil(len(thickness) / _POINTS)
    padded = np.pad(thickness, (0, -len(thickness) % step), constant_values=np.nan).reshape(-1, step)
    number = np.isfinite(padded).sum(axis=1)
    mean = np.nansum(padded, axis=1) / np.maximum(number, 1)
    x = np.arange(len(mean)) * step + step // 2
    return "".join(_path(x[start:stop], np.rint(mean[start:stop]).astype(np.int64)) for start, stop in _runs(number > 0))


def _runs(known: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _path(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> str:
    steps = zip(np.diff(x).tolist(), np.diff(y).tolist(), strict=True)
    return f"M{x[0]} {y[0]}l" + " ".join(f"{dx}{'' if dy < 0 else ' '}{dy}" for dx, dy in steps) if len(x) > 1 else f"M{x[0]} {y[0]}h1"
