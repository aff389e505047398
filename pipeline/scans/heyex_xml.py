"""Heidelberg .xml exports: an XML file and, beside it, a picture of each B-scan; scales, positions, eye, and the device's lines.

Where values lie follows eyepy's description (eyepy.io.he.xml_reader, 10.21105/joss.05839). Its reader is not used: it opens whatever file
the XML names, of any size and in any folder. Here a picture has to lie beside the XML file, and is read like any other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.files import check_pixels, decoding, open_regular, sniff_file
from pipeline.scans.heyex_e2e import further_volumes
from pipeline.scans.identity import Identity, Pseudonyms, identify, stated_patient
from pipeline.scans.place import laterality_from_place
from pipeline.scans.raster import read_image
from pipeline.scans.vendor import drawn_only, stated_scale
from pipeline.types import Geometry, Laterality, LateralitySource, Scan, known_spacing
from pipeline.types.scan import SlicesRun

Floats = npt.NDArray[np.float32]

_WHAT = "the Heidelberg .xml file"
_LARGEST = 256 << 20
_EVEN = 0.05  # of the mean distance, by which distances of B-scans may differ


@dataclass(frozen=True)
class _Export:
    """The Patient element, the first Series with OCT in it and its Image elements, in the file's order. ``top`` is the whole."""

    content: bytes
    top: ElementTree.Element
    patient: ElementTree.Element
    study: ElementTree.Element
    series: ElementTree.Element
    b_scans: Sequence[ElementTree.Element]
    volumes: int


def read_xml(file: BinaryIO, path: Path, names: Pseudonyms, root: Path | None, max_pixels: int) -> Scan:
    """The first OCT volume of an open .xml export: the pixels of its pictures, uint8 (1, [B-scans,] rows, columns).

    ``spacing_mm`` is ([distance,] ScaleY, ScaleX), each if stated; the distance is that of the B-scans' stated positions, where they
    are parallel and evenly spaced. ``sha256`` is of the XML and its pictures. A warning tells of further volumes.

    Raises
    ------
    ScanError: ``truncated``, ``malformed``, ``too_large``, ``unsupported`` (no OCT, colour), ``unreadable`` (a picture is missing).
    """
    with decoding(_WHAT):
        export = _export(file)
        pixels = _pixels(export, path, max_pixels)
        spacing = known_spacing((_distance(export.b_scans), _scale(export, "ScaleY"), _scale(export, "ScaleX"))[3 - pixels.ndim :])
        eye, eye_source = _eye(export, path, root)
        whose = _identity(export, path, root, names)
        return Scan(
            pixels[None],
            Geometry(pixels.shape, spacing, "tag" if spacing else "unknown", None, eye, eye_source),
            "oct",
            whose.case,
            _sha256(export, path),
            path,
            warnings=further_volumes(export.volumes),
            pattern="raster" if _steps(export.b_scans) is not None else "unknown",
            slices_run=_slices_run(export.b_scans),
            patient_source=whose.source,
            day=whose.day,
            lines=drawn_only({n: d for n, d in _surfaces(export.b_scans).items() if d.shape[1] == pixels.shape[-1]}),
        )


def read_xml_identity(file: BinaryIO, path: Path, names: Pseudonyms, root: Path | None) -> Identity:
    """Whose it is and of which visit, as :func:`read_xml` gives it but without opening a picture."""
    with decoding(_WHAT):
        return _identity(_export(file), path, root, names)


def names_of_pictures(path: Path) -> set[str]:
    """File names of the B-scans' pictures, of every volume, that an .xml file names; none of a file that is no such export.

    The picture of the scanning laser is not among them: no volume holds it, so that it stays a picture of its own.
    """
    try:
        with open_regular(path) as file, decoding(_WHAT):
            if sniff_file(file) != "heidelberg_xml":
                return set()
            return {_named(image) for image in _export(file).top.iter("Image") if _is_oct(image)} - {"", ".", ".."}
    except ScanError:
        return set()


def xml_sha256(file: BinaryIO, path: Path) -> str:
    """SHA-256 of an open .xml export and its pictures together, as :func:`read_xml` gives it."""
    with decoding(_WHAT):
        return _sha256(_export(file), path)


def read_xml_surfaces(path: Path) -> dict[str, Floats]:
    """The device's lines of the volume that :func:`read_xml` reads: name ("ILM", "BM", "RNFL" and others) -> float32 (B-scans, columns),
    row index from the top; NaN where the device drew nothing or outside the picture."""
    with open_regular(path) as file, decoding(_WHAT):
        return _surfaces(_export(file).b_scans)


def _surfaces(b_scans: Sequence[ElementTree.Element]) -> dict[str, Floats]:
    out: dict[str, Floats] = {}
    for index, b_scan in enumerate(b_scans):
        rows = float(b_scan.findtext("OphthalmicAcquisitionContext/Height", "inf"))
        for line in b_scan.iterfind(".//SegLine"):
            depth = np.array(line.findtext("Array", "").split(), np.float32)
            with np.errstate(invalid="ignore"):
                depth[~((depth >= 0) & (depth < min(rows, 1e30)))] = np.nan
            name = line.findtext("Name", "").strip()
            out.setdefault(name, np.full((len(b_scans), len(depth)), np.nan, np.float32))[index] = depth
    return out


