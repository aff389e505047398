"""One file becomes one without whose it is, or a ScanError says why it cannot.

Whatever was cleaned is checked before it is handed out: it reads as the same pixels, and nowhere holds the names that were removed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from pipeline.deidentify.burned_in import Box, blacken, find_text
from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.dates import shifted_date
from pipeline.deidentify.dicom import clean_dicom, encoded, is_segmentation
from pipeline.deidentify.dicom_pixels import blacken_dicom, stored_frames
from pipeline.deidentify.pictures import clean_picture, encode_plain
from pipeline.deidentify.profile import Rules
from pipeline.deidentify.volumes import clean_nifti, clean_vol, clean_volume_file, laser_picture
from pipeline.deidentify.words import names_in
from pipeline.errors import ScanError
from pipeline.scans.dicom import read_dataset
from pipeline.scans.eyes import laterality_from_name
from pipeline.scans.files import Format, decoding, open_regular, sniff_file
from pipeline.scans.identity import NO_VISIT, Identity, Pseudonyms, identify, stated_patient
from pipeline.scans.open import decode_scan, identity_by_tags
from pipeline.scans.place import laterality_from_place
from pipeline.scans.quiet import quiet
from pipeline.scans.raster import RASTER_FORMATS, read_pages
from pipeline.types import Scan

BurnedIn = Literal["refuse", "report", "black"]
_EYES = {"R": "_OD", "L": "_OS", "U": ""}
_NO_HASH = 64 * "0"
_LOOKED_FOR = 6  # bytes: fewer occur by chance in coded pixels
_REFUSED = {
    "heidelberg_sdb": "Heidelberg .sdb files",
    "topcon_fda": "Topcon .fda / .fds files",
}
_VOLUMES = ("nifti", "metaimage", "nrrd", "heidelberg_e2e", "heidelberg_xml")
_LINES = "the lines that the device drew are left out"


@dataclass(frozen=True)
class Job:
    """How files are cleaned; ``burned_in``: what happens to a file in whose pixels text is found."""

    rules: Rules
    names: Pseudonyms
    root: Path
    burned_in: BurnedIn
    max_pixels: int


def clean_file(path: Path, job: Job) -> tuple[Cleaned, Identity]:
    """The file without whose it is, and whose it is.

    Raises
    ------
    ScanError: it is no picture of an eye that can be read, or it cannot be cleaned.
    """
    with open_regular(path) as file:
        kind = sniff_file(file)
        if kind in _REFUSED:
            raise ScanError(
                "unsupported", f"{_REFUSED[kind]} are not cleaned, as they may name the person anywhere; export as DICOM or .vol"
            )
        scan = _scan(file, kind, path, job)
        whose = _whose(scan, file, kind, path, job)
        cleaned = _cleaned(file, kind, scan, whose, job)
    needles = cleaned.needles | _named_by_place(whose)
    check_unnamed(cleaned, needles)
    return replace(cleaned, needles=needles), whose


def _scan(file: BinaryIO, kind: Format | None, path: Path, job: Job) -> Scan | None:
    """The Scan in the file; None for a DICOM segmentation, which is none but can be cleaned."""
    try:
        return decode_scan(file, kind, path, _NO_HASH, job.names, job.root, job.max_pixels)
    except ScanError as error:
        if error.code in ("not_a_scan", "no_pixels") and kind == "dicom":
            return None  # cleaned, or refused by name, by what reads DICOM
        raise


def _whose(scan: Scan | None, file: BinaryIO, kind: Format | None, path: Path, job: Job) -> Identity:
    if scan is not None:
        by_tags = identity_by_tags(path, job.names, job.root)
        return by_tags or identify(job.names, path, job.root, laterality_from_place(path, job.root))
    with quiet(), decoding("the DICOM file"):
        dataset = read_dataset(file, job.max_pixels)
        return identify(
            job.names,
            path,
            job.root,
            None,
            patient=stated_patient(str(dataset.get("PatientID", ""))),
            visit=str(dataset.get("StudyDate") or dataset.get("StudyInstanceUID", "")),
            image=str(dataset.get("SOPInstanceUID", "")),
        )


def _cleaned(file: BinaryIO, kind: Format | None, scan: Scan | None, whose: Identity, job: Job) -> Cleaned:
    patient = whose.case.patient
    if kind == "dicom":
        return _clean_dicom(file, scan, patient, job)
    assert scan is not None
    if kind == "heidelberg_vol":
        return _clean_vol(file, scan, patient, job)
    boxes = _text_in(_frames(scan), job)
    blackened = any(boxes) and job.burned_in == "black"
    if kind is None or kind in _VOLUMES:  # None: a raw volume of stated size
        if blackened:
            raise ScanError("burned_in", "text seems to be burned into this volume, where it is not blackened; --burned-in report keeps it")
        return _noted(_clean_volume(file, kind, scan, job), boxes)
    assert kind in RASTER_FORMATS
    pages = read_pages(file, kind, job.max_pixels, [])
    if not blackened:
        return _noted(_same(clean_picture(file, kind, pages), scan, None, job), boxes)
    if len(pages) > 1:
        raise ScanError("burned_in", "text seems to be burned into a picture of several pages, where it is not blackened")
    array = np.array(pages[0])
    blacken(array[None], boxes)
    return _noted(encode_plain([array], kind), boxes)


def _clean_volume(file: BinaryIO, kind: Format | None, scan: Scan, job: Job) -> Cleaned:
    if kind == "nifti":
        return _same(clean_nifti(file), scan, kind, job)
    vendors = (_LINES, *scan.warnings) if kind in ("heidelberg_e2e", "heidelberg_xml") else ()
    return _same(clean_volume_file(scan, vendors), scan, "nifti", job)


def _clean_vol(file: BinaryIO, scan: Scan, patient: str, job: Job) -> Cleaned:
    """Text is looked for in the scanning laser's picture, too."""
    frames = _frames(scan)
    boxes = _text_in([*frames, laser_picture(file, job.max_pixels)], job)
    blackened = any(boxes) and job.burned_in == "black"
    cleaned = clean_vol(file, job.rules, patient, job.names.shift(patient), job.max_pixels, boxes if blackened else ())
    names = [*(f"frame {number + 1}" for number in range(len(frames))), "the scanning laser's picture"]
    return _noted(cleaned if blackened else _same(cleaned, scan, "heidelberg_vol", job), boxes, names)


