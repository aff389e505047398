"""A DICOM file becomes a Scan: what it is, whose it is, what it shows and where it lies (DICOM PS3.3, 2025).

Pixels are in ``dicom_pixels.py``, positions and sides in ``dicom_geometry.py``.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.dicom_geometry import (
    SECONDARY_CAPTURE,
    contradicted_laterality,
    geometry_of,
    numbers,
    optics_of,
    orientation_of,
    position_of,
)
from pipeline.scans.dicom_pixels import decode_pixels
from pipeline.scans.files import MAX_PIXELS, check_pixels, decoding
from pipeline.scans.identity import Identity, Pseudonyms, identify, stated_patient
from pipeline.scans.place import SIDE_CONFLICT
from pipeline.scans.quiet import quiet
from pipeline.types import CaseKey, Geometry, Modality, Scan, SeriesSlice

_OP = "1.2.840.10008.5.1.4.1.1.77.1.5."
_PHOTOGRAPHY = {_OP + n for n in "1256"}  # 8 bit, 16 bit, wide field stereographic, wide field 3D
_TOMOGRAPHY, _EN_FACE, _FLOW_VOLUME = _OP + "4", _OP + "7", _OP + "8"
_EYE_PICTURES = _PHOTOGRAPHY | {_TOMOGRAPHY, _EN_FACE, _FLOW_VOLUME}  # not 3, Stereometric Relationship: it only refers to pictures
_ANY_SUBJECT = {  # classes that say nothing of what they show: Secondary Capture and visible-light photographs
    SECONDARY_CAPTURE,
    *(f"{SECONDARY_CAPTURE}.{n}" for n in "1234"),
    "1.2.840.10008.5.1.4.1.1.77.1.4",
}
_SEGMENTATIONS = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
_EYE_MODALITIES = {"OP", "OPT", "OPTENF", "OPTBSV"}
_OPEN_MODALITIES = {"", "OT", "XC", "SC"}
_FOREIGN_MODALITIES = {"CT", "MR", "US", "NM", "PT", "CR", "DX", "MG", "XA", "RF", "RTDOSE", "RTIMAGE", "ES", "GM", "SM", "IVUS", "BMD"}

_SCANNING_LASER_OPHTHALMOSCOPE = "392001008"  # SCT, DICOM CID 4202
_FUNDUS_DEVICES = {"409898007", "409900009", "409901008"}  # fundus camera, direct and indirect ophthalmoscope
_FLOW_IMAGES = {str(code) for code in range(128257, 128279, 2)}  # DCM, CID 4271: vasculature flow; even ones are structural
_STRUCTURAL_IMAGES = {str(code) for code in range(128258, 128279, 2)}

_DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_STEP = 1 << 24


def read_dicom(file: BinaryIO, path: Path, sha256: str, names: Pseudonyms, root: Path | None, max_pixels: int) -> Scan:
    """The Scan in an open DICOM file, with or without the Part 10 preamble. Several frames become slices (C, D, H, W).

    Raises
    ------
    ScanError: ``no_pixels``, ``not_ophthalmic``, ``not_a_scan`` (a segmentation), ``unsupported``, ``too_large``, ``truncated``,
        ``malformed``.
    """
    with quiet(), decoding("the DICOM file"):
        dataset = read_dataset(file, max_pixels)
        modality = modality_of(dataset)
        rows, columns, frames = _declared(dataset)
        check_pixels(rows * columns * frames, max_pixels)
        warnings: list[str] = []
        pixels = decode_pixels(dataset, frames, warnings)
        geometry = geometry_of(dataset, pixels.shape[1:])
        uid = text_of(dataset, "SOPInstanceUID")
        unconfirmed, conflicts = contradicted_laterality(dataset, geometry.laterality)
        warnings += unconfirmed
        whose = identity_of(dataset, geometry, path, root, names)
        field_degrees, axial_length_mm = optics_of(dataset)
        piece = _piece_of(dataset, pixels, whose.case, names) if modality == "oct" and pixels.ndim == 3 else None
        return Scan(
            pixels,
            geometry,
            modality,
            whose.case,
            sha256,
            path,
            uid or None,
            tuple(warnings),
            piece,
            patient_source=whose.source,
            day=whose.day,
            doubts=tuple((SIDE_CONFLICT, conflict) for conflict in conflicts),
            field_degrees=field_degrees,
            axial_length_mm=axial_length_mm,
        )


def _piece_of(dataset: Any, pixels: npt.NDArray[Any], case: CaseKey, names: Pseudonyms) -> SeriesSlice | None:
    """What identifies a B-scan as a slice of a volume stored one slice per file; None for a file that names no series."""
    series = text_of(dataset, "SeriesInstanceUID")
    if not series:
        return None
    number, position, orientation = numbers(dataset, "InstanceNumber", 1), position_of(dataset, 0), orientation_of(dataset, 0)
    return SeriesSlice(
        names.token("image", "\0".join((series, case.patient, case.visit, case.eye))),
        f"{pixels.dtype.name} {'x'.join(map(str, pixels.shape))}",
        None if number is None else int(number[0]),
        None if position is None else tuple(map(float, position)),
        None if orientation is None else tuple(map(float, orientation)),
    )


def read_identity(file: BinaryIO, path: Path, names: Pseudonyms, root: Path | None) -> Identity:
    """The patient, eye and visit of an open DICOM file, from its tags; no pixel is decoded.

    Raises
    ------
    ScanError: as :func:`read_dicom`, if the tags alone show that it is not a scan.
    """
    with quiet(), decoding("the DICOM file"):
        dataset = read_dataset(file)
        modality_of(dataset)
        rows, columns, frames = _declared(dataset)
        check_pixels(rows * columns * frames, MAX_PIXELS)
        geometry = geometry_of(dataset, (rows, columns) if frames == 1 else (frames, rows, columns))
        return identity_of(dataset, geometry, path, root, names)


def read_dataset(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> Any:
    """The data set of an open DICOM file, with or without the Part 10 preamble, inflated no further than the pixels that it declares."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    file.seek(128)
    headerless = file.read(4) != b"DICM"
    file.seek(0)
    dataset = pydicom.dcmread(_inflated(file, max_pixels), force=headerless)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    if headerless and not any(keyword in dataset for keyword in ("SOPClassUID", "Rows", "StudyInstanceUID", "Modality")):
        raise ScanError("not_an_image", "this is not an image format that ocuseg knows")
    return dataset