def _export(file: BinaryIO) -> _Export:
    file.seek(0)
    content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ScanError("too_large", f"the .xml file has more than {_LARGEST >> 20} MiB")
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", content):
        raise ScanError("malformed", "the .xml file defines entities, which no Heidelberg export does; export it again")
    try:
        top = ElementTree.fromstring(content)  # noqa: S314 (it has no entities to expand)
    except ElementTree.ParseError:
        raise ScanError("malformed", "the .xml file is truncated or no XML; copy or export it again") from None
    found = [
        (patient, study, series, images)
        for patient in top.iter("Patient")
        for study in patient.iterfind("Study")
        for series in study.iterfind("Series")
        if (images := [image for image in series.iterfind("Image") if _is_oct(image)])
    ]
    if not found:
        raise ScanError("unsupported", "no B-scans of OCT are found in the .xml file; export the OCT as DICOM or .vol")
    return _Export(content, top, *found[0], len(found))


def _is_oct(image: ElementTree.Element) -> bool:
    return image.findtext("ImageType/Type", "").strip() == "OCT"


def _picture(b_scan: ElementTree.Element, path: Path) -> Path:
    r"""The picture beside ``path`` that a B-scan names, by a path of the exporting computer ("E:\export\1A2B.tif")."""
    name = _named(b_scan)
    other = path.parent / name
    if name in ("", ".", "..") or "\0" in name or other.is_symlink() or not other.is_file():
        raise ScanError("unreadable", "a picture that the .xml file names does not lie beside it; copy the whole export")
    return other


def _named(image: ElementTree.Element) -> str:
    return re.split(r"[\\/]", image.findtext("ImageData/ExamURL", "").strip())[-1]


def _pixels(export: _Export, path: Path, max_pixels: int) -> npt.NDArray[np.uint8]:
    slices = len(export.b_scans)
    out = np.empty((0, 0, 0), np.uint8)
    for index, b_scan in enumerate(export.b_scans):
        picture = read_image(_picture(b_scan, path), max_pixels)
        if picture.ndim == 3 and (picture == picture[..., :1]).all():
            picture = picture[..., 0]
        if picture.ndim != 2 or picture.dtype != np.uint8:
            raise ScanError("unsupported", "the B-scans' pictures are not grey ones of eight bits; export as TIFF or DICOM")
        if index == 0:
            check_pixels(slices * picture.size, max_pixels)
            out = np.empty((slices, *picture.shape), np.uint8)
        context = b_scan.find("OphthalmicAcquisitionContext")
        sizes = () if context is None else (context.findtext("Height"), context.findtext("Width"))
        stated = tuple(int(said or size) for said, size in zip(sizes, picture.shape, strict=False)) or picture.shape
        if not stated == picture.shape == out.shape[1:]:
            raise ScanError("malformed", "a B-scan's picture has another size than the .xml file states; export it again")
        out[index] = picture
    return out[0] if slices == 1 else out


def _sha256(export: _Export, path: Path) -> str:
    digest = hashlib.sha256(export.content)
    for b_scan in export.b_scans:
        with open_regular(_picture(b_scan, path)) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _scale(export: _Export, name: str) -> float | None:
    """The scale in mm, if all B-scans state the same."""
    stated = {b_scan.findtext(f"OphthalmicAcquisitionContext/{name}", "").strip() for b_scan in export.b_scans}
    return stated_scale(float(stated.pop() or 0)) if len(stated) == 1 else None


def _steps(b_scans: Sequence[ElementTree.Element]) -> npt.NDArray[np.float64] | None:
    """(x, y) in mm from each B-scan's start to the next one's; None if they are not stated or not parallel."""
    at = [
        [float(b_scan.findtext(f"OphthalmicAcquisitionContext/{end}/Coord/{axis}", "nan")) for end in ("Start", "End") for axis in "XY"]
        for b_scan in b_scans
    ]
    steps = np.diff(np.array(at, np.float64), axis=0)
    parallel = len(steps) and np.allclose(steps[:, :2], steps[:, 2:], atol=1e-3)  # NaN is never close
    return steps[:, :2] if parallel else None


def _distance(b_scans: Sequence[ElementTree.Element]) -> float | None:
    steps = _steps(b_scans)
    if steps is None:
        return None
    apart = np.linalg.norm(steps, axis=1)
    return stated_scale(float(apart.mean())) if np.ptp(apart) <= _EVEN * apart.mean() else None


def _slices_run(b_scans: Sequence[ElementTree.Element]) -> SlicesRun:
    """By where they begin in the scanning laser picture, whose y runs downwards, as in a .vol file."""
    steps = _steps(b_scans)
    down = 0.0 if steps is None else float(steps[:, 1].sum())
    return "down" if down > 0 else "up" if down < 0 else "unknown"


def _eye(export: _Export, path: Path, root: Path | None) -> tuple[Laterality | None, LateralitySource]:
    said = export.series.findtext("Laterality", "").strip().upper()
    side: Laterality | None = {"R": "R", "OD": "R", "L": "L", "OS": "L"}.get(said)  # type: ignore[assignment]
    if side is not None:
        return side, "tag"
    place = laterality_from_place(path, root)
    return place, "filename" if place else "unknown"


def _identity(export: _Export, path: Path, root: Path | None, names: Pseudonyms) -> Identity:
    year, month, day = (export.study.findtext(f"StudyDate/Date/{part}", "").strip() for part in ("Year", "Month", "Day"))
    visit = f"{year:0>4}{month:0>2}{day:0>2}" if year and month and day else ""
    patient = stated_patient(export.patient.findtext("PatientID", "").strip())
    return identify(names, path, root, _eye(export, path, root)[0], patient=patient, visit=visit)
