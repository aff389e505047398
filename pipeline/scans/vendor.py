"""Heidelberg Spectralis raw exports (.vol, "HSF-OCT-"): B-scans, scale, eye, and the lines that the device drew.

Layout, all little endian: a file header of 2048 bytes, the scanning laser picture (one byte a pixel), then each B-scan as its own
header (256 bytes, the lines as float32 depths, padding up to BScanHdrSize) and float32 intensities (H, W). The rest is not read.
Format as documented by eyepy (10.21105/joss.05839) and github.com/halirutan/spectralis-raw-data. Of the personal fields only
PatientID and VisitDate are read, and they become tokens.
"""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.files import MAX_PIXELS, check_pixels, decoding, open_regular, sniff_file
from pipeline.scans.identity import Identity, Pseudonyms, identify, stated_patient
from pipeline.scans.place import laterality_from_place
from pipeline.types import Geometry, Laterality, LateralitySource, Scan, known_spacing
from pipeline.types.scan import ScanPattern, SlicesRun

Floats = npt.NDArray[np.float32]

SURFACES = {"ILM": 0, "BM": 1, "RNFL": 2}
"""The lines that :func:`read_surfaces` returns, by their index in a B-scan header."""

_HEADER, _B_HEADER = 2048, 256
_NO_VALUE = 1e30  # the device writes the largest float32 where it has no intensity
RADIAL = 5
PATTERNS: dict[int, ScanPattern] = {1: "line", 2: "circle", 3: "raster", 4: "raster", RADIAL: "radial", 7: "raster"}
_DAY_ZERO = datetime.date(1899, 12, 30)  # VisitDate counts days since then


@dataclass(frozen=True)
class _Header:
    """The file header, checked against the file's length. Scales are None if not stated."""

    shape: tuple[int, int, int]  # (B-scans, rows, columns)
    scale_mm: tuple[float | None, float | None, float | None]  # in the same order
    pattern: int
    eye: Laterality | None
    patient: str
    visit: str | None  # YYYYMMDD, as DICOM writes a Study Date
    first: int  # offset of the first B-scan
    b_header: int  # bytes before each B-scan's intensities

    def offset(self, index: int) -> int:
        """Where B-scan ``index`` begins."""
        return self.first + index * (self.b_header + 4 * self.shape[1] * self.shape[2])


def read_vol(file: BinaryIO, path: Path, sha256: str, names: Pseudonyms, root: Path | None, max_pixels: int) -> Scan:
    """The Scan in an open .vol file: uint8 pixels (1, rows, columns) for a single B-scan (a line, a circle), which is a picture, else
    (1, B-scans, rows, columns), for any pattern (volume, star).

    The grey values are those that the device shows: 255 times the fourth root of the stored reflectivity (0 to 1), rounded;
    black where the device has no value. ``spacing_mm`` is ([Distance,] ScaleZ, ScaleX), each if stated: the B-scans of a star have no
    single distance; for a circle ScaleX is measured along it.

    Raises
    ------
    ScanError: ``truncated``, ``malformed``, ``too_large``.
    """
    with decoding("the Spectralis file"):
        header = _read_header(file, max_pixels)
        slices, rows, columns = header.shape
        pixels = np.empty((1, slices, rows, columns), np.uint8)
        for index in range(slices):
            stored = _read_floats(file, header.offset(index) + header.b_header, rows * columns)
            pixels[0, index] = displayed(stored).reshape(rows, columns)
        flat = slices == 1
        shape, scales = (header.shape[1:], header.scale_mm[1:]) if flat else (header.shape, header.scale_mm)
        spacing = known_spacing(scales)
        geometry = Geometry(shape, spacing, "tag" if spacing else "unknown", None, *_eye(header, path, root))
        whose = _identity(header, path, root, names)
        return Scan(
            pixels[:, 0] if flat else pixels,
            geometry,
            "oct",
            whose.case,
            sha256,
            path,
            pattern=_pattern(file, header),
            slices_run=_slices_run(file, header),
            patient_source=whose.source,
            day=whose.day,
            lines=_drawn(file, header),
        )


def read_vol_identity(file: BinaryIO, path: Path, names: Pseudonyms, root: Path | None) -> Identity:
    """Whose it is and of which visit, of an open .vol file, as :func:`read_vol` gives it but without reading pixels.

    Raises
    ------
    ScanError: as :func:`read_vol`, as far as the file header shows it.
    """
    with decoding("the Spectralis file"):
        return _identity(_read_header(file, MAX_PIXELS), path, root, names)


