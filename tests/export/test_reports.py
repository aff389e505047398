"""Reports of measurements, encapsulated PDFs and plain files: what the case page says, and nothing that it withholds."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.export.case import Settings
from pipeline.export.exporter import EXPORTERS, LeftOut
from pipeline.export.formats.sc import overlay
from pipeline.export.run import Predictions
from pipeline.reports.measures import with_unit
from pipeline.reports.results import read_case
from pipeline.review.corrected import Reviewed
from pipeline.review.corrections import CorrectedObject, Correction, CorrectionRecord, model_sha256, write_correction
from pipeline.review.log import AuditLog, Event
from pipeline.review.state import states
from pipeline.scans.raster import read_image
from tests.dicom_validity import errors
from tests.export.conftest import Site, build_site, disc_and_cup
from tests.reports.conftest import LESIONS, Out


def export(site: Site, out: Path, formats: str, short: str = "colour", **settings: Any) -> Any:
    predictions = Predictions(site.predictions, Settings(tuple(formats.split(",")), **settings))
    predictions.find_originals(site.scans, None)
    return predictions.export(site.cases[short], out)


def tree(item: Any) -> list[Any]:
    """Every content item below."""
    return [item, *(below for one in item.get("ContentSequence", ()) for below in tree(one))]


def meaning(item: Any) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def numbers(report: Any) -> dict[str, Any]:
    """The items with a number that are no bounds of another one, by name."""
    found = [one for one in tree(report) if one.get("ValueType") == "NUM" and "uncertainty" not in meaning(one)]
    return {meaning(one): one for one in found}


def texts(report: Any) -> list[str]:
    return [str(one.TextValue) for one in tree(report) if one.get("ValueType") == "TEXT"]


@pytest.fixture(scope="session")
def reported(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports")
    export(site, out, "seg,sr")
    return out / site.cases["colour"]


def test_the_numbers_are_those_of_the_case_page(reported: Path, site: Site) -> None:
    report = pydicom.dcmread(reported / "measurements.dcm")
    (known,) = read_case(site.predictions / "cases" / site.cases["colour"]).record.measures
    (found,) = numbers(report).values()
    value = found.MeasuredValueSequence[0]
    assert meaning(found) == known.title
    assert known.value is not None
    assert with_unit(float(value.NumericValue), known.unit) == with_unit(known.value, known.unit)
    unit = value.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("1", "UCUM")
    bounds = [float(one.MeasuredValueSequence[0].NumericValue) for one in found.ContentSequence if one.ValueType == "NUM"]
    assert bounds == pytest.approx([0.05, 0.04])
    assert f"Definition: {known.definition}" in texts(found)
    assert any("over two flips" in text for text in texts(found))


def test_a_report_says_the_eye_the_state_and_the_notice_and_names_its_picture(reported: Path, site: Site) -> None:
    report = pydicom.dcmread(reported / "measurements.dcm")
    assert (report.VerificationFlag, report.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    assert "Research use, not for diagnosis" in texts(report)
    sides = {
        one.ConceptCodeSequence[0].CodeMeaning for one in tree(report) if one.get("ValueType") == "CODE" and meaning(one) == "Laterality"
    }
    assert sides == {"Right"}
    named = {str(one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for one in tree(report) if one.get("ValueType") == "IMAGE"}
    assert str(site.header("colour").SOPInstanceUID) in named
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == site.header("colour").StudyInstanceUID
    assert errors(reported / "measurements.dcm", "ComprehensiveSR") == []


def changed(site: Site, tmp_path: Path, **record: Any) -> Site:
    """A copy of the site with other fields in the record of the colour photograph."""
    shutil.copytree(site.predictions, tmp_path / "copy")
    out = replace(site, predictions=tmp_path / "copy")
    file = out.predictions / "cases" / site.cases["colour"] / "case.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | record))
    return out


def test_a_withheld_number_is_not_in_the_report_and_its_reason_is(site: Site, tmp_path: Path) -> None:
    flag = {"code": "disc_shape", "text": "The disc has no disc's shape.", "withholds": True, "classes": ["disc"]}
    export(changed(site, tmp_path, flags=[flag]), tmp_path / "out", "sr")
    report = pydicom.dcmread(tmp_path / "out" / site.cases["colour"] / "measurements.dcm")
    assert numbers(report) == {}
    assert "vertical cup-to-disc ratio: no number, The disc has no disc's shape." in texts(report)


def test_what_is_not_measurable_has_neither_segmentation_nor_numbers(site: Site, tmp_path: Path) -> None:
    other = changed(site, tmp_path, quality={"grade": "not_measurable", "reasons": ["It is black."]})
    done = export(other, tmp_path / "out", "seg,sr")
    assert [path.name for path in done.files] == ["measurements.dcm"]
    assert done.notes == ("seg: not exported, the picture is not measurable",)
    report = pydicom.dcmread(done.files[0])
    assert numbers(report) == {}
    assert any("It is black." in text for text in texts(report))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # WeasyPrint's
def test_the_pdf_is_the_case_s_report_in_its_study(site: Site, tmp_path: Path) -> None:
    done = export(site, tmp_path, "pdf")
    made = pydicom.dcmread(done.files[0])
    assert made.EncapsulatedDocument[: made.EncapsulatedDocumentLength].startswith(b"%PDF-")
    assert (made.StudyInstanceUID, made.Laterality) == (site.header("colour").StudyInstanceUID, "R")
    assert made.SourceInstanceSequence[0].ReferencedSOPInstanceUID == site.header("colour").SOPInstanceUID
    assert made.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert errors(done.files[0], "EncapsulatedPDF") == []
    settings = Settings(("pdf",))
    beside = changed(site, tmp_path, measures=[])
    before, after = (Predictions(of.predictions, settings).case(site.cases["grey"]) for of in (site, beside))
    assert before.state(settings, "pdf") != after.state(settings, "pdf")  # it shows the fellow eye's numbers, too
    assert before.state(settings, "sc") == after.state(settings, "sc")
    assert not (site.predictions / "report").exists()


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A corrected photograph, an accepted and a rejected one; to be read only."""
    site = build_site(tmp_path_factory.mktemp("reviewed"))
    log = AuditLog.of(site.predictions)
    drawn = disc_and_cup(move=6)
    correction = write_correction(site.predictions, Correction(CorrectionRecord(case=site.cases["colour"], base="0" * 64), (drawn,)))

    def say(short: str, action: Any, verdict: Any, **more: Any) -> None:
        known = model_sha256(site.predictions / "cases" / site.cases[short])
        log.append(Event("CLINIC\\anna", "reader", site.cases[short], action, verdict, mask_sha256=known, **more), 0)

    say("colour", "edit", "edited", correction=correction)
    known = model_sha256(site.predictions / "cases" / site.cases["colour"])
    accepted = Event("CLINIC\\ben", "reader", site.cases["colour"], "accept", "edited", mask_sha256=known, correction=correction)
    log.append(accepted, 1)
    say("grey", "accept", "accepted")
    say("picture", "reject", "rejected", reasons=("quality",))
    return site