def _inflated(file: BinaryIO, max_pixels: int) -> BinaryIO:
    """The file itself, or the contents of a deflated one, inflated step by step (pydicom would inflate everything first).

    The header, which comes first, states the size; far more than that is refused.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.filewriter import write_file_meta_info

    file.seek(128)
    if file.read(4) != b"DICM":
        file.seek(0)
        return file
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag.group != 2)
    begin = 144 + int(meta.get("FileMetaInformationGroupLength") or file.tell() - 144)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        file.seek(0)
        return file
    file.seek(begin)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), _STEP)
    header = read_dataset(
        io.BytesIO(data), is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag >= 0x7FE00008
    )
    limit = 4 * _STEP
    if "Rows" in header:
        rows, columns, frames = _declared(header)
        check_pixels(rows * columns * frames, max_pixels)
        limit += rows * columns * frames * int(header.get("SamplesPerPixel") or 1) * int(header.get("BitsAllocated") or 16) // 8
    meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    plain = io.BytesIO()
    plain.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(plain, FileMetaDataset(meta), enforce_standard=False)
    while data:
        plain.write(data)
        if plain.tell() > limit:
            raise ScanError("too_large", f"the deflated DICOM file holds more than the {limit >> 20} MiB that its header accounts for")
        data = inflater.decompress(inflater.unconsumed_tail, _STEP)
    plain.seek(0)
    return plain


def text_of(dataset: Any, keyword: str) -> str:
    """A tag's value as text without padding; "" when it is absent or empty. Several values are joined as DICOM stores them."""
    value = dataset.get(keyword)
    if value is None:
        return ""
    parts = value if not isinstance(value, str) and hasattr(value, "__iter__") else [value]
    return "\\".join(str(part) for part in parts).strip(" \0")


