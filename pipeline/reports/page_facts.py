"""What making a case's page taught, kept beside it so that an up-to-date page is left alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.reports.neighbours import Neighbours
from pipeline.reports.objects import instance_file
from pipeline.reports.pages import edition
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.surface_lines import DEVICE_FILE, SURFACE_FILE
from pipeline.types.case_record import CASE_FILE, OBJECTS_FILE


@dataclass(frozen=True)
class PageFacts:
    """What making a page taught: per class pixels and slices as counted in the masks, and what the reader must be told.

    ``objects``: per class those at or above the bundle's threshold, None where that is not known; None for a run without objects.
    ``boxes_only``: the run finds objects, but no masks.
    """

    pixels: tuple[int, ...]
    slices: tuple[int, ...]
    warnings: tuple[str, ...]
    objects: tuple[int | None, ...] | None = None
    boxes_only: bool = False


def fingerprint(case: ReportCase, run: RunFacts, near: Neighbours) -> str:
    """Changes with anything a page shows: the case's files (by size and time), the run, its neighbours, this code."""
    digest = hashlib.sha256(repr((edition(), run, near.state, case.geometry.laterality_source, case.side)).encode())
    digest.update((case.folder / CASE_FILE).read_bytes())
    for name in (SURFACE_FILE, DEVICE_FILE):
        digest.update(_state(case.folder / name, optional=True))
    for plane in case.planes:
        for picture in filter(None, (plane.image, plane.mask)):
            digest.update(_state(case.folder / picture))
        if run.objects:
            for cls in run.label_map.classes:
                digest.update(_state(case.folder / instance_file(plane, cls.index), optional=True))
    if run.objects:
        digest.update(_state(case.folder / OBJECTS_FILE, optional=True))
    return digest.hexdigest()


def _state(file: Path, *, optional: bool = False) -> bytes:
    if optional and not file.exists():
        return b"missing"
    status = file.stat()
    return repr((status.st_size, status.st_mtime_ns)).encode()


def read_facts(path: Path, fingerprint: str) -> PageFacts | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.pop("fingerprint") != fingerprint:
            return None
        objects = known["objects"]
        return PageFacts(
            tuple(known["pixels"]),
            tuple(known["slices"]),
            tuple(known["warnings"]),
            None if objects is None else tuple(objects),
            known["boxes_only"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