def _clean_dicom(file: BinaryIO, scan: Scan | None, patient: str, job: Job) -> Cleaned:
    cleaned, dataset = clean_dicom(file, job.rules, job.names, patient, job.max_pixels)
    if scan is None:
        if not is_segmentation(dataset):
            raise ScanError("not_a_picture", "this DICOM object shows no eye that can be read")
        return cleaned
    boxes = _text_in_dicom(scan, dataset, job)
    stated = str(dataset.get("BurnedInAnnotation", "")).upper() == "YES"
    if stated and not any(boxes) and job.burned_in != "report":
        raise ScanError("burned_in", "the file says that text is burned into its picture, and none was found to blacken; look at it")
    _same(cleaned, scan, "dicom", job)
    if any(boxes) and job.burned_in == "black":
        with quiet(), decoding("the DICOM file"):
            blacken_dicom(dataset, boxes)
            return _noted(replace(cleaned, content=encoded(dataset)), boxes)
    return _noted(cleaned, boxes)


def _text_in_dicom(scan: Scan, dataset: Any, job: Job) -> list[list[Box]]:
    """Boxes around text in each frame, as it is shown and, where a window or a table changes grey values, as it is stored: a program with
    another window shows what this one hides."""
    boxes = _text_in(_frames(scan), job)
    if len(scan.pixels) > 1:
        return boxes
    with quiet(), decoding("the DICOM file"):
        _, stored = stored_frames(dataset)
        stored = stored.reshape(-1, *scan.geometry.plane)
    if np.array_equal(stored, scan.pixels.reshape(stored.shape)):
        return boxes
    return [list(dict.fromkeys((*shown, *hidden))) for shown, hidden in zip(boxes, _text_in(list(stored), job), strict=True)]