def test_a_corrected_mask_is_exported_with_its_own_numbers_and_the_reviewer(reviewed: Site, tmp_path: Path) -> None:
    done = export(reviewed, tmp_path / "out", "seg,sr,nifti,png", organisation="Eye Clinic")
    files = {path.name: path for path in done.files}
    seg, report = pydicom.dcmread(files["seg.dcm"]), pydicom.dcmread(files["measurements.dcm"])
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert str(seg.ContentCreatorName) == "CLINIC/anna"
    drawn = disc_and_cup(move=6)
    np.testing.assert_array_equal(seg.pixel_array.astype(bool), np.stack([drawn & 1, drawn >> 1 & 1]).astype(bool))
    np.testing.assert_array_equal(read_image(files["1_disc_000.png"]) == 255, (drawn & 1).astype(bool))
    assert float(numbers(report)["vertical cup-to-disc ratio"].MeasuredValueSequence[0].NumericValue) != 0.61
    assert report.VerificationFlag == "VERIFIED"
    (observer,) = report.VerifyingObserverSequence
    assert (str(observer.VerifyingObserverName).rstrip("^"), observer.VerifyingOrganization) == ("CLINIC/ben", "Eye Clinic"), (
        "who accepted what another drew"
    )
    state = states(reviewed.predictions)[reviewed.cases["colour"]]
    words = Reviewed(state.verdict, state.reviewer, state.at, author=state.author).words
    assert words.startswith("that CLINIC\\anna corrected and CLINIC\\ben accepted (")
    assert errors(files["measurements.dcm"], "ComprehensiveSR") == []
    assert errors(files["seg.dcm"], "Segmentation") == []


