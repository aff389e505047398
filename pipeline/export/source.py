"""The picture that an export's objects belong to: the hospital's own DICOM file, or one made of the case where there is none."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    OphthalmicPhotography8BitImageStorage,
    SecondaryCaptureImageStorage,
)

from pipeline.drawing.overlay import NOTICE
from pipeline.export.case import OCUSEG, ExportCase
from pipeline.export.codes import SOURCE_IMAGE, Triple, concept
from pipeline.export.objects import MANUFACTURER, SERIES, UTF_8, plane_spacing, region
from pipeline.export.uids import uid_of

_CAMERA: dict[str, Triple] = {
    "fundus": ("409898007", "SCT", "Fundus Camera"),
    "slo": ("392001008", "SCT", "Scanning Laser Ophthalmoscope"),
}

_UNKNOWN = ("PatientEyeMovementCommanded", "EmmetropicMagnification", "IntraOcularPressure", "HorizontalFieldOfView", "PupilDilated")


def source_of(case: ExportCase) -> tuple[Any, ...]:
    """The data sets, without pixels, of the case's picture: one, or one a plane."""
    return case.original or (derived_header(case),)


def plane_of(sources: Sequence[Any], at: int) -> tuple[Any, int | None]:
    """The data set that holds a plane, and the plane's frame number in it, None of a picture of one frame."""
    if len(sources) > 1:
        return sources[at], None
    return sources[0], at + 1 if int(sources[0].get("NumberOfFrames") or 1) > 1 else None


def is_volume(sources: Sequence[Any], planes: int) -> bool:
    """Whether it is one file that places all of its frames in the patient's space, parallel to each other."""
    header = sources[0]
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    measures = (shared.get("PixelMeasuresSequence") or [Dataset()])[0]
    return (
        len(sources) == 1
        and planes > 1
        and len(groups) == planes
        and bool(header.get("FrameOfReferenceUID"))
        and bool(shared.get("PlaneOrientationSequence"))
        and bool(measures.get("PixelSpacing"))
        and "SliceThickness" in measures
        and all(group.get("PlanePositionSequence") for group in groups)
    )


def derived_header(case: ExportCase) -> Dataset:
    """The data set, without pixels, that stands in for an original that is no DICOM file: an ophthalmic photograph where eye and camera
    are known, else a Secondary Capture; under the case's pseudonym, in a study of its own, of the patient's visit."""
    key, eye = case.case.key, case.eye
    planes, (rows, columns) = len(case.case.planes), case.case.geometry.plane
    colour = case.case.image(case.case.planes[0]).ndim == 3
    camera = _CAMERA.get(case.case.modality) if eye is not None and planes == 1 else None
    out = Dataset()
    out.SpecificCharacterSet = UTF_8
    several = MultiFrameTrueColorSecondaryCaptureImageStorage if colour else MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    single = OphthalmicPhotography8BitImageStorage if camera else SecondaryCaptureImageStorage
    out.SOPClassUID = several if planes > 1 else single
    out.SOPInstanceUID = uid_of("image", OCUSEG, key, case.case.sha256, eye, out.SOPClassUID)
    out.StudyInstanceUID = uid_of("study", key.patient, key.visit)
    out.SeriesInstanceUID = uid_of("image series", OCUSEG, key, case.case.sha256, eye)
    out.PatientName = out.PatientID = key.patient
    out.PatientBirthDate = out.PatientSex = None
    out.PatientIdentityRemoved, out.DeidentificationMethod = "YES", "Made by ocuseg under the case's pseudonym"
    out.StudyDate = out.StudyTime = out.AccessionNumber = out.ReferringPhysicianName = None
    out.StudyID = "OCUSEG"
    out.Modality = "OP" if camera else "OT"
    out.SeriesNumber, out.InstanceNumber = SERIES["image"][0], 1
    out.SeriesDescription = f"ocuseg {SERIES['image'][1]}"
    out.Manufacturer, out.ManufacturerModelName, out.SoftwareVersions, out.DeviceSerialNumber = MANUFACTURER, "ocuseg", OCUSEG, "none"
    out.ImageComments = f"Made of a file that was no DICOM object; {NOTICE}"
    out.ContentDate, out.ContentTime = case.made.strftime("%Y%m%d"), case.made.strftime("%H%M%S")
    out.PatientOrientation = ["L", "F"] if camera else None
    out.BurnedInAnnotation = "NO"
    _lossy(out, case)
    out.AnatomicRegionSequence = region(case)
    if eye is not None:
        out.ImageLaterality = eye
    if (spacing := plane_spacing(case)) is not None:
        out.PixelSpacing = spacing
    out.Rows, out.Columns = rows, columns
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 8, 8, 7, 0
    out.SamplesPerPixel, out.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        out.PlanarConfiguration = 0
    else:
        out.PresentationLUTShape = "IDENTITY"
    if camera:
        _as_photograph(out, camera, case.case.sha256)
    else:
        _as_capture(out, planes, colour)
    out.file_meta = FileMetaDataset()
    out.file_meta.MediaStorageSOPClassUID, out.file_meta.MediaStorageSOPInstanceUID = out.SOPClassUID, out.SOPInstanceUID
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return out


