"""Heidelberg .e2e files: B-scans, axial scale, eye, and the lines that the device drew, as far as eyepy knows the format.

eyepy describes the layout (eyepy.io.he.e2e_format, 10.21105/joss.05839); its reader opens files by name and keeps all that it decodes,
so here only its description is used, on a file that is open and B-scan by B-scan. A file is a directory of folders, each of one patient,
study, series, slice and type. The format is not published: the width of a pixel is known in degrees only, so it stays unknown in
millimetres, and so does the distance between B-scans.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.files import MAX_PIXELS, check_pixels, decoding, open_regular
from pipeline.scans.identity import Identity, Pseudonyms, identify, stated_patient
from pipeline.scans.place import laterality_from_place
from pipeline.scans.vendor import PATTERNS, displayed, drawn_only, stated_scale
from pipeline.types import Geometry, Laterality, LateralitySource, Scan, known_spacing
from pipeline.types.scan import ScanPattern

Floats = npt.NDArray[np.float32]

_WHAT = "the .e2e file"
_PATIENT, _EYE, _META, _TIME, _LINE, _IMAGE = 9, 11, 10004, 10005, 10019, 1073741824
_B_SCAN = 35652097  # the kind of an image that is a B-scan
_EMPTY = 1.99  # and above: the device has no value there


@dataclass
class _Series:
    """Folders of one OCT series by type, and those of each slice; ``patient``: the folders that are the patient's."""

    patient: dict[int, list[Any]]
    own: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))
    slices: dict[int, dict[int, list[Any]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))


@dataclass(frozen=True)
class _Volume:
    """The first OCT series of a file; ``metas`` and ``slices`` in the order in which they were taken."""

    file: BinaryIO
    series: _Series
    metas: list[Any]
    slices: list[dict[int, list[Any]]]
    volumes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B-scans, rows, columns)"""
        return len(self.metas), self.metas[0].size_y, self.metas[0].size_x


def read_e2e(file: BinaryIO, path: Path, sha256: str, names: Pseudonyms, root: Path | None, max_pixels: int) -> Scan:
    """The first OCT volume of an open .e2e file, uint8 (1, [B-scans,] rows, columns) with the grey values of a .vol file.

    ``spacing_mm`` is ([None,] axial, None), or unknown. A warning tells of further volumes.

    Raises
    ------
    ScanError: ``truncated``, ``malformed``, ``too_large``, ``unsupported`` (no OCT in it, or eyepy is not installed).
    """
    with decoding(_WHAT):
        volume = _volume(file, max_pixels)
        slices, rows, columns = volume.shape
        pixels = np.empty((1, slices, rows, columns), np.uint8)
        for index, folders in enumerate(volume.slices):
            pixels[0, index] = _b_scan(file, folders, (rows, columns))
        flat = slices == 1
        axial = stated_scale(volume.metas[0].scale_y)
        spacing = known_spacing((axial, None) if flat else (None, axial, None))
        eye, eye_source = _eye(volume, path, root)
        shape = (rows, columns) if flat else (slices, rows, columns)
        whose = _identity(volume, path, root, names)
        return Scan(
            pixels[:, 0] if flat else pixels,
            Geometry(shape, spacing, "tag" if spacing else "unknown", None, eye, eye_source),
            "oct",
            whose.case,
            sha256,
            path,
            warnings=further_volumes(volume.volumes),
            pattern=_pattern(volume),
            patient_source=whose.source,
            day=whose.day,
            lines=drawn_only(_surfaces(volume)),
        )


def read_e2e_identity(file: BinaryIO, path: Path, names: Pseudonyms, root: Path | None) -> Identity:
    """Whose it is and of which visit, as :func:`read_e2e` gives it but without decoding a pixel."""
    with decoding(_WHAT):
        return _identity(_volume(file, MAX_PIXELS), path, root, names)


def read_e2e_surfaces(path: Path, max_pixels: int) -> dict[str, Floats]:
    """The device's lines of the volume that :func:`read_e2e` reads: name -> float32 (B-scans, columns), row index from the top.

    NaN where the device drew nothing or outside the picture. Names are eyepy's ("ILM", "BM", "RNFL" and others).
    """
    with open_regular(path) as file, decoding(_WHAT):
        return _surfaces(_volume(file, max_pixels))


def _surfaces(volume: _Volume) -> dict[str, Floats]:
    from eyepy.io.he.vol_reader import SEG_MAPPING

    names = {number: name for name, number in SEG_MAPPING.items()}
    slices, rows, columns = volume.shape
    out: dict[str, Floats] = {}
    for index, folders in enumerate(volume.slices):
        for line in (_item(volume.file, folder) for folder in folders.get(_LINE, [])):
            if line.id in names and len(line.data) == columns:
                depth = out.setdefault(names[line.id], np.full((slices, columns), np.nan, np.float32))
                with np.errstate(invalid="ignore"):
                    drawn = (line.data >= 0) & (line.data < rows)
                depth[index, drawn] = line.data[drawn]
    return out


def further_volumes(count: int) -> tuple[str, ...]:
    """The warning that a file holds more than the volume that is read."""
    return (f"the file holds {count} OCT volumes, and only the first is read; export each as a file of its own",) if count > 1 else ()


def _torn() -> ScanError:
    return ScanError("truncated", "the .e2e file is truncated; copy or export it again")


def _volume(file: BinaryIO, max_pixels: int) -> _Volume:
    found = []
    for _, series in sorted(_series(file).items()):
        slices = [folders for folders in series.slices.values() if folders.get(_META) and folders.get(_IMAGE)]
        metas = [_item(file, folders[_META][0]) for folders in slices]
        order = sorted(range(len(slices)), key=lambda index: metas[index].aktImage)
        if order:
            found.append((series, [metas[index] for index in order], [slices[index] for index in order]))
    if not found:
        raise ScanError("unsupported", "no B-scans of OCT are found in the .e2e file; export the OCT as DICOM or .vol")
    series, metas, chosen = found[0]
    if len({(meta.size_y, meta.size_x) for meta in metas}) > 1 or min(metas[0].size_y, metas[0].size_x) < 1:
        raise ScanError("malformed", "the B-scans of the .e2e file are empty or differ in size; export it again")
    if len(metas) < metas[0].n_bscans:
        raise _torn()
    check_pixels(len(metas) * metas[0].size_y * metas[0].size_x, max_pixels)
    return _Volume(file, series, metas, chosen, len(found))


def _series(file: BinaryIO) -> dict[tuple[int, int, int], _Series]:
    """Every series by (patient, study, series), once all its folders are known to lie in the file."""
    try:
        from eyepy.io.he.e2e_format import containerheader_format
    except ModuleNotFoundError:
        raise ScanError("unsupported", ".e2e files need eyepy: pip install 'ocuseg[vol]'; or export as DICOM") from None
    length, head = file.seek(0, 2), containerheader_format.sizeof()
    chunks = list(_chunks(file))
    if not chunks:
        raise _torn()
    patients: dict[int, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    out: dict[tuple[int, int, int], _Series] = {}
    for folder in (folder for chunk in chunks for folder in chunk.folders if int(folder.type)):
        if folder.start + head + folder.size > length:
            raise _torn()
        kind = int(folder.type)
        if folder.series_id < 0:
            patients[folder.patient_id][kind].append(folder)
            continue
        key = (folder.patient_id, folder.study_id, folder.series_id)
        series = out.setdefault(key, _Series(patients[folder.patient_id]))
        (series.own if folder.slice_id < 0 else series.slices[folder.slice_id])[kind].append(folder)
    return out


def _chunks(file: BinaryIO) -> Iterator[Any]:
    """Each part of the directory, as far as they follow each other: the last one's padding leads back to the beginning."""
    from eyepy.io.he.e2e_format import chunk_format, header_format, version_format

    at = version_format.sizeof() + header_format.sizeof()
    file.seek(at)
    with suppress(Exception):  # what is no directory any more; that nothing is missing is checked by what there is
        while True:
            chunk = chunk_format.parse_stream(file)
            yield chunk
            if file.tell() <= at:
                return
            at = file.tell()