@dataclass(frozen=True)
class VolLayout:
    """Where things lie in a .vol file: ``slo``: rows and columns of the scanning laser's picture, one byte a pixel, at ``slo_at`` ·
    ``headers``: offset of each B-scan's header and where in it the lines are; ``b_header`` bytes long, and float32 intensities follow it ·
    ``end``: what follows the last intensity."""

    slo: tuple[int, int]
    headers: tuple[tuple[int, slice], ...]
    b_header: int
    end: int
    slo_at: int = _HEADER


def vol_layout(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> VolLayout:
    """The layout of an open .vol file, checked against its length.

    Raises
    ------
    ScanError: as :func:`read_vol`.
    """
    header = _read_header(file, max_pixels)
    slices, _, columns = header.shape
    found = []
    for index in range(slices):
        at = header.offset(index)
        lines, start = _lines(file, at, header)
        found.append((at, slice(start, start + 4 * lines * columns)))
    slo_columns, slo_rows = struct.unpack_from("<2I", _read(file, 0, _HEADER), 48)
    return VolLayout((slo_rows, slo_columns), tuple(found), header.b_header, header.offset(slices))


def read_surfaces(path: Path, max_pixels: int = MAX_PIXELS) -> dict[str, Floats]:
    """The device's own lines of a .vol file: {"ILM", "BM", "RNFL"} -> float32 (B-scans, columns), row index from the top (0 based).

    NaN where the device drew nothing or outside the picture; a line that it did not draw at all is NaN everywhere.

    Raises
    ------
    ScanError: ``empty``, ``not_an_image`` (another format), ``truncated``, ``malformed``, ``too_large``, ``unreadable``, ``not_a_file``.
    """
    with _opened(path, max_pixels) as (file, header):
        return _surfaces(file, header)


def drawn_only(lines: Mapping[str, Floats]) -> dict[str, Floats]:
    """Of :data:`SURFACES`, the lines that were drawn somewhere: what a Scan has."""
    return {name: depth for name, depth in lines.items() if name in SURFACES and not np.isnan(depth).all()}


def _drawn(file: BinaryIO, header: _Header) -> dict[str, Floats]:
    try:
        return drawn_only(_surfaces(file, header))
    except ScanError:  # the pixels are as good without lines
        return {}


def _surfaces(file: BinaryIO, header: _Header) -> dict[str, Floats]:
    slices, rows, columns = header.shape
    out = {name: np.full((slices, columns), np.nan, np.float32) for name in SURFACES}
    for index in range(slices):
        at = header.offset(index)
        lines, start = _lines(file, at, header)
        for name, place in SURFACES.items():
            if place < lines:
                depth = _read_floats(file, at + start + 4 * place * columns, columns)
                with np.errstate(invalid="ignore"):
                    drawn = (depth >= 0) & (depth < rows)
                out[name][index, drawn] = depth[drawn]
    return out


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[tuple[BinaryIO, _Header]]:
    with open_regular(path) as file:
        if sniff_file(file) != "heidelberg_vol":
            if not file.read(1):
                raise ScanError("empty", "the file is empty")
            raise ScanError("not_an_image", "this is not a Heidelberg Spectralis .vol file")
        with decoding("the Spectralis file"):
            yield file, _read_header(file, max_pixels)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    data = file.read(size)
    if len(data) < size:
        raise ScanError("truncated", "the Spectralis file is truncated; copy or export it again")
    return data


def _read_floats(file: BinaryIO, at: int, count: int) -> Floats:
    return np.frombuffer(_read(file, at, 4 * count), "<f4").astype(np.float32, copy=False)


def _read_header(file: BinaryIO, max_pixels: int) -> _Header:
    head = _read(file, 0, _HEADER)
    columns, slices, rows = struct.unpack_from("<3I", head, 12)
    scale_x, distance, scale_z = struct.unpack_from("<3d", head, 24)
    slo_columns, slo_rows = struct.unpack_from("<2I", head, 48)
    pattern, b_header = struct.unpack_from("<iI", head, 96)
    (days,) = struct.unpack_from("<d", head, 200)
    if min(columns, slices, rows) < 1:
        raise ScanError("malformed", "the Spectralis header states an empty picture; export it again")
    check_pixels(columns * slices * rows, max_pixels)
    check_pixels(slo_columns * slo_rows, max_pixels)
    if b_header < _B_HEADER:
        raise ScanError("malformed", "the Spectralis header states B-scan headers that are too short; export it again")
    header = _Header(
        (slices, rows, columns),
        (None if pattern == RADIAL else stated_scale(distance), stated_scale(scale_z), stated_scale(scale_x)),
        pattern,
        {"OD": "R", "OS": "L"}.get(_text(head[84:88]).upper()),  # type: ignore[arg-type]
        _text(head[140:164]),
        _date(days),
        _HEADER + slo_columns * slo_rows,
        b_header,
    )
    if header.offset(slices) > file.seek(0, 2):  # before anything of that size is allocated
        raise ScanError("truncated", "the Spectralis file is truncated; copy or export it again")
    return header


def _lines(file: BinaryIO, at: int, header: _Header) -> tuple[int, int]:
    """Number of lines of the B-scan at ``at``, and where they begin in its header."""
    head = _read(file, at, _B_HEADER)
    lines, start = struct.unpack_from("<2I", head, 48)
    if not head.startswith(b"HSF-BS-") or (lines and not _B_HEADER <= start <= header.b_header - 4 * lines * header.shape[2]):
        raise ScanError("malformed", "a B-scan header of the Spectralis file is malformed; export it again")
    return lines, start


def displayed(stored: Floats) -> npt.NDArray[np.uint8]:
    """Reflectivities (0 to 1) as the grey values that :func:`read_vol` speaks of; black where there is none."""
    with np.errstate(invalid="ignore"):
        valued = np.where((stored > 0) & (stored < _NO_VALUE), stored, np.float32(0))  # NaN compares false
    grey: Floats = np.rint(255 * np.sqrt(np.sqrt(np.minimum(valued, 1))))
    return grey.astype(np.uint8)


def _pattern(file: BinaryIO, header: _Header) -> ScanPattern:
    """A circle only where it begins on the temporal side of its centre, as the device draws it, so that its quadrants are known."""
    pattern: ScanPattern = PATTERNS.get(header.pattern, "unknown")
    if pattern != "circle":
        return pattern
    start_x, _, centre_x, _ = _ends(file, header, 0)
    return "circle" if header.eye == ("R" if start_x < centre_x else "L") else "unknown"


def _slices_run(file: BinaryIO, header: _Header) -> SlicesRun:
    """From where B-scans of a raster begin in the scanning laser picture, whose y runs downwards."""
    slices = header.shape[0]
    if slices < 2 or PATTERNS.get(header.pattern) != "raster":
        return "unknown"
    first, last = (_ends(file, header, index)[1] for index in (0, slices - 1))
    return "unknown" if first == last else "down" if first < last else "up"


def _ends(file: BinaryIO, header: _Header, index: int) -> tuple[float, ...]:
    """(x, y) where a B-scan begins and (x, y) where it ends in mm of the scanning laser picture; of a circle, its centre."""
    return struct.unpack("<4d", _read(file, header.offset(index) + 16, 32))


def stated_scale(scale: float) -> float | None:
    """The scale, or None where it is none."""
    return scale if math.isfinite(scale) and scale > 0 else None


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("latin-1").strip()


def _date(days: float) -> str | None:
    """YYYYMMDD of a day count; None for 0 (not stated) and for invalid dates."""
    if not 1 <= days < 2_958_466:  # the year 10000
        return None
    return f"{_DAY_ZERO + datetime.timedelta(days=math.floor(days)):%Y%m%d}"


def _eye(header: _Header, path: Path, root: Path | None) -> tuple[Laterality | None, LateralitySource]:
    if header.eye is not None:
        return header.eye, "tag"
    side = laterality_from_place(path, root)
    return side, "filename" if side else "unknown"


def _identity(header: _Header, path: Path, root: Path | None, names: Pseudonyms) -> Identity:
    """As for DICOM: the header's PatientID and VisitDate are preferred, so that one visit's exports belong together; else the place."""
    patient, visit = stated_patient(header.patient), header.visit or ""
    return identify(names, path, root, _eye(header, path, root)[0], patient=patient, visit=visit)
