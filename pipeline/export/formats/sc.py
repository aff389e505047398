"""DICOM Secondary Capture (PS3.3 A.8) of the overlay as reports draw it, with eye and notice in the picture itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

from pipeline.drawing.overlay import NOTICE, draw_overlay
from pipeline.export.case import ExportCase, Settings
from pipeline.export.exporter import EXPORTERS, Document
from pipeline.export.objects import belong, finished, own_words, plane_spacing, reference, region, save, stand_in
from pipeline.export.source import plane_of, source_of
from pipeline.reports import wording
from pipeline.reports.objects import read_objects
from pipeline.review.corrected import CorrectedCase

_SIDE_A_LINE = 480
"""Pixels of the picture's longer side for each pixel of a contour's width, as in reports."""


@EXPORTERS.add("sc")
def export_sc(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """One file, of a volume with a frame a slice."""
    yield Document("overlay.dcm", lambda path: save(secondary_capture(case, settings), path))


def overlay(case: ExportCase, at: int) -> npt.NDArray[np.uint8]:
    """One plane, (H, W, 3), as archived: contours or boxes, which eye it is, and the notice."""
    rgb = case.rgb(at)
    layers = case.layers(at) if case.label_map.classes else None
    width = max(1, math.ceil(max(rgb.shape[:2]) / _SIDE_A_LINE))
    return draw_overlay(rgb, layers, case.label_map, width=width, caption=_caption(case, at), **_boxes(case, at))


def _boxes(case: ExportCase, at: int) -> dict[str, Any]:
    """Of objects without masks, as the model found or a reviewer corrected them: those at or above the bundle's thresholds."""
    if not case.run.objects:
        return {}
    if isinstance(case.case, CorrectedCase) and case.case.labels is not None:
        names = case.label_map.names
        corrected = [one for one in case.case.labels.objects if one.plane == at]
        own = [(one.box, names.index(one.name) + 1) for one in corrected if one.segmentation is None]
    else:
        objects = read_objects(case.case, case.run)
        own = [(one.box, one.label + 1) for one in objects.in_slice(at) if objects.above(one) and not objects.has_masks]
    if not own:
        return {}
    return {"boxes": np.array([box for box, _ in own], np.float32), "labels": np.array([label for _, label in own], np.int64)}


def _caption(case: ExportCase, at: int) -> str:
    words = f"{wording.eye(case.case).short} {case.eye_words}"
    planes = len(case.case.planes)
    return words if planes == 1 else f"{words}, slice {at + 1} of {planes}"


def secondary_capture(case: ExportCase, settings: Settings) -> Any:
    import highdicom as hd

    sources = source_of(case)
    given = stand_in(sources[0])
    planes = len(case.case.planes)
    words = own_words(case, settings, "sc")
    made = hd.base.SOPClass(
        study_instance_uid=given.StudyInstanceUID,
        sop_class_uid=SecondaryCaptureImageStorage if planes == 1 else MultiFrameTrueColorSecondaryCaptureImageStorage,
        modality="OT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **words,
    )
    made.copy_patient_and_study_information(given)
    made.ConversionType = "WSD"
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.DerivationDescription = f"Overlay of bundle {case.case.bundle_id}"[:1024]
    made.ImageComments = NOTICE
    made.BurnedInAnnotation = "YES"
    made.PatientOrientation = sources[0].get("PatientOrientation")
    made.AnatomicRegionSequence = region(case)
    if (spacing := plane_spacing(case)) is not None:
        made.PixelSpacing = spacing
    made.SourceImageSequence = [reference(*plane_of(sources, at)) for at in range(planes)]
    _pixels(made, case)
    if planes > 1:
        made.FrameIncrementPointer = 0x00182002  # Frame Label Vector
        made.FrameLabelVector = [f"slice {number}" for number in range(1, planes + 1)]
    belong(made, sources[0])
    return finished(made, case, settings, "sc")


def _pixels(made: Any, case: ExportCase) -> None:
    planes = len(case.case.planes)
    made.Rows, made.Columns = case.case.geometry.plane
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.LossyImageCompression = "00"
    if planes > 1:
        made.NumberOfFrames = planes
    data = bytearray()
    for at in range(planes):
        data += overlay(case, at).tobytes()
    made.PixelData = bytes(data) + b"\0" * (len(data) % 2)
    made["PixelData"].VR = "OB"