def _item(file: BinaryIO, folder: Any) -> Any:
    from eyepy.io.he.e2e_format import datacontainer_format, type10004_format

    file.seek(folder.start)
    if int(folder.type) != _META:
        return datacontainer_format.parse_stream(file).item
    file.seek(folder.start + datacontainer_format.header.sizeof())  # what is left of this one would be read to the file's end
    return type10004_format.parse(file.read(folder.size))


def _b_scan(file: BinaryIO, folders: dict[int, list[Any]], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    for image in (_item(file, folder) for folder in folders[_IMAGE]):
        if image.type == _B_SCAN:
            if image.data.shape != shape:
                raise ScanError("malformed", "a B-scan of the .e2e file has another size than is stated; export it again")
            return displayed(np.where(image.data > _EMPTY, np.float32(0), image.data))
    raise _torn()


def _pattern(volume: _Volume) -> ScanPattern:
    """A circle is not told: whether it begins on the temporal side is not known of this format."""
    pattern = PATTERNS.get(volume.metas[0].scan_pattern, "unknown")
    return "unknown" if pattern == "circle" else pattern


def _eye(volume: _Volume, path: Path, root: Path | None) -> tuple[Laterality | None, LateralitySource]:
    for folder in volume.series.own.get(_EYE, []):
        side: Laterality | None = {82: "R", 76: "L"}.get(int(_item(volume.file, folder).laterality))  # type: ignore[assignment]
        if side is not None:
            return side, "tag"
    place = laterality_from_place(path, root)
    return place, "filename" if place else "unknown"


def _identity(volume: _Volume, path: Path, root: Path | None, names: Pseudonyms) -> Identity:
    patients = [_item(volume.file, folder).patient_id for folder in volume.series.patient.get(_PATIENT, [])]
    times = [_item(volume.file, folder).examination_time for folder in volume.series.own.get(_TIME, [])]
    days = [datetime.datetime.fromisoformat(time) for time in times]
    visit = next((f"{day:%Y%m%d}" for day in days if day.year > 1900), "")  # 1601: not stated
    patient = next(filter(None, (stated_patient(name.strip()) for name in patients)), "")
    return identify(names, path, root, _eye(volume, path, root)[0], patient=patient, visit=visit)
