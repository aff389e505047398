"""A case page says what is known, with its unit and source, and nothing that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from pipeline.errors import OcusegError
from pipeline.reports import wording
from pipeline.reports.measures import with_unit
from pipeline.reports.results import read_case
from pipeline.reports.worklist import write_report
from pipeline.types import LabelClass, LabelMap, Unit
from tests.drawing.test_contours import even_odd, parse
from tests.reports.conftest import SHA, Out, disc_and_cup
from tests.reports.test_worklist import Page

NOTICE = "Research use, not for diagnosis"
MILLIMETRES = {"spacing_mm": [0.02, 0.01], "spacing_source": "user"}


def made(out: Out, name: str) -> tuple[str, Page]:
    write_report(out.path)
    path = out.path / "report" / "cases" / f"{name}.html"
    return path.read_text(encoding="utf-8"), Page(path)


def marks(html: str) -> dict[str, str]:
    return dict(re.findall(r'<span class="(left|right|top|bottom)" title="(\w+)">', html))


@pytest.mark.parametrize(
    ("side", "short", "left", "right"), [("R", "OD", "Temporal", "Nasal"), ("L", "OS", "Nasal", "Temporal")], ids=["right eye", "left eye"]
)
def test_nasal_is_right_in_a_right_eye_and_left_in_a_left_eye(
    make_out: Callable[..., Out], side: str, short: str, left: str, right: str
) -> None:
    out = make_out()
    name = f"pa_{side}_v1_i1"
    out.add(name, disc_and_cup(), geometry={"laterality": side, "laterality_source": "filename"})
    html, page = made(out, name)
    assert marks(html) == {"left": left, "right": right, "top": "Superior", "bottom": "Inferior"}
    assert f'<p class="eye-large eye-{short}">{short}</p>' in html
    assert "laterality: file name" in page.text


@pytest.mark.parametrize("modality", ["oct", "unknown"])
def test_a_b_scan_gets_no_nasal_marks(make_out: Callable[..., Out], modality: str) -> None:
    out = make_out()
    out.add("pa_R_v1_i1", disc_and_cup(), geometry={"laterality": "R", "laterality_source": "tag"}, modality=modality)
    html, _ = made(out, "pa_R_v1_i1")
    assert marks(html) == {}
    assert ">OD</p>" in html


def test_an_unknown_eye_stays_unknown(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.add("pa_U_v1_i1", disc_and_cup())
    html, page = made(out, "pa_U_v1_i1")
    assert marks(html) == {"top": "Superior", "bottom": "Inferior"}  # nasal and temporal hang on the eye
    assert "Eye unknown" in page.text
    assert "laterality: not stated" in page.text


def test_areas_in_mm2_only_where_the_spacing_is_known(make_out: Callable[..., Out]) -> None:
    out = make_out()
    mask = np.zeros((120, 160), np.uint8)
    mask[10:60, 20:120] = 1  # 50 x 100 pixels of 0.02 x 0.01 mm
    out.add("pa_R_v1_known", mask, geometry=MILLIMETRES)
    out.add("pb_R_v1_unknown", mask)
    html, page = made(out, "pa_R_v1_known")
    assert re.search(r"5\N{NARROW NO-BREAK SPACE}000</td>\s*<td class=\"number\">1</td>", html)
    assert "10 × 20 µm a pixel (width × height); given by the user" in page.text
    assert json.loads(re.findall(r'id="case-data">(.*?)</script>', html)[0])["spacing"] == [0.02, 0.01]
    html, page = made(out, "pb_R_v1_unknown")
    assert "5\N{NARROW NO-BREAK SPACE}000</td></tr>" in re.sub(r"\s*\n\s*", "", html)
    assert "the pixel spacing of this scan is unknown, so sizes are in px" in page.text
    assert json.loads(re.findall(r'id="case-data">(.*?)</script>', html)[0])["spacing"] is None
    worklist = Page(out.path / "report" / "index.html").text
    assert "1 mm²" in worklist
    assert "5\N{NARROW NO-BREAK SPACE}000 px" in worklist


def test_the_drawn_paths_are_the_masks(make_out: Callable[..., Out]) -> None:
    out = make_out()
    mask = disc_and_cup()
    out.add("pa_R_v1_i1", mask)
    html, _ = made(out, "pa_R_v1_i1")
    paths = re.findall(r'fill-rule="evenodd"[^>]* d="([^"]*)"', html)
    for drawn, layer in zip(paths, out.label_map.layers(mask.astype(np.int64)), strict=True):
        assert (even_odd(parse(drawn), *mask.shape) == layer).all()


def test_every_page_says_research_use_and_what_made_it(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.add("pa_R_v1_i1", disc_and_cup())
    _, page = made(out, "pa_R_v1_i1")
    assert page.text.count(NOTICE) >= 4, "head, foot, and each of the two pictures"
    assert SHA in page.text
    assert "0123456789ab" in page.text
    assert NOTICE in Page(out.path / "report" / "index.html").text


def test_pictures_have_words_for_those_who_cannot_see_them(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.add("pa_L_v1_i1", disc_and_cup(), geometry={"laterality": "L", "laterality_source": "tag"})
    _, page = made(out, "pa_L_v1_i1")
    labels = [str(a["aria-label"]) for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    assert labels[0] == "Fundus photograph, left eye, 160 × 120 pixels"
    assert re.search(r"contours of: disc \([\d\N{NARROW NO-BREAK SPACE}]+ px\), cup", labels[1])
    worklist = Page(out.path / "report" / "index.html")
    assert all(a.get("alt") for tag, a in worklist.elements if tag == "img")
    assert all(a.get("loading") == "lazy" for tag, a in worklist.elements if tag == "img")


def test_classes_differ_in_line_style_and_not_in_colour_alone(make_out: Callable[..., Out]) -> None:
    same = LabelMap(tuple(LabelClass(i, f"class {i}", (200, 0, 0)) for i in (1, 2, 3)))
    out = make_out(same)
    mask = np.zeros((60, 90), np.uint8)
    mask[5:20, 5:20], mask[5:20, 30:50], mask[5:20, 60:80] = 1, 2, 3
    out.add("pa_R_v1_i1", mask)
    html, _ = made(out, "pa_R_v1_i1")
    styles = re.findall(r'<g class="layer" [^>]*(color=.*)>', html)
    assert len(set(styles)) == 3
    assert " style=" not in html, "a content policy may refuse it"


def test_a_volume_brings_its_slices_in_script_files(make_out: Callable[..., Out], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.reports.slices.PART", 100)
    out = make_out()
    mask = np.zeros((7, 120, 160), np.uint8)
    mask[2] = disc_and_cup() & 1
    mask[4] = disc_and_cup()
    out.add("pa_R_v1_i1", mask, modality="oct", geometry={"spacing_mm": [0.1, 0.02, 0.01], "spacing_source": "tag"})
    html, page = made(out, "pa_R_v1_i1")
    data = json.loads(re.findall(r'id="case-data">(.*?)</script>', html)[0])
    assert data["start"] == 4, "the slice with most found is shown first"
    assert len(data["images"]) == len(data["scripts"]) == len(data["pixels"]) == 7
    assert len(set(data["scripts"])) > 1
    drawn: dict[str, dict[str, list[str]]] = {}
    for source in dict.fromkeys(data["scripts"]):
        text = (out.path / "report" / "cases" / source).resolve().read_text(encoding="utf-8")
        call = re.fullmatch(r"ocusegSlices\((.*)\);\n", text)
        assert call
        drawn |= json.loads(call[1])
    assert sorted(map(int, drawn)) == list(range(7))
    for index in range(7):
        for path, layer in zip(drawn[str(index)]["paths"], out.label_map.layers(mask[index].astype(np.int64)), strict=True):
            assert (even_odd(parse(path), 120, 160) == layer).all()
    voxels = int((mask & 1).sum())
    assert f"{voxels * 0.1 * 0.02 * 0.01:.3g}" in page.text
    assert "mm³" in page.text


def test_a_fresh_case_of_another_bundle_is_flagged(make_out: Callable[..., Out]) -> None:
    out = make_out()
    out.add("pa_R_v1_i1", disc_and_cup(), bundle_id="ffffffffffff")
    _, page = made(out, "pa_R_v1_i1")
    assert "made with bundle ffffffffffff, not with 0123456789ab" in page.text


def test_salt_and_pepper_does_not_make_a_page_that_no_browser_can_open(make_out: Callable[..., Out]) -> None:
    out = make_out(LabelMap((LabelClass(1, "vessel", (86, 180, 233)),)))
    noise = (np.random.default_rng(0).random((700, 900)) > 0.55).astype(np.uint8)
    out.add("pa_R_v1_i1", noise)
    html, page = made(out, "pa_R_v1_i1")
    assert len(html) < 1_500_000
    assert "are not drawn here" in page.text
    assert f"{int(noise.sum()):,}".replace(",", "\N{NARROW NO-BREAK SPACE}") in page.text, "the number is of the whole mask"


def test_what_inference_writes_is_what_the_report_reads(make_out: Callable[..., Out], tmp_path: Path) -> None:
    from pipeline.inference.case_files import CaseResult, write_case
    from pipeline.types import CaseKey, Geometry, Scan

    out = make_out()
    pixels = np.random.default_rng(1).integers(0, 200, (3, 90, 140)).astype(np.uint8)
    scan = Scan(pixels, Geometry((90, 140), (0.01, 0.01), "tag", None, "L", "tag"), "fundus", CaseKey("pa", "L", "v1", "i1"), SHA)
    write_case(out.path, CaseResult(scan, str(scan.case), out.label_map, disc_and_cup(90, 140), None, ("dark",), "0123456789ab", 0.5))
    html, page = made(out, "pa_L_v1_i1")
    assert "OS" in page.text
    assert "dark" in page.text
    assert "was changed since" not in page.text
    assert re.search(r"file header, nominal at the retina", html)


def test_a_dicom_tag_that_holds_a_script_stays_text(make_out: Callable[..., Out], tmp_path: Path) -> None:
    """From a real DICOM file through the reader and the prediction's writer; values that identify the patient never arrive."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    from pipeline.inference.case_files import CaseResult, write_case
    from pipeline.scans.open import open_scan

    evil = "<script>alert(1)</script>"
    tags = pydicom.Dataset()
    tags.file_meta = FileMetaDataset()
    tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    tags.SOPClassUID = tags.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    tags.SOPInstanceUID = tags.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    tags.PatientID = tags.PatientName = tags.StudyDescription = tags.SeriesDescription = tags.Manufacturer = evil
    tags.StudyInstanceUID, tags.Modality, tags.Laterality = generate_uid(), "OP", "R"
    tags.Rows, tags.Columns, tags.SamplesPerPixel, tags.PhotometricInterpretation = 90, 140, 1, "MONOCHROME2"
    tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 8, 8, 7, 0
    tags.PixelData = np.full((90, 140), 77, np.uint8).tobytes()
    tags.save_as(tmp_path / "evil.dcm", enforce_file_format=True)

    out = make_out()
    scan = open_scan(tmp_path / "evil.dcm")
    said = pydicom.dcmread(tmp_path / "evil.dcm").SeriesDescription
    warnings = (f"series description is {said!r}",)
    write_case(out.path, CaseResult(scan, str(scan.case), out.label_map, disc_and_cup(90, 140), None, warnings, "0123456789ab", 0.5))
    html, page = made(out, str(scan.case))
    assert f"series description is '{evil}'" in page.text
    for path in [*(out.path / "report").rglob("*.html"), *(out.path / "report").rglob("*.js")]:
        assert evil not in path.read_text(encoding="utf-8")
    assert html.count("&lt;script&gt;") == 1, "the warning, and no other tag of the file"