def _as_photograph(out: Dataset, camera: Triple, sha256: str) -> None:
    """The modules of Ophthalmic Photography; nothing is known of what its type 2 attributes ask."""
    # Not ORIGINAL, which must know when the picture was taken.
    out.ImageType = ["DERIVED", "PRIMARY", "CONVERTED", "COLOR" if out.SamplesPerPixel == 3 else ""]
    out.SourceImageSequence = [_file_as_source(sha256)]
    out.NumberOfFrames, out.FrameTime, out.FrameIncrementPointer = 1, "0", 0x00181063
    out.SynchronizationFrameOfReferenceUID = uid_of("synchronization", out.SOPInstanceUID)
    out.SynchronizationTrigger, out.AcquisitionTimeSynchronized = "NO TRIGGER", "N"
    out.add_new("AcquisitionDeviceTypeCodeSequence", "SQ", [concept(camera)])
    for keyword in ("IlluminationType", "LightPathFilterTypeStack", "ImagePathFilterTypeStack", "Lenses"):
        out.add_new(f"{keyword}CodeSequence", "SQ", [])
    out.add_new("DetectorType", "CS", "")
    out.RefractiveStateSequence = []
    for keyword in _UNKNOWN:
        setattr(out, keyword, None)


def _file_as_source(sha256: str) -> Dataset:
    """A derived photograph names the picture it was made of: the file, by a UID made of its SHA-256, because it has none of its own."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = SecondaryCaptureImageStorage, uid_of("file", sha256)
    item.PurposeOfReferenceCodeSequence = [concept(SOURCE_IMAGE)]
    return item


def _as_capture(out: Dataset, planes: int, colour: bool) -> None:
    out.ConversionType, out.ImageType = "WSD", ["DERIVED", "SECONDARY"]
    if planes > 1:
        out.NumberOfFrames = planes
        out.FrameIncrementPointer = 0x00182002  # Frame Label Vector
        out.FrameLabelVector = [f"slice {number}" for number in range(1, planes + 1)]
        if not colour:
            out.RescaleIntercept, out.RescaleSlope, out.RescaleType = "0", "1", "US"


def _lossy(out: Dataset, case: ExportCase) -> None:
    """A JPEG file's own data are kept with the case, and what was once compressed with loss says so for ever."""
    file = case.case.folder / case.case.planes[0].image
    if file.suffix != ".jpg":
        out.LossyImageCompression = "00"
        return
    raw = int(np.prod(case.case.geometry.plane)) * (3 if case.case.image(case.case.planes[0]).ndim == 3 else 1)
    out.LossyImageCompression, out.LossyImageCompressionMethod = "01", "ISO_10918_1"
    out.LossyImageCompressionRatio = f"{raw / file.stat().st_size:.2f}"


def derived_image(case: ExportCase) -> Dataset:
    """:func:`derived_header` with the pixels, as the case shows them."""
    out = copy.deepcopy(derived_header(case))
    data = b"".join(np.ascontiguousarray(case.case.image(plane)).tobytes() for plane in case.case.planes)
    out.PixelData = data + b"\0" * (len(data) % 2)
    out["PixelData"].VR = "OB"
    return out
