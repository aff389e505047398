"""What goes wrong in a hospital's folder, made on purpose: broken files, files sent twice, and names nobody should have chosen."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pipeline.phantoms.dicom import VisitRecord, make_uid, photograph, write_dicom
from pipeline.phantoms.fundus import draw_fundus
from pipeline.scans.raster import write_png
from pipeline.types import Laterality

_SCRIPT = "<script>alert('phantom')</script>"


def write_trouble(folder: Path, visit: VisitRecord, eye_seed: tuple[int, ...], shape: tuple[int, int]) -> dict[str, int]:
    """Add trouble to one visit's folder; counts of what was added.

    Broken: ``empty.dcm`` (0 bytes), ``truncated.jpg`` (a JPEG cut at 60 %), ``truncated.dcm`` (cut within its pixels), ``notes.txt``
    (no image), ``chest.dcm`` (a CT slice). Duplicates: ``photo_copy.dcm`` and ``photo_resent.dcm``, a byte copy and a
    re-encoded copy (same SOP Instance UID) of ``photo_extra.dcm``. Readable, though odd: ``photo_extra.dcm`` with ``<script>`` in its
    tags, and a PNG whose name holds a line feed.
    """
    eye: Laterality = "R"
    extra = draw_fundus(eye_seed, eye, shape, visit=8)
    marked = photograph(extra.image, visit, eye, extra.spacing_mm, 11, "explicit")
    marked.StudyDescription = marked.SeriesDescription = marked.ImageComments = marked.ManufacturerModelName = _SCRIPT
    write_dicom(marked, folder / "photo_extra.dcm")
    shutil.copyfile(folder / "photo_extra.dcm", folder / "photo_copy.dcm")
    write_dicom(photograph(extra.image, visit, eye, extra.spacing_mm, 11, "rle"), folder / "photo_resent.dcm")
    write_png(folder / "OD_photo\nretake.png", draw_fundus(eye_seed, eye, shape, visit=9).image)

    (folder / "empty.dcm").write_bytes(b"")
    (folder / "notes.txt").write_text("Seen today. Photographs of both eyes.\n", encoding="utf-8")
    jpeg = _jpeg(extra.image)
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) * 6 // 10])
    whole = io.BytesIO()
    photograph(extra.image, visit, eye, extra.spacing_mm, 12, "explicit").save_as(whole, enforce_file_format=True)
    (folder / "truncated.dcm").write_bytes(whole.getvalue()[: whole.tell() // 2])
    write_dicom(_chest(visit), folder / "chest.dcm")
    return {"photographs": 2, "broken": 5, "duplicates": 2}


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, format="JPEG", quality=90)
    return out.getvalue()


def _chest(visit: VisitRecord) -> Dataset:
    """A CT slice of nothing, filed under an eye clinic's patient by mistake."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = make_uid(*visit.key, "CT", 1)
    dataset.PatientName, dataset.PatientID = visit.patient_name, visit.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = visit.birth_date, visit.sex
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = make_uid(*visit.key, "CT", "study"), make_uid(*visit.key, "CT", "series")
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = visit.date, visit.time, "", "2"
    dataset.ReferringPhysicianName, dataset.Manufacturer, dataset.FrameOfReferenceUID = "", "ocuseg", make_uid(*visit.key, "CT", "frame")
    dataset.PositionReferenceIndicator, dataset.PatientPosition = "", "HFS"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = "CT", 1, 1, 1
    dataset.ImageType, dataset.BodyPartExamined, dataset.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CHEST", "120"
    dataset.PixelSpacing, dataset.SliceThickness = ["1", "1"], "5"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 64, 80, 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleIntercept, dataset.RescaleSlope = "-1024", "1"
    dataset.PixelData = (np.add.outer(np.arange(64), np.arange(80)) * 10).astype("<u2").tobytes()
    return dataset
