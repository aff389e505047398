"""Volumes stored one slice per file: which files belong together, in which order, and the volume they form.

A key groups them (one series, patient, visit and eye: nothing else is ever mixed); what does not form a volume says why, and its files
remain pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.dicom_geometry import affine_of, even_step
from pipeline.scans.spacing import check_spacing
from pipeline.types import Geometry, Scan, SeriesSlice, known_spacing

_SAME_MM = 1e-3
_PARALLEL = 1e-3


@dataclass(frozen=True)
class Arrangement:
    """``order``: indices of the slices from first to last · ``step``: vector from slice to slice in mm, if it is the same for all ·
    ``warnings``: what a person should know."""

    order: tuple[int, ...]
    step: npt.NDArray[np.float64] | None
    warnings: tuple[str, ...]


def to_text(piece: SeriesSlice) -> str:
    return json.dumps(asdict(piece))


def from_text(text: str) -> SeriesSlice:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}
    return SeriesSlice(**values)


def arrange(pieces: Sequence[SeriesSlice]) -> Arrangement:
    """The order of the slices of one series: by position along the common normal, else by Instance Number.

    Raises
    ------
    ScanError: code ``no_volume``; the pictures are of different kinds, not parallel, two at one position, or without an order.
    """
    if len({piece.kind for piece in pieces}) > 1:
        raise _no_volume("its pictures differ in size or kind of pixels")
    placed = [np.array(p.position) for p in pieces if p.position is not None and p.orientation is not None]
    if len(placed) == len(pieces):
        return _by_position(pieces, placed)
    if any(piece.number is None for piece in pieces):
        raise _no_volume("not every file states a position or an Instance Number")
    order = sorted(range(len(pieces)), key=lambda index: pieces[index].number or 0)
    numbers = [pieces[index].number or 0 for index in order]
    if len(set(numbers)) < len(numbers):
        raise _no_volume("two of its files have one Instance Number")
    warnings = ["positions are missing, so its slices are in the order of their Instance Numbers"]
    if missing := numbers[-1] - numbers[0] + 1 - len(numbers):
        warnings.append(f"{missing} Instance Numbers between its slices are missing, perhaps with their slices")
    return Arrangement(tuple(order), None, tuple(warnings))


def _by_position(pieces: Sequence[SeriesSlice], positions: Sequence[npt.NDArray[np.float64]]) -> Arrangement:
    cosines = np.array([piece.orientation for piece in pieces], dtype=np.float64)
    if not np.allclose(cosines, cosines[0], atol=_PARALLEL):
        raise _no_volume("its pictures are not parallel")
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
    along = np.array([float(position @ normal) for position in positions])
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    if (steps < _SAME_MM).any():
        raise _no_volume("two of its pictures lie at one position")
    step = even_step([positions[index] for index in order])
    uneven = f"its slices lie {steps.min():.3g} to {steps.max():.3g} mm apart, or are shifted: some may be missing"
    return Arrangement(tuple(int(index) for index in order), step, () if step is not None else (uneven,))


def _no_volume(why: str) -> ScanError:
    return ScanError("no_volume", f"part of a series that does not form a volume: {why}")


def stack(scans: Sequence[Scan], arrangement: Arrangement) -> Scan:
    """The volume of the slices, (C, D, H, W), named like the first one; ``sha256`` is computed from theirs, in order."""
    ordered = [scans[index] for index in arrangement.order]
    first = ordered[0]
    piece = first.piece
    assert piece is not None
    plane = first.geometry.spacing_mm or (None, None)
    if any(scan.geometry.spacing_mm != first.geometry.spacing_mm for scan in ordered):
        plane = (None, None)
    step = arrangement.step
    spacing = known_spacing((None if step is None else float(np.linalg.norm(step)), *plane))
    affine = None
    if None not in plane and piece.position is not None and piece.orientation is not None:
        affine = affine_of(np.array(plane), np.array(piece.position), np.array(piece.orientation), step, 3)
    geometry, doubts = check_spacing(
        Geometry(
            (len(ordered), *first.geometry.plane),
            spacing,
            "unknown" if spacing is None else "tag",
            affine,
            first.geometry.laterality,
            first.geometry.laterality_source,
        )
    )
    noticed = dict.fromkeys(f"of a slice: {warning}" for scan in ordered for warning in scan.warnings)
    return Scan(
        np.stack([scan.pixels for scan in ordered], axis=1),
        geometry,
        first.modality,
        first.case,
        hashlib.sha256("".join(scan.sha256 for scan in ordered).encode("ascii")).hexdigest(),
        warnings=(*arrangement.warnings, *doubts, *noticed),
        patient_source=first.patient_source,
        day=first.day,
        doubts=tuple(dict.fromkeys(doubt for scan in ordered for doubt in scan.doubts)),
    )