def test_layers_have_their_thickness_and_fluid_its_components(make_out: Callable[..., Out]) -> None:
    retina = LabelMap(
        tuple(LabelClass(i, name, (0, 0, 60 * i)) for i, name in enumerate(("RNFL", "RPE", "fluid"), 1)), layered=("RNFL", "RPE")
    )
    out = make_out(retina)
    mask = np.zeros((2, 20, 30), np.int64)
    mask[:, 5:9], mask[:, 9:12], mask[0, 8:10, 4:9] = 1, 2, 3
    record: dict[str, Any] = {
        "layers": {"RNFL": {"mean_thickness": 15.64, "unit": "um"}, "RPE": {"mean_thickness": None, "unit": "um"}},
        "fluid_components": {"fluid": {"number": 1, "volume": 0.0123456, "unit": "mm3"}},
        "device": {"ILM": {"mean_abs": 3.14, "unit": "um", "columns": 60}, "BM": {"mean_abs": None, "unit": "um"}},
    }
    folder = out.add("pa_R_v1_i1", mask, modality="oct", geometry={"spacing_mm": [0.25, 0.004, 0.01], "spacing_source": "tag"}, **record)
    (folder / "surfaces.csv").touch()
    earlier = {"pockets": {"fluid": {"number": 2, "volume": 40, "unit": "voxels"}}}  # as an earlier version wrote it
    folder = out.add("pb_R_v1_i1", mask, modality="oct", layers={"RNFL": {"mean_thickness": 4, "unit": "px"}}, **earlier)
    (folder / "pockets.csv").touch()
    out.add("pc_R_v1_i1", mask, modality="oct")
    words = {name: re.sub(r"(<[^>]*>|\s)+", " ", made(out, f"{name}_R_v1_i1")[0]) for name in ("pa", "pb", "pc")}
    assert "RNFL 15.6 µm" in words["pa"]
    assert "RPE not measured" in words["pa"]
    assert "ILM 3.1 µm BM not drawn in the same columns" in words["pa"]
    assert "device" not in words["pc"]
    assert "fluid 1 0.0123 mm³" in words["pa"]
    assert "mask.nii.gz , surfaces.csv , mask_000.png" in words["pa"]  # and no table of components, which is not there
    assert "RNFL 4.0 px" in words["pb"]
    assert "fluid 2 40 voxels" in words["pb"]
    assert "mask.nii.gz , pockets.csv , mask_000.png" in words["pb"]
    assert "No µm, because the height of a pixel is unknown" in words["pb"]
    assert "thickness" not in words["pc"]


