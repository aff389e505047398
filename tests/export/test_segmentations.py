"""Segmentations: every pixel of every class comes back, they belong to the hospital's own picture, and dciodvfy has no complaint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from pipeline.export.case import Settings
from pipeline.export.formats.sc import secondary_capture
from pipeline.export.formats.seg import segmentation
from pipeline.export.run import Predictions
from pipeline.reports.results import read_case, read_run
from pipeline.scans.open import open_scan
from pipeline.scans.segmentation import read_segmentation
from tests.dicom_validity import errors
from tests.export.conftest import Site

SHORTS = ("colour", "grey", "frames", "volume", "picture")


def masks_of(site: Site, short: str) -> tuple[np.ndarray, Any]:
    """bool (K, planes, H, W) as predicted, and the label map."""
    case = read_case(site.predictions / "cases" / site.cases[short])
    label_map = read_run(site.predictions).of(case).label_map
    return np.stack([label_map.layers(case.mask(plane)) for plane in case.planes], axis=1), label_map


def files(exported: Path, site: Site, short: str) -> list[Path]:
    return sorted((exported / site.cases[short]).glob("seg*.dcm"))


def picture(exported: Path, site: Site, short: str) -> Path:
    return exported / site.cases[short] / "image.dcm" if short == "picture" else site.files[short]


@pytest.mark.parametrize("short", SHORTS)
def test_our_reader_gets_every_pixel_back(short: str, exported: Path, site: Site) -> None:
    wanted, label_map = masks_of(site, short)
    scan = open_scan(picture(exported, site, short))
    found = np.zeros_like(wanted)
    for file in files(exported, site, short):
        segments = read_segmentation(file, scan.geometry, scan.sop_instance_uid)
        assert [segment.label for segment in segments] == list(label_map.names)
        for segment in segments:
            for at, plane in segment.planes.items():
                found[segment.number - 1, at] |= plane
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("short", SHORTS)
def test_highdicom_gets_every_pixel_back(short: str, exported: Path, site: Site) -> None:
    import highdicom as hd

    wanted, _ = masks_of(site, short)
    uid = str(pydicom.dcmread(picture(exported, site, short), stop_before_pixels=True).SOPInstanceUID)
    parts = []
    for at, file in enumerate(files(exported, site, short)):
        dataset = pydicom.dcmread(file)
        measures = dataset.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
        if short != "volume" and measures:
            measures[0].SliceThickness = None  # highdicom refuses to read what a photograph has not, also what it wrote itself
        read = hd.seg.Segmentation.from_dataset(dataset)
        if short == "volume":
            parts.append(read.get_pixels_by_source_frame(uid, [1, 2, 3], assert_missing_frames_are_empty=True))
        elif short == "frames":
            parts.append(read.get_pixels_by_source_frame(uid, [at + 1]))
        else:
            parts.append(read.get_pixels_by_source_instance([uid]))
        read._db_con.close()
    np.testing.assert_array_equal(np.moveaxis(np.concatenate(parts), -1, 0).astype(bool), wanted)


@pytest.mark.parametrize("short", SHORTS)
def test_no_complaint_of_dciodvfy(short: str, exported: Path, site: Site) -> None:
    for file in files(exported, site, short):
        assert errors(file, "Segmentation") == []
    overlay = exported / site.cases[short] / "overlay.dcm"
    assert errors(overlay, "SCImage") == []
    if short == "picture":
        assert errors(picture(exported, site, short), "OphthalmicPhotography8BitImage") == []


@pytest.mark.parametrize("short", ["colour", "grey", "frames", "volume"])
def test_objects_belong_to_the_patient_and_study_of_the_original(short: str, exported: Path, site: Site) -> None:
    source = site.header(short)
    for file in (exported / site.cases[short]).glob("*.dcm"):
        made = pydicom.dcmread(file)
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyInstanceUID",
            "StudyDate",
            "StudyTime",
            "StudyID",
        ):
            assert made[keyword].value == source[keyword].value, keyword
        assert made.SeriesInstanceUID != source.SeriesInstanceUID
        assert (made.ImageLaterality, made.Manufacturer) == ("L" if short == "grey" else "R", "ocuseg")
        assert made.SeriesDescription.endswith("Research use, not for diagnosis")
        first = made.SourceImageSequence[0]
        assert (first.ReferencedSOPClassUID, first.ReferencedSOPInstanceUID) == (source.SOPClassUID, source.SOPInstanceUID)


def test_a_segment_says_what_it_is_and_what_found_it(exported: Path, site: Site) -> None:
    disc, cup = pydicom.dcmread(files(exported, site, "colour")[0]).SegmentSequence
    assert disc.SegmentedPropertyTypeCodeSequence[0].CodeValue == "81016008"
    own = cup.SegmentedPropertyTypeCodeSequence[0]
    assert (own.CodeValue, own.CodingSchemeDesignator, own.CodeMeaning) == ("CUP", "99OCUSEG", "cup (ocuseg's own code)")
    assert cup.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert cup.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = cup.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("ocuseg disc_little", "0123456789ab")


def test_frames_of_a_photograph_are_named(exported: Path, site: Site) -> None:
    for number, file in enumerate(files(exported, site, "frames"), 1):
        for group in pydicom.dcmread(file).PerFrameFunctionalGroupsSequence:
            assert group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == number


def test_a_picture_without_dicom_goes_under_its_pseudonym(exported: Path, site: Site) -> None:
    image = pydicom.dcmread(picture(exported, site, "picture"))
    made = pydicom.dcmread(files(exported, site, "picture")[0])
    assert (image.PatientID, image.PatientIdentityRemoved) == ("a" * 16, "YES")
    assert made.StudyInstanceUID == image.StudyInstanceUID
    assert image.pixel_array.shape == (60, 84, 3)
    np.testing.assert_array_equal(np.moveaxis(open_scan(site.files["picture"]).pixels, 0, -1), image.pixel_array)


def test_the_overlay_has_eye_and_notice_in_the_picture(exported: Path, site: Site) -> None:
    made = pydicom.dcmread(exported / site.cases["colour"] / "overlay.dcm")
    case = read_case(site.predictions / "cases" / site.cases["colour"])
    apart = (made.pixel_array != case.image(case.planes[0])).any(axis=-1)
    assert made.BurnedInAnnotation == "YES"
    assert apart[:10, :40].mean() > 0.9  # the eye
    assert apart[-8:, :40].mean() > 0.9  # the notice
    assert apart[12:45, 34:66].any()
    assert not apart[20:40, :30].any()


def test_an_eye_that_a_network_found_is_in_words_and_in_no_attribute(site: Site) -> None:
    case = Predictions(site.predictions, Settings(("sc",))).case(site.cases["picture"])
    known = replace(case.case.geometry, laterality="L", laterality_source="picture")
    found = replace(case, case=replace(case.case, geometry=known))
    made = secondary_capture(found, Settings(("sc",)))
    assert (found.eye, found.eye_words) == (None, "left eye (from the picture)")
    assert "ImageLaterality" not in made
    assert "AnatomicRegionModifierSequence" not in made.get("AnatomicRegionSequence", [made])[0]
    marked = segmentation(found, Settings(("seg",)), 0)
    assert "ImageLaterality" not in marked
    assert "left eye (from the picture)" in marked.ContentDescription
    assert marked.ContentDescription.endswith("not for diagnosis")
    assert not any("SegmentedPropertyTypeModifierCodeSequence" in one for one in marked.SegmentSequence)
    reviewed = replace(case, case=replace(case.case, geometry=replace(known, laterality_source="reviewer")))
    assert secondary_capture(reviewed, Settings(("sc",))).ImageLaterality == "L"


def test_exporting_twice_gives_the_same_bytes_and_writes_nothing_anew(site: Site, exported: Path, tmp_path: Path) -> None:
    predictions = Predictions(site.predictions, Settings(("seg", "sc")))
    predictions.find_originals(site.scans, None)
    case = site.cases["colour"]
    again = predictions.export(case, tmp_path)
    assert {path.name for path in again.files} == {"seg.dcm", "overlay.dcm"}
    for path in again.files:
        assert path.read_bytes() == (exported / case / path.name).read_bytes()
    assert predictions.export(case, tmp_path).new == 0
    (tmp_path / case / "seg.dcm").unlink()
    assert predictions.export(case, tmp_path).new == 1
