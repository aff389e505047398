"""Phantoms as DICOM: Ophthalmic Photography (PS3.3 A.41, 8 and 16 bit) and Ophthalmic Tomography (PS3.3 A.52) objects.

Written with pydicom alone, so that they test our reader against the standard and not against our own writer's habits.
dciodvfy finds no error in the photographs. Of a volume that is whole, and so no concatenation, it wants concatenation attributes
that it then refuses: those three complaints stay.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    OphthalmicPhotography8BitImageStorage,
    OphthalmicPhotography16BitImageStorage,
    OphthalmicTomographyImageStorage,
    RLELossless,
)

from pipeline.types import Laterality

Syntax = Literal["explicit", "implicit", "rle", "jpeg2000", "jpegls", "jpeg"]

_UIDS: dict[Syntax, UID] = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg2000": JPEG2000Lossless,
    "jpegls": JPEGLSLossless,
    "jpeg": JPEGBaseline8Bit,
}
# Named, so that the bytes do not depend on what else happens to be installed.
_ENCODERS: dict[Syntax, str] = {"rle": "pydicom", "jpeg2000": "pylibjpeg", "jpegls": "pyjpegls"}
_EYES: dict[Laterality, tuple[str, str]] = {"R": ("24028007", "Right"), "L": ("7771000", "Left")}


def make_uid(*words: object) -> str:
    """A UID that depends on the words alone: 2.25 and 128 bits (PS3.5 B.2)."""
    digest = hashlib.sha256("/".join(str(word) for word in words).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@dataclass(frozen=True)
class VisitRecord:
    """Who was seen and when, as the tags say it; ``key`` makes the UIDs."""

    key: tuple[object, ...]
    patient_id: str
    patient_name: str
    birth_date: str
    sex: Literal["F", "M"]
    date: str
    time: str

    @property
    def study_uid(self) -> str:
        return make_uid(*self.key, "study")


def photograph(
    pixels: npt.NDArray[Any], visit: VisitRecord, eye: Laterality, spacing_mm: Sequence[float], number: int, syntax: Syntax
) -> Dataset:
    """An Ophthalmic Photography image.

    Parameters
    ----------
    pixels: uint8 (H, W, 3) colour, or uint16 (H, W) red-free.
    spacing_mm: (row, column) on the retina, nominal.
    number: instance number within the visit.
    syntax: how the pixels are stored; all but "jpeg" without loss, "jpeg" for colour only.
    """
    colour = pixels.ndim == 3
    if pixels.dtype != (np.uint8 if colour else np.uint16):
        raise ValueError(f"photographs are uint8 (H, W, 3) or uint16 (H, W), not {pixels.dtype} {pixels.shape}")
    dataset = _common(visit, eye, "OP", number, OphthalmicPhotography8BitImageStorage if colour else OphthalmicPhotography16BitImageStorage)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR" if colour else "REDFREE"]
    # The multi-frame module is mandatory in OP even for one frame, and wants to know what would set frames apart.
    dataset.NumberOfFrames, dataset.FrameTime = 1, "0"
    dataset.FrameIncrementPointer = 0x00181063
    dataset.PixelSpacing = [_decimal(value) for value in spacing_mm]
    dataset.ImageComments = "Computer-generated phantom, not a patient"
    dataset.add_new("AcquisitionDeviceTypeCodeSequence", "SQ", [_code("409898007", "Fundus Camera")])
    dataset.add_new("IlluminationTypeCodeSequence", "SQ", [])
    dataset.add_new("LightPathFilterTypeStackCodeSequence", "SQ", [])
    dataset.add_new("ImagePathFilterTypeStackCodeSequence", "SQ", [])
    dataset.add_new("LensesCodeSequence", "SQ", [])
    dataset.add_new("DetectorType", "CS", "CCD")
    dataset.AnatomicRegionSequence = [_code("5665001", "Retina")]
    _acquisition_parameters(dataset)
    if colour:
        _image_pixels(dataset, pixels, "RGB", 8)
    else:
        _image_pixels(dataset, pixels, "MONOCHROME2", 16)
        dataset.PresentationLUTShape = "IDENTITY"
    return _encoded(dataset, pixels, syntax)


def tomography(
    volume: npt.NDArray[np.uint8], visit: VisitRecord, eye: Laterality, spacing_mm: Sequence[float], number: int, syntax: Syntax
) -> Dataset:
    """An Ophthalmic Tomography image: uint8 (D, H, W), spacing (slice, row, column) in mm, B-scans from superior to inferior.

    Columns run to the patient's left in both eyes, rows backwards into the eye, slices downwards: LPS (1, 0, 0), (0, 1, 0), (0, 0, -1).
    """
    slices, rows, columns = volume.shape
    gap, row_mm, column_mm = spacing_mm
    dataset = _common(visit, eye, "OPT", number, OphthalmicTomographyImageStorage)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.FrameOfReferenceUID = make_uid(*visit.key, eye, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.NumberOfFrames = slices
    dataset.AcquisitionDateTime = visit.date + visit.time
    dataset.AcquisitionDuration = 1.5
    dataset.AcquisitionNumber = number
    dataset.add_new("AcquisitionDeviceTypeCodeSequence", "SQ", [_code("392012008", "Optical Coherence Tomography Scanner")])
    dataset.add_new("LightPathFilterTypeStackCodeSequence", "SQ", [])
    dataset.add_new("DetectorType", "CS", "CCD")
    dataset.IlluminationWaveLength = 870.0
    dataset.IlluminationPower = 700.0
    dataset.IlluminationBandwidth = 50.0
    dataset.DepthSpatialResolution = 7.0
    dataset.MaximumDepthDistortion = 1.0
    dataset.AlongScanSpatialResolution = 14.0
    dataset.MaximumAlongScanDistortion = 1.0
    dataset.AcrossScanSpatialResolution = 14.0
    dataset.MaximumAcrossScanDistortion = 1.0
    dataset.AxialLengthOfTheEye = None
    dataset.HorizontalFieldOfView = None
    dataset.AnatomicRegionSequence = [_code("5665001", "Retina")]
    _acquisition_parameters(dataset)
    del dataset.PatientEyeMovementCommanded
    dataset.AcquisitionContextSequence = []
    _image_pixels(dataset, volume[0], "MONOCHROME2", 8)
    dataset.PresentationLUTShape = "IDENTITY"

    organization = Dataset()
    organization.DimensionOrganizationUID = make_uid(*visit.key, eye, number, "dimensions")
    dataset.DimensionOrganizationSequence = [organization]
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer = 0x00209057  # In-Stack Position Number
    index.FunctionalGroupPointer = 0x00209111  # Frame Content Sequence
    dataset.DimensionIndexSequence = [index]

    measures, orientation, anatomy, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    measures.SliceThickness = _decimal(gap)
    measures.SpacingBetweenSlices = _decimal(gap)
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    anatomy.FrameLaterality = eye
    anatomy.AnatomicRegionSequence = [_code("5665001", "Retina")]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    shared.FrameAnatomySequence = [anatomy]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [_frame(index, visit, rows, columns, slices, spacing_mm) for index in range(slices)]
    return _encoded(dataset, volume, syntax)


def _frame(index: int, visit: VisitRecord, rows: int, columns: int, slices: int, spacing_mm: Sequence[float]) -> Dataset:
    gap, row_mm, column_mm = spacing_mm
    content, position, frame = Dataset(), Dataset(), Dataset()
    content.FrameAcquisitionDateTime = visit.date + visit.time
    content.FrameReferenceDateTime = visit.date + visit.time
    content.FrameAcquisitionDuration = 100.0
    content.FrameAcquisitionNumber = index + 1
    content.StackID = "1"
    content.InStackPositionNumber = index + 1
    content.DimensionIndexValues = [index + 1]
    corner = (-(columns - 1) / 2 * column_mm, -(rows - 1) / 2 * row_mm, ((slices - 1) / 2 - index) * gap)
    position.ImagePositionPatient = [_decimal(value) for value in corner]
    frame.FrameContentSequence = [content]
    frame.PlanePositionSequence = [position]
    return frame


def write_dicom(dataset: Dataset, path: Path) -> None:
    """Write with preamble and file meta."""
    dataset.save_as(path, enforce_file_format=True)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters."""
    return f"{value:.10g}"[:16]


