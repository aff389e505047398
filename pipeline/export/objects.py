"""What all DICOM objects of an export share: whose they are, which series they are in, what made them, and that they repeat exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import OphthalmicPhotography8BitImageStorage

from pipeline.atomic import atomic_path
from pipeline.drawing.overlay import NOTICE
from pipeline.errors import ConfigError, OcusegError
from pipeline.export.case import OCUSEG, ExportCase, Settings
from pipeline.export.codes import RETINA, SIDES, SOURCE_IMAGE, concept

MANUFACTURER = "ocuseg"
UTF_8 = "ISO_IR 192"
SERIES = {
    "image": (9800, "picture without DICOM original"),
    "seg": (9801, "segmentation"),
    "sr": (9802, "measurements"),
    "sc": (9803, "overlay"),
    "pdf": (9804, "report"),
}
"""Number and name of the series of each kind: beyond those that devices count up to."""
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Of patient and study: must be there, and may be empty."""
_LONGEST = 64
"""Characters of an LO value."""


def need_highdicom() -> None:
    """Raises ConfigError where it is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise ConfigError("DICOM objects need highdicom: pip install 'ocuseg[dicom]'") from None


def usable_original(headers: tuple[Any, ...]) -> str:
    """Why objects cannot refer to these files, or ""."""
    if any(not header.get(keyword) for header in headers for keyword in _UIDS):
        return "its DICOM file lacks a UID of its study, series, class or instance"
    if len({header.StudyInstanceUID for header in headers}) > 1:
        return "its DICOM files belong to several studies"
    return ""


def stand_in(header: Any) -> Any:
    """A copy of a source's data set that highdicom takes as it is.

    Who the patient is and which study it was is left out, because highdicom refuses or warns of what hospitals write there (dates with
    dots, names of one word), and it calls itself an ophthalmic photograph, because highdicom knows the modules of some classes alone:
    :func:`belong` puts both right. What cannot be read at all (a weight of "x") is dropped.
    """
    out = copy.deepcopy(header)
    for tag in list(out.keys()):
        try:
            out[tag]  # only now is it decoded
        except (ValueError, TypeError, OverflowError, NotImplementedError):
            del out[tag]
    for keyword in _TYPE_2:
        setattr(out, keyword, None)
    out.SOPClassUID = OphthalmicPhotography8BitImageStorage
    return out


def belong(made: Any, source: Any) -> None:
    """Give what was made with a :func:`stand_in` of ``source`` the patient and study as the source writes them, and its references the
    true class."""
    for keyword in _TYPE_2:
        if keyword in source:
            made.add(source[keyword])

    def correct(parent: Any, element: Any) -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value == source.SOPInstanceUID and "ReferencedSOPClassUID" in parent:
            parent.ReferencedSOPClassUID = source.SOPClassUID

    made.walk(correct)


def own_words(case: ExportCase, settings: Settings, kind: str, at: int = 0) -> dict[str, Any]:
    """Series, instance, equipment and time of object ``at`` of one kind, by the names of highdicom's arguments."""
    number, words = SERIES[kind]
    return {
        "series_instance_uid": case.uid(settings, kind, "series"),
        "series_number": number,
        "series_description": f"ocuseg {words}: {NOTICE}"[:_LONGEST],
        "sop_instance_uid": case.uid(settings, kind, at),
        "instance_number": at + 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": "ocuseg",
        "device_serial_number": case.case.bundle_id[:_LONGEST] or "unknown",
        "software_versions": OCUSEG,
        "specific_character_set": UTF_8,
        "content_date": case.made.date(),
        "content_time": case.made.time().replace(microsecond=0),
    }


def finished(made: Any, case: ExportCase, settings: Settings, kind: str, at: int = 0) -> Any:
    """With the eye, and without what would make two exports of one case differ: the moment, and random identifiers."""
    made.InstanceCreationDate, made.InstanceCreationTime = case.made.strftime("%Y%m%d"), case.made.strftime("%H%M%S")
    if case.eye is not None and kind != "sr":  # its finding sites have it
        setattr(made, "Laterality" if kind == "pdf" else "ImageLaterality", case.eye)
    if "ContributingEquipmentSequence" not in made:
        made._add_contributing_equipment()
    made.ContributingEquipmentSequence[-1].ContributionDateTime = case.made.strftime("%Y%m%d%H%M%S")  # highdicom's own
    organisation = case.uid(settings, kind, at, "dimensions")
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(keyword) or ():
            item.DimensionOrganizationUID = organisation
    return made


def reference(source: Any, frame: int | None = None) -> Dataset:
    """An item that names a source, with what it was the source for."""
    out = Dataset()
    out.ReferencedSOPClassUID, out.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if frame is not None:
        out.ReferencedFrameNumber = frame
    out.PurposeOfReferenceCodeSequence = [concept(SOURCE_IMAGE)]
    return out


def save(made: Dataset, path: Path) -> None:
    with atomic_path(path, durable=True) as staged:
        made.save_as(staged, enforce_file_format=True)


def region(case: ExportCase) -> list[Any]:
    """Anatomic Region Sequence: the retina, of the right or left eye where that is known."""
    retina = concept(RETINA)
    if case.eye is not None:
        retina.AnatomicRegionModifierSequence = [concept(SIDES[case.eye])]
    return [retina]


def plane_spacing(case: ExportCase) -> list[str] | None:
    """(row, column) in mm as decimal strings; None where it is unknown or only estimated."""
    size = case.case.geometry.trusted().pixel_mm
    return None if size is None else [f"{value:.10g}"[:16] for value in size]


def refused(kind: str, error: Exception) -> OcusegError:
    """In place of what highdicom says of a header that it does not take, whose words may quote the patient."""
    return OcusegError(f"{kind}: the original's header does not allow it ({type(error).__name__}); look at it with dciodvfy")
