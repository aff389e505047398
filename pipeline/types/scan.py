"""What a reader gives: where pixels lie, whose they are, and the pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Laterality = Literal["R", "L"]
LateralitySource = Literal["tag", "functional_group", "filename", "card", "user", "picture", "reviewer", "unknown"]
SpacingSource = Literal["tag", "axial_length", "user", "estimated", "unknown"]
Modality = Literal["fundus", "oct", "octa", "slo", "unknown"]
ModalitySource = Literal["tag", "card", "user", "picture"]
ScanPattern = Literal["raster", "circle", "line", "radial", "unknown"]
"""How the B-scans of OCT lie: parallel; once around the disc, from temporal over superior; a single one; through one point."""
SlicesRun = Literal["up", "down", "unknown"]
"""Whether the slices of a volume come from inferior to superior, or the other way round."""
PatientSource = Literal["tag", "folder", "file", "card", "user", "unknown"]

Spacing = tuple[float | None, ...]
"""Millimetres from pixel to pixel, of each axis; None for an axis of which it is not known."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


def known_spacing(axes: Iterable[float | None]) -> Spacing | None:
    """``axes`` as Geometry takes them: None as a whole where no axis is known."""
    spacing = tuple(axes)
    return None if all(axis is None for axis in spacing) else spacing


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless ``condition``: how every core type checks itself."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class NiftiFrame:
    """The fields of a NIfTI header that say where the image lies, in its own units: a mask written with the same ones lies over it in
    every program, whatever that program makes of them.

    ``pixdim``: handedness (qfac), then columns, rows, slices · ``units``: xyzt_units · ``quaternion``: b, c, d and the three offsets.
    """

    pixdim: tuple[float, ...]
    units: int
    qform_code: int
    sform_code: int
    quaternion: tuple[float, ...]
    srow: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Geometry:
    """Where pixels lie. Unknown is None: never 1.0, never guessed.

    ``shape`` is (rows, columns) or (slices, rows, columns). ``spacing_mm`` has the same order, axis by axis: the distance of slices is
    often unknown where the size of a pixel is stated; None as a whole where no axis is known. ``affine`` is a 4 x 4 matrix from voxel
    index (column, row, slice) to patient coordinates in millimetres, LPS (DICOM PS3.3 C.7.6.2.1.1). ``nifti`` is kept of an image that
    came as NIfTI. ``spacing_error`` is the source's error band as a fraction, None where nothing is known of it; ``spacing_note`` says how
    the spacing was got where that is more than its source tells (scans/spacing.py).
    """

    shape: tuple[int, ...]
    spacing_mm: Spacing | None = None
    spacing_source: SpacingSource = "unknown"
    affine: npt.NDArray[np.float64] | None = field(default=None, compare=False)
    laterality: Laterality | None = None
    laterality_source: LateralitySource = "unknown"
    nifti: NiftiFrame | None = field(default=None, compare=False)
    spacing_error: float | None = field(default=None, compare=False)
    spacing_note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        require(len(self.shape) in (2, 3) and all(n > 0 for n in self.shape), f"shape {self.shape} must be 2 or 3 positive numbers")
        if self.spacing_mm is not None:
            require(len(self.spacing_mm) == len(self.shape), f"spacing {self.spacing_mm} does not match shape {self.shape}")
            known = [s for s in self.spacing_mm if s is not None]
            require(all(math.isfinite(s) and s > 0 for s in known), f"spacing {self.spacing_mm} must be positive")
            require(bool(known), "spacing of which no axis is known must be None as a whole")
        require((self.spacing_mm is None) == (self.spacing_source == "unknown"), "spacing and its source must be known together")
        require((self.laterality is None) == (self.laterality_source == "unknown"), "laterality and its source must be known together")
        if self.affine is not None:
            require(self.affine.shape == (4, 4) and bool(np.isfinite(self.affine).all()), "affine must be a finite 4 x 4 matrix")

    def trusted(self) -> Geometry:
        """Without a spacing that is only estimated: what is written for other programs, which would take it for a measured one."""
        if self.spacing_source != "estimated":
            return self
        return replace(self, spacing_mm=None, spacing_source="unknown", spacing_error=None, spacing_note="")

    @property
    def slices(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def plane(self) -> tuple[int, int]:
        """(rows, columns) of one slice."""
        return self.shape[-2], self.shape[-1]

    @property
    def pixel_mm(self) -> tuple[float, float] | None:
        """Spacing of (rows, columns) within a slice; None unless both are known."""
        if self.spacing_mm is None:
            return None
        rows, columns = self.spacing_mm[-2:]
        return None if rows is None or columns is None else (rows, columns)

    @property
    def voxel_mm(self) -> tuple[float, ...] | None:
        """Spacing of every axis; None unless all are known."""
        known = tuple(s for s in self.spacing_mm or () if s is not None)
        return known if len(known) == len(self.shape) else None


@dataclass(frozen=True, order=True)
class CaseKey:
    """Pseudonymous name of one image: sortable, and safe as a file name."""

    patient: str
    eye: Literal["R", "L", "U"]
    visit: str
    image: str

    def __post_init__(self) -> None:
        for name in ("patient", "visit", "image"):
            value = getattr(self, name)
            require(bool(_SAFE.fullmatch(value)), f"{name} {value!r} must be 1-64 letters, digits, dots or dashes")
        require(self.eye in ("R", "L", "U"), f"eye {self.eye!r} must be R, L or U")

    def __str__(self) -> str:
        return f"{self.patient}_{self.eye}_{self.visit}_{self.image}"

    @classmethod
    def parse(cls, text: str) -> CaseKey:
        """The inverse of ``str``."""
        parts = text.split("_")
        require(len(parts) == 4, f"{text!r} is not PATIENT_EYE_VISIT_IMAGE")
        return cls(*parts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class SeriesSlice:
    """That a picture may be one slice of a volume which was stored one slice a file.

    ``series``: keyed hash of series, patient, visit and eye · ``kind``: size and kind of its pixels · ``number``: its Instance Number ·
    ``position`` (x, y, z) in mm and ``orientation`` (six direction cosines) in LPS, as Image Position and Orientation (Patient).
    """

    series: str
    kind: str
    number: int | None = None
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None


@dataclass
class FieldFound:
    """``of_pixels``: a picture's pixels and its field of view bool (H, W), once somebody has sought it (scans/field_of_view.py)."""

    of_pixels: tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | None = None


@dataclass(frozen=True, eq=False)
class Scan:
    """One image as stored: ``pixels`` (C, H, W) or (C, D, H, W) in the stored dtype, C = 1 or 3 (RGB).

    ``source`` is for opening the file again while the program runs; it is never written anywhere. ``warnings`` is what the reader
    noticed about the file that a person must know before a result on it is believed, one sentence each, without any name or path.
    ``piece`` tells a single picture that may be a slice of a volume. ``modality_source``: who says which kind it is, where that is known;
    ``patient_source``: what counted for a patient: a tag, the folder's name, the file's. ``day`` of the visit on the patient's own secret
    calendar (scans/identity.py): days between visits are true, and nothing else is told. ``doubts`` are (code, sentence) of
    contradictions that a person must look at; ``field_degrees`` and ``axial_length_mm`` (of the eye) are what the file states of it;
    ``field_found`` goes with the scan, whatever else is learnt of it. ``lines`` that the device drew into OCT, by its own names
    (scans/vendor.py): float32 (slices, columns), the row that each runs through, NaN where it drew none.
    """

    pixels: npt.NDArray[Any]
    geometry: Geometry
    modality: Modality
    case: CaseKey
    sha256: str
    source: Path | None = None
    sop_instance_uid: str | None = None
    warnings: tuple[str, ...] = ()
    piece: SeriesSlice | None = None
    pattern: ScanPattern = "unknown"
    slices_run: SlicesRun = "unknown"
    modality_source: ModalitySource = "tag"
    patient_source: PatientSource = "unknown"
    day: int | None = None
    doubts: tuple[tuple[str, str], ...] = ()
    field_degrees: float | None = None
    axial_length_mm: float | None = None
    field_found: FieldFound = field(default_factory=FieldFound, repr=False)
    lines: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require(
            self.pixels.ndim in (3, 4) and self.pixels.shape[0] in (1, 3),
            f"pixels {self.pixels.shape} must be (1 or 3, [slices,] rows, columns)",
        )
        require(self.pixels.shape[1:] == self.geometry.shape, f"pixels {self.pixels.shape} do not match geometry {self.geometry.shape}")
        require(self.modality in get_args(Modality), f"modality {self.modality!r} is unknown")
        require(bool(re.fullmatch(r"[0-9a-f]{64}", self.sha256)), "sha256 must be 64 hexadecimal digits")

    @property
    def told(self) -> str:
        """Warnings and doubts in one line, for tables."""
        return "; ".join((*self.warnings, *(sentence for _, sentence in self.doubts)))
