"""A file becomes a Scan, whatever its name says it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.archives import unread_zip
from pipeline.scans.files import MAX_PIXELS, Format, decoding, open_regular, sha256_of, sniff_file
from pipeline.scans.identity import Identity, Pseudonyms, identify
from pipeline.scans.place import SIDE_CONFLICT, contradicted_eye, laterality_from_place
from pipeline.scans.raw_img import is_raw_img, read_raw_img
from pipeline.scans.spacing import check_spacing
from pipeline.types import CaseKey, Geometry, Laterality, Scan

ONE_VALUE = "the image has one value everywhere"
_UNREAD = {
    "heidelberg_sdb": "Heidelberg .sdb files are not read; export as .e2e or DICOM",
    "topcon_fda": "Topcon .fda / .fds files are not read; export as DICOM",
    "heic": "HEIC pictures are not read; save as PNG or TIFF",
    "analyze": "Analyze images (.hdr, .img) are not read; convert them to NIfTI (.nii)",
    "archive": "RAR, 7-Zip and tar archives are not looked into; unpack them",
}


def sniff(path: Path) -> Format | None:
    """The file's format, by its content; None if unknown. Raises ScanError if it cannot be read."""
    with open_regular(path) as file:
        return sniff_file(file)


def open_scan(path: Path | str, *, pseudonyms: Pseudonyms | None = None, root: Path | None = None, max_pixels: int = MAX_PIXELS) -> Scan:
    """Read one file.

    Parameters
    ----------
    path: any file; its extension is ignored.
    pseudonyms: makes the tokens of the CaseKey; by default with a published key, for public data and tests only.
    root: the folder below which the first folder names the patient and the second the visit, for files without tags.
    max_pixels: what a header may declare, all slices and frames together.

    Raises
    ------
    ScanError: ``empty``, ``truncated``, ``malformed``, ``too_large``, ``not_an_image``, ``no_pixels``, ``not_ophthalmic``,
        ``unsupported``, ``unreadable``, ``not_a_file``. Nothing else, whatever the file holds.
    """
    path = Path(path)
    with open_regular(path) as file:
        kind = sniff_file(file)
        with decoding("the file"):
            sha256 = sha256_of(file)
        return decode_scan(file, kind, path, sha256, pseudonyms or Pseudonyms.unkeyed(), root, max_pixels)


def case_by_tags(path: Path, *, pseudonyms: Pseudonyms, root: Path | None = None) -> CaseKey | None:
    """The CaseKey of a DICOM file or a vendor's, as :func:`open_scan` gives it but without decoding a pixel; None for other formats.

    Raises
    ------
    ScanError: the file cannot be read, or its tags show that it is not a scan.
    """
    whose = identity_by_tags(path, pseudonyms, root)
    return None if whose is None else whose.case


def identity_by_tags(path: Path, pseudonyms: Pseudonyms, root: Path | None = None) -> Identity | None:
    """What :func:`case_by_tags` knows, in clear too."""
    with open_regular(path) as file:
        kind = sniff_file(file)
        if kind == "heidelberg_vol":
            from pipeline.scans.vendor import read_vol_identity as read_identity
        elif kind == "heidelberg_e2e":
            from pipeline.scans.heyex_e2e import read_e2e_identity as read_identity
        elif kind == "heidelberg_xml":
            from pipeline.scans.heyex_xml import read_xml_identity as read_identity
        elif kind == "dicom":
            from pipeline.scans.dicom import read_identity
        else:
            return None
        return read_identity(file, path, pseudonyms, root)


def decode_scan(
    file: BinaryIO, kind: Format | None, path: Path, sha256: str, names: Pseudonyms, root: Path | None, max_pixels: int
) -> Scan:
    """:func:`open_scan` of a file that is open, recognised and hashed already."""
    scan = _decode(file, kind, path, sha256, names, root, max_pixels)
    geometry, doubts = check_spacing(scan.geometry)
    unconfirmed, conflicts = contradicted_eye(scan.geometry, path, root)
    warnings = (*scan.warnings, *doubts, *unconfirmed, *nothing_to_see(scan.pixels))
    found = tuple((SIDE_CONFLICT, conflict) for conflict in conflicts)
    return replace(scan, geometry=geometry, warnings=warnings, doubts=(*scan.doubts, *found))


def nothing_to_see(pixels: npt.NDArray[Any]) -> tuple[str, ...]:
    """Warnings for pictures or slices with one value everywhere, in which neither a network nor a person can find anything."""
    planes = pixels if pixels.ndim == 4 else pixels[:, None]
    flat = (planes.min(axis=(2, 3)) == planes.max(axis=(2, 3))).all(axis=0)
    if flat.all():
        return (ONE_VALUE,)
    return (f"{int(flat.sum())} of {len(flat)} slices have one value everywhere",) if flat.any() else ()