@pytest.mark.parametrize(
    ("spacing", "said", "bar"),
    [
        ([None, 0.004, 0.01], "10 × 4 µm a pixel (width × height), distance of slices unknown; file header", [0.004, 0.01]),
        ([0.25, None, 0.01], "10 × unknown µm a pixel (width × height), slices 250 µm apart; file header", [None, 0.01]),
    ],
)
def test_lengths_appear_along_the_axes_that_are_known(
    make_out: Callable[..., Out], spacing: list[float | None], said: str, bar: list[float | None]
) -> None:
    out = make_out()
    mask = np.zeros((2, 120, 160), np.uint8)
    mask[1] = disc_and_cup()
    out.add("pa_R_v1_i1", mask, modality="oct", geometry={"spacing_mm": spacing, "spacing_source": "tag"})
    html, _ = made(out, "pa_R_v1_i1")
    assert json.loads(re.findall(r'id="case-data">(.*?)</script>', html)[0])["spacing"] == bar
    assert said in html
    assert "no mm³, because the " + ("distance of slices" if spacing[0] is None else "height of a pixel") + " is unknown" in html
    case = read_case(out.path / "cases" / "pa_R_v1_i1")
    assert wording.area(case, 1000) == ("0.04 mm²" if spacing[1] else "1\N{NARROW NO-BREAK SPACE}000 px")