def test_a_report_is_verified_only_for_an_organisation_and_a_verdict_leaves_the_segmentation(reviewed: Site, tmp_path: Path) -> None:
    without = export(reviewed, tmp_path / "without", "seg,sr", "grey")
    verified = export(reviewed, tmp_path / "verified", "seg,sr", "grey", organisation="Eye Clinic")
    first, second = ({path.name: pydicom.dcmread(path) for path in one.files} for one in (without, verified))
    assert [one["measurements.dcm"].VerificationFlag for one in (first, second)] == ["UNVERIFIED", "VERIFIED"]
    assert first["measurements.dcm"].SOPInstanceUID != second["measurements.dcm"].SOPInstanceUID
    assert first["seg.dcm"].SOPInstanceUID == second["seg.dcm"].SOPInstanceUID


def test_a_rejected_case_is_exported_only_when_asked(reviewed: Site, tmp_path: Path) -> None:
    made = {path.name for path in export(reviewed, tmp_path, "seg,sc", "picture", rejected=True).files}
    assert made == {"image.dcm", "seg.dcm", "overlay.dcm"}
    done = export(reviewed, tmp_path, "seg", "picture")
    assert done.files == ()
    assert "a reviewer rejected it" in done.notes[0]
    assert [path.name for path in (tmp_path / reviewed.cases["picture"]).iterdir()] == ["export.json"]


def test_a_picture_of_our_own_goes_once_the_original_is_found(site: Site, tmp_path: Path) -> None:
    Predictions(site.predictions, Settings(("sc",))).export(site.cases["colour"], tmp_path)
    folder = tmp_path / site.cases["colour"]
    assert (folder / "image.dcm").is_file()
    export(site, tmp_path, "sc")
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "overlay.dcm"]


def test_plain_files_hold_the_masks(site: Site, tmp_path: Path) -> None:
    done = export(site, tmp_path, "png,coco,nifti")
    folder = tmp_path / site.cases["colour"]
    np.testing.assert_array_equal(read_image(folder / "2_cup_000.png") == 255, disc_and_cup() >> 1 == 1)
    coco = json.loads((folder / "coco.json").read_text())
    assert [(one["category_id"], one["area"]) for one in coco["annotations"]] == [
        (1, int((disc_and_cup() & 1).sum())), (2, int((disc_and_cup() >> 1).sum())),
    ]  # fmt: skip
    assert (folder / coco["images"][0]["file_name"]).is_file()
    assert len(done.files) == len(set(done.files)) == 6