def _frames(scan: Scan) -> list[npt.NDArray[Any]]:
    """Each picture of a scan, (H, W, C)."""
    pixels = scan.pixels if scan.pixels.ndim == 4 else scan.pixels[:, None]
    return [np.moveaxis(pixels[:, index], 0, -1) for index in range(pixels.shape[1])]


def _text_in(pictures: Sequence[npt.NDArray[Any]], job: Job) -> list[list[Box]]:
    """Boxes around text in each picture; refuses the file at the first one if that is what the job says."""
    boxes = []
    for picture in pictures:
        boxes.append(find_text(picture))
        if boxes[-1] and job.burned_in == "refuse":
            raise ScanError(
                "burned_in",
                "text seems to be burned into the picture; --burned-in black blackens it, --burned-in report leaves it and says where",
            )
    return boxes


def _noted(cleaned: Cleaned, boxes: Sequence[Sequence[Box]], names: Sequence[str] | None = None) -> Cleaned:
    """With where text was found; ``names`` of the pictures, by default their numbers."""
    names = names or [f"frame {number + 1}" for number in range(len(boxes))]
    found = [f"{name}: {box.left},{box.top} to {box.right},{box.bottom}" for name, some in zip(names, boxes, strict=True) for box in some]
    if not found:
        return cleaned
    return replace(cleaned, notes=(*cleaned.notes, f"text burned in ({'; '.join(found)})"))


def _same(cleaned: Cleaned, scan: Scan, kind: Format | None, job: Job) -> Cleaned:
    """``cleaned``, once it has been read back as the same pixels."""
    file = io.BytesIO(cleaned.content)
    kind = kind or sniff_file(file)
    again = decode_scan(file, kind, Path(f"x{cleaned.suffix}"), _NO_HASH, job.names, None, job.max_pixels)
    if again.pixels.dtype != scan.pixels.dtype or not np.array_equal(again.pixels, scan.pixels):
        raise ScanError("altered", "without its words the file would show other pixels; export it in another format")
    return cleaned


def name_of(whose: Identity, suffix: str, job: Job) -> str:
    """Where a file goes below OUT: folders of patient and visit, and a name that states the eye."""
    case = whose.case
    moved = shifted_date(whose.visit, job.names.shift(case.patient)) if job.rules.dates == "shift" else ""
    dated = whose.visit if job.rules.dates == "keep" and shifted_date(whose.visit, 0) else moved
    visit = "" if case.visit == NO_VISIT else f"{dated or case.visit}/"
    stem = case.image
    while laterality_from_name(f"{stem}{_EYES[case.eye]}")[0] != (None if case.eye == "U" else case.eye):
        stem += "x"  # a token may end like a word for an eye
    return f"{case.patient}/{visit}{stem}{_EYES[case.eye]}{suffix}"


def _named_by_place(whose: Identity) -> frozenset[str]:
    return frozenset(names_in(whose.patient.rsplit(".", 1)[0]) | names_in(whose.patient))


def check_unnamed(cleaned: Cleaned, needles: frozenset[str]) -> None:
    """Refuse a file in which a name or number that was removed is still written.

    Raises
    ------
    ScanError: ``still_named``.
    """
    content = cleaned.searched.lower()
    for needle in needles:
        spelt = (needle, needle.upper())  # bytes.lower() leaves "\u00dc" as it is
        written = [one.encode(code, "ignore").lower() for one in spelt for code in ("utf-8", "utf-16-le", "latin-1")]
        if any(len(one) >= _LOOKED_FOR and one in content for one in written):
            raise ScanError("still_named", "what names the person is still somewhere in the cleaned file: it is not written")


__all__ = ["BurnedIn", "Job", "check_unnamed", "clean_file", "name_of"]