def test_an_impossible_thickness_is_damage(make_out: Callable[..., Out]) -> None:
    out = make_out()
    folder = out.add("pa_R_v1_i1", disc_and_cup(), layers={"RNFL": {"mean_thickness": -4, "unit": "um"}})
    with pytest.raises(OcusegError, match=r"case\.json is damaged \(layers\.RNFL\.mean_thickness"):
        read_case(folder)


def test_an_estimated_spacing_is_told_as_such_and_gives_no_mm(make_out: Callable[..., Out]) -> None:
    out = make_out()
    geometry = {
        "spacing_mm": [0.0072, 0.0072],
        "spacing_source": "estimated",
        "spacing_error": 0.134,
        "spacing_note": "45 degrees over 1810 px",
    }
    out.add("pa_R_v1_i1", disc_and_cup(), geometry=geometry)
    html, page = made(out, "pa_R_v1_i1")
    assert "estimated at 7.2 × 7.2 µm a pixel (width × height), from 45 degrees over 1810 px, ± 13 %; pixels are counted" in page.text
    assert "what is given in mm says that it is estimated" in page.text
    assert "because the spacing is only estimated" in page.text
    assert "mm²</th>" not in html
    assert json.loads(re.findall(r'id="case-data">(.*?)</script>', html)[0])["spacing"] is None


def test_every_unit_of_a_measure_has_words() -> None:
    for unit in get_args(Unit):
        assert with_unit(0.5, unit)