def test_the_command_tells_what_failed_and_goes_on(site: Site, tmp_path: Path) -> None:
    other = changed(site, tmp_path, sha256="cd" * 32)
    (other.predictions / "cases" / site.cases["grey"] / "mask_000.png").write_bytes(b"spoilt")
    words = ["export", str(other.predictions), "--format", "seg", "--out", str(tmp_path / "out"), "--from", str(site.scans)]
    done = CliRunner().invoke(app, words, env={"OCUSEG_SITE_KEY": str(tmp_path / "no.key")})
    assert done.exit_code == 3, done.output
    assert f"{site.cases['grey']}: failed, mask_000.png is missing or no picture" in done.output
    assert "2 cases: in a study of its own under the case's pseudonym: its file is no DICOM file" in done.output
    assert "cases: 4 exported, 1 failed" in done.output
    strange = CliRunner().invoke(app, [*words[:2], "--format", "segm", "--out", str(tmp_path / "out")])
    assert (strange.exit_code, strange.output) == (2, "error: format: unknown 'segm'; did you mean 'seg'?\n")


def test_boxes_are_drawn_where_a_model_or_a_reviewer_put_them(tmp_path: Path) -> None:
    out = Out(tmp_path / "found", LESIONS).detection()
    out.add_objects("pa_R_v1_i1", (60, 80), [{"class": "exudate", "score": 0.9, "box": [10.0, 12.0, 30.0, 32.0]}])
    predictions = Predictions(out.path, Settings(("sc",)))
    colour = LESIONS.classes[1].colour

    def edges() -> list[bool]:
        picture = overlay(predictions.case("pa_R_v1_i1"), 0)
        return [bool((picture[:, x] == colour).all(axis=-1).any()) for x in (10, 40)]

    assert edges() == [True, False]
    with pytest.raises(LeftOut, match="no model of the run marks pixels"):
        list(EXPORTERS["seg"].build(predictions.case("pa_R_v1_i1"), predictions.settings))
    moved = CorrectedObject.model_validate({"id": 1, "class": "exudate", "box": [40.0, 12.0, 60.0, 32.0]})
    empty = np.zeros((60, 80), np.uint8)
    correction = write_correction(out.path, Correction(CorrectionRecord(case="pa_R_v1_i1", base="0" * 64), (empty,), objects=(moved,)))
    AuditLog.of(out.path).append(Event("anna", "reader", "pa_R_v1_i1", "edit", "edited", correction=correction), 0)
    predictions = Predictions(out.path, Settings(("sc",)))
    assert edges() == [False, True]


def test_what_cannot_be_exported_is_one_sentence(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*words: object) -> str:
        done = CliRunner().invoke(app, ["export", str(site.predictions), *map(str, words)])
        assert done.exit_code in (2, 4)
        return done.output

    assert "--out lies inside the folder of scans" in told("--format", "png", "--out", site.scans / "x", "--from", site.scans)
    assert "--out lies inside the folder of predictions" in told("--format", "png", "--out", site.predictions / "x")
    assert "--onnx is of a bundle" in told("--onnx")
    assert "needs --format (seg, sr" in told()
    assert "no case is called 'pa'" in told("--format", "png", "--out", tmp_path, "--case", "pa")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert told("--format", "seg", "--out", tmp_path) == "error: DICOM objects need highdicom: pip install 'ocuseg[dicom]'\n"


def test_a_header_is_carried_over_as_the_hospital_wrote_it_and_never_quoted(site: Site, tmp_path: Path) -> None:
    written = {"PatientName": "Smith", "PatientBirthDate": "1950.1.1x", "PatientSex": "W", "StudyDate": "5 March", "PatientID": "7" * 70}
    scans = tmp_path / "scans"
    scans.mkdir()
    source = pydicom.dcmread(site.files["colour"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in written.items():
            setattr(source, keyword, value)
        del source.AccessionNumber
        source.save_as(scans / "a.dcm")
    sha256 = hashlib.sha256((scans / "a.dcm").read_bytes()).hexdigest()
    done = export(replace(changed(site, tmp_path, sha256=sha256), scans=scans), tmp_path / "out", "seg,sr,sc")
    assert len(done.files) == 3
    for file in done.files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = pydicom.dcmread(file, stop_before_pixels=True)
            assert {keyword: str(made[keyword].value) for keyword in written} == written
            assert (made.AccessionNumber, made.StudyInstanceUID) == ("", source.StudyInstanceUID)