def _common(visit: VisitRecord, eye: Laterality, modality: Literal["OP", "OPT"], number: int, sop_class: UID) -> Dataset:
    """Patient, study, series, equipment and SOP common modules, and what both kinds of image share."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = make_uid(*visit.key, modality, number)
    dataset.PatientName, dataset.PatientID = visit.patient_name, visit.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = visit.birth_date, visit.sex
    dataset.StudyInstanceUID, dataset.StudyDate, dataset.StudyTime = visit.study_uid, visit.date, visit.time
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.SeriesInstanceUID = make_uid(*visit.key, modality, "series")
    dataset.Modality, dataset.SeriesNumber = modality, 1 if modality == "OP" else 2
    dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = visit.date
    dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = visit.time
    dataset.AcquisitionDateTime = visit.date + visit.time
    dataset.SynchronizationFrameOfReferenceUID = make_uid(*visit.key, modality, "synchronization")
    dataset.SynchronizationTrigger, dataset.AcquisitionTimeSynchronized = "NO TRIGGER", "N"
    dataset.Manufacturer, dataset.ManufacturerModelName = "ocuseg", f"phantom {modality}"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "1", "1"
    dataset.InstanceNumber = number
    dataset.ImageLaterality = eye
    dataset.PatientOrientation = ["L", "F"] if modality == "OP" else None
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    if modality == "OPT":
        del dataset.PatientOrientation, dataset.AcquisitionDate, dataset.AcquisitionTime
    return dataset


def _acquisition_parameters(dataset: Dataset) -> None:
    """Ophthalmic acquisition parameters (PS3.3 C.8.17.4): type 2, and a phantom knows none of them."""
    for keyword in (
        "PatientEyeMovementCommanded",
        "EmmetropicMagnification",
        "IntraOcularPressure",
        "HorizontalFieldOfView",
        "PupilDilated",
    ):
        setattr(dataset, keyword, None)
    dataset.RefractiveStateSequence = []


def _image_pixels(dataset: Dataset, plane: npt.NDArray[Any], interpretation: str, bits: int) -> None:
    dataset.Rows, dataset.Columns = plane.shape[:2]
    dataset.SamplesPerPixel = 3 if plane.ndim == 3 else 1
    dataset.PhotometricInterpretation = interpretation
    if plane.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = plane.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0


def _encoded(dataset: Dataset, pixels: npt.NDArray[Any], syntax: Syntax) -> Dataset:
    """Pixel data and file meta in one transfer syntax."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = _UIDS[syntax]
    if syntax in ("explicit", "implicit"):
        stored = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        dataset.PixelData = stored + b"\0" * (len(stored) % 2)
        dataset["PixelData"].VR = "OB" if pixels.dtype == np.uint8 and syntax == "explicit" else "OW"
    elif syntax == "jpeg":
        _baseline_jpeg(dataset, pixels)
    else:
        if syntax == "jpeg2000" and dataset.SamplesPerPixel == 3:
            dataset.PhotometricInterpretation = "YBR_RCT"  # the reversible colour transform, the only lossless one PS3.5 8.2.4 allows
        dataset.compress(_UIDS[syntax], pixels, encoding_plugin=_ENCODERS[syntax], generate_instance_uid=False)
    return dataset


def _baseline_jpeg(dataset: Dataset, pixels: npt.NDArray[Any]) -> None:
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="JPEG", quality=92, subsampling="4:2:2")
    data = encoded.getvalue()
    dataset.PixelData = encapsulate([data + b"\0" * (len(data) % 2)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = f"{pixels.nbytes / len(data):.2f}"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