def code_of(dataset: Any, keyword: str) -> str:
    """The code value of a code sequence's first item, or ""."""
    items = dataset.get(keyword)
    return text_of(items[0], "CodeValue") if items else ""


def modality_of(dataset: Any) -> Modality:
    """The modality of the picture; ScanError if it does not show an eye.

    Ophthalmic photographs count as fundus unless the acquisition device says otherwise; Secondary Capture says nothing.
    """
    # Of a file that ends too early pydicom keeps the group 0002 alone.
    sop_class = text_of(dataset, "SOPClassUID") or text_of(dataset.file_meta, "MediaStorageSOPClassUID")
    modality = text_of(dataset, "Modality").upper()
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        if sop_class in _EYE_PICTURES | _ANY_SUBJECT or ("Rows" in dataset and modality not in _FOREIGN_MODALITIES):
            raise ScanError("truncated", "the DICOM file ends before its picture; copy or export it again")
        raise ScanError("no_pixels", "the DICOM file holds no picture (a report, directory, plan or the like)")
    if sop_class in _SEGMENTATIONS or modality == "SEG":
        raise ScanError("not_a_scan", "the DICOM file is a segmentation, not a scan")
    # Converters put the photograph that a device takes beside a volume into the volume's class.
    photograph = sop_class == _TOMOGRAPHY and modality == "OP" and int(dataset.get("NumberOfFrames") or 1) == 1
    open_class = photograph or not sop_class.startswith("1.2.840.10008.") or sop_class in _ANY_SUBJECT
    if (sop_class == _TOMOGRAPHY and not photograph) or (open_class and modality == "OPT"):
        return "oct"
    if sop_class == _FLOW_VOLUME or (open_class and modality == "OPTBSV"):
        return "octa"
    if sop_class == _EN_FACE or (open_class and modality == "OPTENF"):
        kind = code_of(dataset, "OphthalmicImageTypeCodeSequence")
        return "octa" if kind in _FLOW_IMAGES else "oct" if kind in _STRUCTURAL_IMAGES else "unknown"
    if sop_class in _PHOTOGRAPHY or (open_class and modality == "OP"):
        device = code_of(dataset, "AcquisitionDeviceTypeCodeSequence")
        if device == _SCANNING_LASER_OPHTHALMOSCOPE:
            return "slo"
        return "fundus" if photograph or not device or device in _FUNDUS_DEVICES else "unknown"
    if open_class and modality in _OPEN_MODALITIES:
        return "unknown"
    named = modality if modality in _FOREIGN_MODALITIES else "other"
    raise ScanError("not_ophthalmic", f"the DICOM file is of modality {named}, not a picture of an eye")


def _declared(dataset: Any) -> tuple[int, int, int]:
    """Rows, columns and frames, as the header states them."""
    try:
        rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    except (AttributeError, TypeError, ValueError):
        raise ScanError("malformed", "the DICOM header does not state rows, columns and frames as numbers") from None
    if min(rows, columns, frames) < 1:
        raise ScanError("malformed", "the DICOM header states an empty picture")
    return rows, columns, frames


def identity_of(dataset: Any, geometry: Geometry, path: Path, root: Path | None, names: Pseudonyms) -> Identity:
    """Tags win: Patient ID without its issuer, Study Date (else Study Instance UID), SOP Instance UID; else the place below ``root``.

    The date comes first because one visit is often several studies (photographs, OCT), and because a folder named by that date
    then holds the same visit for the files beside it that have no tags.
    """
    date = text_of(dataset, "StudyDate")
    return identify(
        names,
        path,
        root,
        geometry.laterality,
        patient=stated_patient(text_of(dataset, "PatientID")),
        visit=date or text_of(dataset, "StudyInstanceUID"),
        date=date or text_of(dataset, "AcquisitionDateTime")[:8] or text_of(dataset, "AcquisitionDate"),
        image=text_of(dataset, "SOPInstanceUID"),
    )
