"""DICOM files made to order, so that each expectation can be worked out by hand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

OP_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
OP_16_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.2"
OPT = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
EN_FACE = "1.2.840.10008.5.1.4.1.1.77.1.5.7"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CT = "1.2.840.10008.5.1.4.1.1.2"


def item(**tags: Any) -> Dataset:
    """A sequence item, or any other data set."""
    out = Dataset()
    for keyword, value in tags.items():
        setattr(out, keyword, value)
    return out


def sequence(*items: Dataset) -> DicomSequence:
    return DicomSequence(items)


def dicom(pixels: np.ndarray, *, photometric: str | None = None, sop_class: str = OP_8_BIT, modality: str = "OP", **tags: Any) -> Dataset:
    """A data set of (H, W), (D, H, W) grey or (..., 3) colour pixels; ``tags`` add to it or, when None, take away from it."""
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2")
    shape = pixels.shape[:-1] if colour else pixels.shape
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.SOPClassUID = sop_class
    out.SOPInstanceUID = generate_uid()
    out.StudyInstanceUID = generate_uid()
    out.Modality = modality
    out.PatientID, out.PatientName = "P0001", "PHANTOM^0001"
    out.Rows, out.Columns = shape[-2:]
    if len(shape) == 3:
        out.NumberOfFrames = shape[0]
    out.SamplesPerPixel = 3 if colour else 1
    if colour:
        out.PlanarConfiguration = 0
    out.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    out.BitsAllocated = out.BitsStored = pixels.dtype.itemsize * 8
    out.HighBit = out.BitsStored - 1
    out.PixelRepresentation = int(pixels.dtype.kind == "i")
    data = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    out.PixelData = data + b"\0" * (len(data) % 2)
    out["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in tags.items():
        if value is None:
            delattr(out, keyword)
        else:
            setattr(out, keyword, value)
    return out


def saved(dataset: Dataset, path: Path) -> Path:
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", OP_8_BIT)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", generate_uid())
    dataset.save_as(path, enforce_file_format=True)
    return path


def encapsulated(dataset: Dataset, syntax: str, frames: Sequence[bytes]) -> Dataset:
    """The data set with compressed frames in place of its pixels."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def jpeg(array: np.ndarray, **options: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", **options)
    return out.getvalue()


def ramp(rows: int, columns: int, dtype: str = "uint8", step: int = 1) -> np.ndarray:
    """A picture in which every pixel differs from its neighbours and rows from columns."""
    return (np.arange(rows * columns).reshape(rows, columns) * step).astype(dtype)


def photograph(rows: int, columns: int) -> np.ndarray:
    """Smooth colours, so that lossy coding stays close: red grows along columns, green along rows."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack([x * 200 // columns + 20, y * 200 // rows + 30, (x + y) * 100 // (rows + columns) + 40], axis=-1).astype(np.uint8)