def _decode(file: BinaryIO, kind: Format | None, path: Path, sha256: str, names: Pseudonyms, root: Path | None, max_pixels: int) -> Scan:
    if is_raw_img(path) and kind in (None, "dicom", "bmp", "pnm"):  # short signatures, which noise may happen to have
        with decoding("the .img file"):
            return _raw_img(file, path, sha256, names, root, max_pixels)
    if kind is None:
        with decoding("the file"):
            first = file.read(1)
        if not first:
            raise ScanError("empty", "the file is empty")
        raise _unknown(path)
    if kind in _UNREAD:
        raise ScanError("unsupported", _UNREAD[kind])
    if kind == "zip":
        raise unread_zip(file)
    if kind == "dicom":
        from pipeline.scans.dicom import read_dicom

        return read_dicom(file, path, sha256, names, root, max_pixels)
    if kind == "heidelberg_vol":
        from pipeline.scans.vendor import read_vol

        return read_vol(file, path, sha256, names, root, max_pixels)
    if kind == "heidelberg_e2e":
        from pipeline.scans.heyex_e2e import read_e2e

        return read_e2e(file, path, sha256, names, root, max_pixels)
    if kind == "heidelberg_xml":
        from pipeline.scans.heyex_xml import read_xml

        return read_xml(file, path, names, root, max_pixels)
    with decoding("the image"):
        warnings: list[str] = []
        pixels, geometry = _read_untagged(file, kind, path, max_pixels, warnings)
        sha256 = _with_data(file, kind, path) or sha256
        geometry = _with_laterality(geometry, laterality_from_place(path, root))
        whose = identify(names, path, root, geometry.laterality)
        return Scan(
            pixels,
            geometry,
            "unknown",
            whose.case,
            sha256,
            path,
            warnings=tuple(warnings),
            patient_source=whose.source,
            day=whose.day,
        )


def _raw_img(file: BinaryIO, path: Path, sha256: str, names: Pseudonyms, root: Path | None, max_pixels: int) -> Scan:
    voxels = read_raw_img(file, max_pixels)
    geometry = _with_laterality(Geometry(voxels.shape), laterality_from_place(path, root))
    whose = identify(names, path, root, geometry.laterality)
    return Scan(
        voxels[None],
        geometry,
        "oct",
        whose.case,
        sha256,
        path,
        patient_source=whose.source,
        day=whose.day,
        modality_source="user",
    )


def _unknown(path: Path) -> ScanError:
    """The error for a file without a known signature; the data file of a volume whose header is another file has none."""
    if path.suffix.lower() == ".img" and path.with_suffix(".hdr").is_file():
        return ScanError("unsupported", "header and image lie in two files (.hdr, .img); convert them to one NIfTI file (.nii)")
    if path.name.startswith("._"):
        return ScanError("not_an_image", "this is a macOS sidecar file (._*); it holds no image")
    return ScanError("not_an_image", "this is not an image format that ocuseg knows")


def content_sha256(path: Path) -> str:
    """SHA-256 of a file as a Scan has it; for a header whose pixels are in another file, of both.

    Raises
    ------
    ScanError: ``unreadable``, ``not_a_file``, ``unsupported`` (a header that names a file elsewhere).
    """
    with open_regular(path) as file, decoding("the file"):
        return _with_data(file, sniff_file(file), path) or sha256_of(file)


def _with_data(file: BinaryIO, kind: Format | None, path: Path) -> str | None:
    if kind == "heidelberg_xml":
        from pipeline.scans.heyex_xml import xml_sha256

        return xml_sha256(file, path)
    if kind != "metaimage":
        return None
    from pipeline.scans.volume_files import data_file, joint_sha256

    data = data_file(file, path)
    return None if data is None else joint_sha256(file, data)


def _read_untagged(file: BinaryIO, kind: Format, path: Path, max_pixels: int, warnings: list[str]) -> tuple[npt.NDArray[Any], Geometry]:
    if kind == "nifti":
        from pipeline.scans.nifti import decode_nifti

        array, geometry = decode_nifti(file, max_pixels)
        colour = array.ndim == len(geometry.shape) + 1
        return (np.ascontiguousarray(np.moveaxis(array, -1, 0)) if colour else array[None]), geometry
    if kind in ("metaimage", "nrrd"):
        from pipeline.scans.volume_files import read_volume_file

        return read_volume_file(file, kind, path, max_pixels)
    from pipeline.scans.raster import read_pages

    pages = read_pages(file, kind, max_pixels, warnings)
    if len({page.shape for page in pages}) > 1 or len({page.dtype for page in pages}) > 1:
        raise ScanError("unsupported", "the pages of this file differ in size or kind; save each as a file of its own")
    array = pages[0] if len(pages) == 1 else np.stack(pages)
    colour = pages[0].ndim == 3
    pixels = np.ascontiguousarray(np.moveaxis(array, -1, 0)) if colour else array[None]
    return pixels, Geometry(pixels.shape[1:])


def _with_laterality(geometry: Geometry, laterality: Laterality | None) -> Geometry:
    if geometry.laterality is not None or laterality is None:
        return geometry
    return replace(geometry, laterality=laterality, laterality_source="filename")


__all__ = [
    "ONE_VALUE",
    "Format",
    "case_by_tags",
    "content_sha256",
    "decode_scan",
    "identity_by_tags",
    "nothing_to_see",
    "open_scan",
    "sniff",
]
