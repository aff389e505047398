"""DICOM by PS3.15: an identity in every attribute of the table, at every depth, and what the options keep."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset

from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.file import Job, clean_file
from pipeline.deidentify.profile import OPTIONS, Rules, table
from pipeline.errors import ConfigError, ScanError
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import open_scan
from pipeline.scans.quiet import quiet
from tests.scans.make import OP_8_BIT, dicom, encapsulated, item, jpeg, photograph, ramp, saved, sequence

NAMES = Pseudonyms(b"a key of sixteen")
WHO = "Quagmire"
BORN_NUMBER = 4711
_BY_KIND: dict[str, Any] = {
    **dict.fromkeys(("LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "AE"), WHO),
    "CS": WHO.upper(),
    **dict.fromkeys(("OB", "UN", "OW"), WHO.encode()),
    **dict.fromkeys(("DS", "IS"), str(BORN_NUMBER)),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "UL", "US"), BORN_NUMBER),
    "AS": "047Y",
    "DA": "19540302",
    "DT": "19540302143055.5+0200",
    "TM": "143055.471",
    "UI": f"1.2.3.{BORN_NUMBER}",
}
LEFT_OUT = {"00020003", "00041511", "FFFCFFFC"}  # file meta, directories, trailing padding


def job(folder: Path, *options: str, burned_in: Any = "report") -> Job:
    return Job(Rules.of("basic", options), NAMES, folder, burned_in, 10**7)


def cleaned(dataset: Dataset, folder: Path, *options: str) -> tuple[Cleaned, Dataset]:
    out, _ = clean_file(saved(dataset, folder / "scan.dcm"), job(folder, *options))
    return out, pydicom.dcmread(io.BytesIO(out.content))


def planted() -> Dataset:
    """Every attribute of the table that pydicom can write, with the identity in it."""
    out = Dataset()
    for tag, row in table().items():
        number = int(tag, 16) if "x" not in tag else int(tag.replace("xx", "02", 1).replace("xxxx", "0010"), 16)
        if tag in LEFT_OUT or row.keyword == "ContentSequence" or number >> 16 in (0x0000, 0x0400):
            continue
        kind = dictionary_VR(number) if dictionary_has_tag(number) else "LO"
        kind = kind.split(" or ")[0]
        if kind == "SQ":
            out.add_new(number, "SQ", [item(PatientComments=WHO, CodeMeaning=WHO, StudyDate="19540302")])
        else:
            out.add_new(number, kind, _BY_KIND[kind])
    return out


def test_nothing_of_the_whole_table_remains_at_any_depth(tmp_path: Path) -> None:
    dataset = dicom(photograph(24, 36), PatientID="MRN-0042", PatientName="Quagmire^Zebulon", StudyDate="20240301")
    inner = planted()
    inner.AnatomicRegionSequence = sequence(planted())
    for element in [*planted(), *Dataset()]:
        if element.keyword not in ("PatientID", "StudyDate", "SOPInstanceUID", "EncapsulatedDocument"):
            dataset.add(element)
    for sub in (inner, inner.AnatomicRegionSequence[0], dataset):
        if "EncapsulatedDocument" in sub:
            del sub.EncapsulatedDocument
    dataset.AnatomicRegionSequence = sequence(inner)
    block = dataset.private_block(0x0011, WHO, create=True)
    block.add_new(1, "LO", WHO)
    dataset.add_new(0x60020010, "US", 8)
    for number in (0x60020022, 0x60021500):  # an overlay's description and label, which the table does not name
        dataset.add_new(number, "LO", "ward 7, the third bed")
    dataset.LensMake = f"lens of {WHO}"  # a text that the table does not name
    out, again = cleaned(dataset, tmp_path)
    assert len(table()) == 655
    for told in (WHO, WHO.lower(), "MRN-0042", "zebulon", "19540302", "047Y", f"1.2.3.{BORN_NUMBER}"):
        assert told.encode() not in out.content
        assert told.encode() not in out.content.lower()
    assert again.PatientIdentityRemoved == "YES"
    assert again.PatientID == again.PatientName == NAMES.patient("MRN-0042")
    assert not any(element.tag.is_private for element in again.iterall())
    assert not any(element.tag.group == 0x6002 for element in again.iterall())
    assert [code.CodeValue for code in again.DeidentificationMethodCodeSequence] == ["113100"]
    assert again.LongitudinalTemporalInformationModified == "REMOVED"
    np.testing.assert_array_equal(open_scan(saved(again, tmp_path / "again.dcm")).pixels, np.moveaxis(photograph(24, 36), 2, 0))


def test_uids_stay_consistent_and_dates_keep_their_distance(tmp_path: Path) -> None:
    found = []
    for day, number in (("20240301", 1), ("20240131", 2)):
        dataset = dicom(ramp(9, 12), PatientID="MRN-0042", StudyDate=day, SeriesDate=day, ContentTime="101500")
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.4", f"1.2.3.4.{number}"
        dataset.AcquisitionDateTime = f"{day}101500.25+0100"
        dataset.ReferencedImageSequence = sequence(item(ReferencedSOPClassUID=OP_8_BIT, ReferencedSOPInstanceUID="1.2.3.4.2"))
        dataset.SourceImageSequence = sequence(item(ReferencedSOPClassUID=OP_8_BIT, ReferencedSOPInstanceUID=dataset.SOPInstanceUID))
        found.append(cleaned(dataset, tmp_path, "retain-longitudinal-modified")[1])
    first, second = found
    assert first.StudyInstanceUID == second.StudyInstanceUID == NAMES.uid("1.2.3.4")
    assert first.ReferencedImageSequence[0].ReferencedSOPInstanceUID == second.SeriesInstanceUID
    assert first.ReferencedImageSequence[0].ReferencedSOPClassUID == OP_8_BIT
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID
    days = [np.datetime64(f"{one.StudyDate[:4]}-{one.StudyDate[4:6]}-{one.StudyDate[6:]}") for one in found]
    assert (days[0] - days[1]).astype(int) == 30
    assert first.StudyDate not in ("20240301", "")
    assert first.AcquisitionDateTime == f"{first.StudyDate}101500.25"
    assert first.ContentTime == "101500"
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"


def test_options_keep_what_they_name(tmp_path: Path) -> None:
    dataset = dicom(ramp(9, 12), PatientID="MRN-0042", PatientAge="093Y", PatientSex="F", DeviceSerialNumber="SN-77", StationName="ROOM2")
    dataset.InstitutionName, dataset.StudyDate = "Eye Clinic", "20240301"
    dataset.SeriesDescription = "Macula cube 512x128 of Mr. Meier"
    _, bare = cleaned(dataset, tmp_path)
    assert not {"PatientAge", "StationName", "InstitutionName", "SeriesDescription"} & set(bare.dir())
    assert bare.DeviceSerialNumber not in ("SN-77", "")
    assert (bare.StudyDate, bare.PatientSex) == ("", "")
    kept = [option for option in OPTIONS if option not in ("retain-longitudinal-modified", "clean-pixels")]
    _, full = cleaned(dataset, tmp_path, *kept)
    assert (full.PatientAge, full.PatientSex, full.DeviceSerialNumber) == ("090Y", "F", "SN-77")
    assert (full.InstitutionName, full.StationName, full.StudyDate) == ("Eye Clinic", "ROOM2", "20240301")
    assert full.SeriesDescription == "Macula cube 512x128 of".replace(" of", "")
    assert full.StudyInstanceUID == dataset.StudyInstanceUID
    assert len(full.DeidentificationMethodCodeSequence) == 1 + len(kept)


@pytest.mark.parametrize(("age", "kept"), [("093Y", "090Y"), ("9Y", "9Y"), ("89Y", "89Y"), ("101Y", "090Y"), ("008M", "008M")])
def test_only_the_very_old_count_as_ninety(age: str, kept: str, tmp_path: Path) -> None:
    with quiet():  # not all of them are ages as DICOM writes them
        _, again = cleaned(dicom(ramp(9, 12), PatientID="MRN-0042", PatientAge=age), tmp_path, "retain-patient-characteristics")
        assert again.PatientAge == kept


def test_a_picture_behind_the_last_frame_goes(tmp_path: Path) -> None:
    streams = [jpeg(photograph(24, 40)), jpeg(photograph(24, 40)[::-1])]
    dataset = encapsulated(dicom(photograph(24, 40), PatientID="MRN-0042"), "1.2.840.10008.1.2.4.50", streams)
    dataset.PhotometricInterpretation, dataset.NumberOfFrames = "YBR_FULL_422", 1
    out, again = cleaned(dataset, tmp_path)
    assert "frames behind the last" in out.removed or "what follows the picture (in the pixels)" in out.removed
    assert again.PixelData.count(b"\xff\xd8\xff") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["clean-graphics"], "not carried out"),
        (["retain-everything"], "no such option"),
        (["retain-longitudinal-full", "retain-longitudinal-modified"], "contradict"),
    ],
)
def test_an_option_that_cannot_be_is_said(options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Rules.of("basic", options)


def test_words_between_the_pixels_go_and_the_pixels_stay(tmp_path: Path) -> None:
    stream = jpeg(photograph(24, 40), quality=90, comment=WHO.encode(), exif=b"Exif\0\0" + WHO.encode())
    dataset = encapsulated(dicom(photograph(24, 40), PatientID="MRN-0042"), "1.2.840.10008.1.2.4.50", [stream + WHO.encode()])
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    before = open_scan(saved(dataset, tmp_path / "before.dcm")).pixels
    out, again = cleaned(dataset, tmp_path)
    assert WHO.encode() not in out.content
    assert {"comment (in the pixels)", "EXIF or XMP (in the pixels)"} <= set(out.removed)
    np.testing.assert_array_equal(open_scan(saved(again, tmp_path / "again.dcm")).pixels, before)
    overlay = dicom(ramp(9, 12, "uint16"), BitsStored=12, HighBit=11)
    overlay.PixelData = (np.frombuffer(overlay.PixelData, "<u2") | 0x8000).astype("<u2").tobytes() + WHO.encode()
    out, again = cleaned(overlay, tmp_path)
    assert {"overlay in unused bits", "bytes behind the pixels"} <= set(out.removed)
    assert np.frombuffer(again.PixelData, "<u2").max() < 0x1000


def test_text_that_the_header_s_window_hides_is_found(tmp_path: Path) -> None:
    image = Image.new("L", (220, 60))
    ImageDraw.Draw(image).text((20, 20), "MEIER-4711 F", fill=255, font=ImageFont.load_default(20))
    ink = np.asarray(image) > 127
    picture = np.where(np.arange(60)[:, None] < 50, 30_000, 0) + np.zeros((60, 220), int)
    picture[ink] = 60_000
    file = saved(dicom(picture.astype(np.uint16), WindowCenter="1000", WindowWidth="2000"), tmp_path / "scan.dcm")
    assert len(np.unique(open_scan(file).pixels[0, :50])) == 1
    with pytest.raises(ScanError, match="burned into"):
        clean_file(file, job(tmp_path, burned_in="refuse"))
    out, _ = clean_file(file, job(tmp_path, burned_in="black"))
    again = pydicom.dcmread(io.BytesIO(out.content)).pixel_array
    assert not again[ink].any()
    assert (again == picture).mean() > 0.3


def test_what_holds_words_throughout_is_refused_by_name(tmp_path: Path) -> None:
    document = dicom(ramp(4, 4), sop_class="1.2.840.10008.5.1.4.1.1.104.1", EncapsulatedDocument=b"%PDF", PixelData=None, Rows=None)
    with pytest.raises(ScanError, match="Encapsulated PDF"):
        cleaned(document, tmp_path)
