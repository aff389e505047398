"""The slices of a case as its page draws them: contours, rings and counts of each class, contours of objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.drawing.contours import drawable, path_data, small_finding_rings
from pipeline.reports.objects import CaseObjects, outlines
from pipeline.reports.pages import write_text
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.surface_lines import DeviceLines, SurfaceLines, read_device_lines, read_surface_lines
from pipeline.types.case_record import PlaneRecord

PART = 400_000
"""Characters of outlines in one script file of a volume; a slice's file is loaded when the slice is looked at."""


@dataclass
class DrawnSlice:
    """One slice as drawn: per class its outline, rings and number of pixels; by id the contours of objects; by class of a layer its
    surface, and how thick the layers are, where that is known · ``device``: the lines that the device drew."""

    paths: list[str]
    rings: list[list[tuple[float, float, float]]]
    pixels: list[int]
    smallest: int = 1
    outlines: dict[int, str] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)
    profile: list[str] = field(default_factory=list)
    device: str = ""

    def to_json(self) -> dict[str, Any]:
        """What viewer.js draws."""
        more = {"outlines": self.outlines, "lines": self.lines, "profile": self.profile, "device": self.device}
        return {"paths": self.paths, "rings": self.rings} | {name: own for name, own in more.items() if own}


@dataclass
class DrawnCase:
    """All slices of a case: ``start`` is the one with most found, drawn as ``first`` · ``pixels``: of each slice those of each class ·
    ``total`` int64 (K, 2): pixels and slices of each class · ``smallest``: parts below that many pixels are left out somewhere ·
    ``scripts``: of each slice of a volume the file that holds its outlines · ``surfaces`` of layers, and the ``device``'s lines."""

    start: int
    first: DrawnSlice
    pixels: list[list[int]]
    total: npt.NDArray[np.int64]
    smallest: int
    warnings: list[str]
    scripts: list[str]
    surfaces: SurfaceLines | None
    device: DeviceLines | None


class _Scripts:
    """The outlines of a volume, in files of some slices each, loaded when one of these is looked at."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.files: list[str] = []
        self.waiting: dict[str, Any] = {}
        self.size = 0

    def add(self, at: int, drawn: DrawnSlice, *, last: bool) -> None:
        self.waiting[str(at)] = drawn.to_json()
        self.size += sum(map(len, (*drawn.paths, *drawn.outlines.values(), *drawn.lines.values(), *drawn.profile, drawn.device)))
        if self.size > PART or last:
            file = f"{self.name}_{at:04d}.js"
            write_text(self.folder / file, f"ocusegSlices({json.dumps(self.waiting, separators=(',', ':'))});\n")
            self.files += [file] * len(self.waiting)
            self.waiting, self.size = {}, 0


def draw_case(folder: Path, case: ReportCase, run: RunFacts, objects: CaseObjects | None) -> DrawnCase:
    """Draw every slice, with memory for a few of them; the outlines of a volume go into ``folder``."""
    out: DrawnCase | None = None
    scripts = _Scripts(folder, str(case.key))
    surfaces, device = read_surface_lines(case, run.label_map), read_device_lines(case)
    fullest = (-1, -1)
    for at, plane in enumerate(case.planes):
        drawn = _draw_slice(run.label_map.layers(case.mask(plane)))
        if surfaces is not None:
            drawn.lines, drawn.profile = surfaces.lines(at), surfaces.profile(at)
        if device is not None:
            drawn.device = device.line(at)
        if out is None:
            out = DrawnCase(at, drawn, [], np.zeros((len(run.label_map), 2), dtype=np.int64), 1, [], scripts.files, surfaces, device)
        out.total += np.array([[n, n > 0] for n in drawn.pixels], dtype=np.int64).reshape(-1, 2)
        out.pixels.append(drawn.pixels)
        out.smallest = max(out.smallest, drawn.smallest)
        above = 0
        if objects is not None:
            above = sum(map(objects.above, objects.in_slice(at)))
            out.warnings += _draw_objects(drawn, case, plane, run, objects)
        if (filled := (sum(drawn.pixels), above)) > fullest:
            fullest, out.start, out.first = filled, at, drawn
        if case.volume:
            scripts.add(at, drawn, last=at == len(case.planes) - 1)
    assert out is not None  # a case has at least one plane
    return out


def _draw_slice(layers: npt.NDArray[np.bool_]) -> DrawnSlice:
    out = DrawnSlice([], [], [])
    for layer in layers:
        pixels = int(np.count_nonzero(layer))
        out.pixels.append(pixels)
        if not pixels:
            out.paths.append("")
            out.rings.append([])
            continue
        thinned, smallest = drawable(layer)
        out.smallest = max(out.smallest, smallest)
        out.paths.append(path_data(thinned))
        out.rings.append(small_finding_rings(thinned))
    return out


def _draw_objects(drawn: DrawnSlice, case: ReportCase, plane: PlaneRecord, run: RunFacts, objects: CaseObjects) -> list[str]:
    """Each object's own contour in place of its class's, and no rings: the boxes lead the eye. Returns what did not fit together."""
    drawn.rings = [own if case.by_pixels(name) else [] for name, own in zip(run.label_map.names, drawn.rings, strict=True)]
    if not objects.has_masks:
        return []
    drawn.outlines, apart, warnings = outlines(case, plane, run.label_map, objects)
    drawn.paths = ["" if label in apart else path for label, path in enumerate(drawn.paths)]
    return warnings
