"""How large a pixel is: each source by its closed form, which one counts, and what is said where they disagree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.nifti import write_nifti
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from pipeline.scans.spacing import mm_per_degree, with_spacing
from pipeline.scans.stated import fill as fill_by
from pipeline.scans.stated import scale_of, stated
from pipeline.types import CaseKey, Geometry, Scan
from pipeline.types.stated import Stated
from tests.scans.make import dicom, saved

NAMES = Pseudonyms(b"a site key for tests")


def round_photograph(side: int = 120, diameter: int = 100, rows: int | None = None) -> np.ndarray:
    """A lit circle of ``diameter`` px on black, cut to ``rows`` where they are given: (H, W, 3)."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    shown = np.where((np.hypot(x, y) <= diameter / 2)[..., None], np.array([190, 90, 40], np.uint8), np.uint8(0)).astype(np.uint8)
    return shown if rows is None else shown[(side - rows) // 2 :][:rows]


def scan(pixels: np.ndarray | None = None, modality: Any = "fundus", **fields: Any) -> Scan:
    shown = round_photograph() if pixels is None else pixels
    channels = np.ascontiguousarray(np.moveaxis(shown, -1, 0)) if shown.ndim == 3 and shown.shape[-1] == 3 else shown[None]
    geometry = Geometry(channels.shape[1:], **fields)
    return Scan(channels, geometry, modality, CaseKey("p", "U", "0", "i"), "0" * 64)


def fill(given: Scan, said: Stated) -> Scan:
    return with_spacing(fill_by(said, NAMES, given, given.source), scale_of(said))


def tagged(row: float, column: float) -> dict[str, Any]:
    return {"spacing_mm": (row, column), "spacing_source": "tag"}


def test_bennetts_formula() -> None:
    assert mm_per_degree() == pytest.approx(0.01306 * 22.18)
    assert mm_per_degree(24.0) == pytest.approx(0.29, abs=0.001)
    assert [mm_per_degree(length) / mm_per_degree() for length in (22.0, 26.0)] == pytest.approx([0.91, 1.09], abs=0.001)


def test_unknown_stays_unknown() -> None:
    silent = scan()
    assert fill(silent, stated()) is silent
    assert silent.geometry.spacing_mm is None


def test_a_users_value_counts_where_the_file_has_none_and_a_tag_before_it() -> None:
    found = fill(scan(), stated(pixel_mm="0.0072")).geometry
    assert (found.spacing_mm, found.spacing_source) == ((0.0072, 0.0072), "user")
    found = fill(scan(), stated(pixel_mm="0.004x0.011")).geometry
    assert found.spacing_mm == (0.004, 0.011)
    kept = fill(scan(**tagged(0.007, 0.007)), stated(pixel_mm="0.0072"))
    assert (kept.geometry.spacing_mm, kept.geometry.spacing_source, kept.geometry.spacing_error, kept.doubts) == (
        (0.007, 0.007),
        "tag",
        0.09,
        (),
    )
    apart = fill(scan(**tagged(0.007, 0.007)), stated(pixel_mm="0.014"))
    ((code, sentence),) = apart.doubts
    assert (code, apart.geometry.spacing_mm) == ("spacing_conflict", (0.007, 0.007))
    assert "7 um by the file's header and 14 um by the user, 50 % apart where 9 % can be: the file's header counts" in sentence


def test_a_users_value_fills_the_axis_that_the_file_does_not_know() -> None:
    volume = np.zeros((3, 8, 12), np.uint8)
    given = scan(volume, "oct", spacing_mm=(None, 0.004, 0.011), spacing_source="tag")
    found = fill(given, stated(pixel_mm="0.24x0.004x0.011"))
    assert (found.geometry.spacing_mm, found.geometry.spacing_source, found.doubts) == ((0.24, 0.004, 0.011), "user", ())
    assert fill(scan(volume, "oct"), stated(pixel_mm="0.0072")).geometry.spacing_mm is None  # a B-scan's pixels are no squares
    assert fill(scan(volume, "oct"), stated(pixel_mm="0.004x0.011")).geometry.spacing_mm == (None, 0.004, 0.011)


def test_an_axial_length_corrects_the_headers_scale_of_a_photograph() -> None:
    found = fill(scan(**tagged(0.007, 0.008)), stated(axial_length=26.5)).geometry
    ratio = (26.5 - 1.82) / (24.0 - 1.82)
    assert found.spacing_mm == pytest.approx((0.007 * ratio, 0.008 * ratio))
    assert (found.spacing_source, found.spacing_error) == ("axial_length", 0.03)
    assert "26.5 mm (Bennett 1994)" in found.spacing_note
    depth = scan(np.zeros((3, 8, 12), np.uint8), "oct", spacing_mm=(0.2, 0.004, 0.011), spacing_source="tag")
    assert fill(depth, stated(axial_length=26.5)).geometry.spacing_mm == (0.2, 0.004, 0.011)
    assert fill(scan(), stated(axial_length=26.5)).geometry.spacing_mm is None  # alone it says nothing of the camera


@pytest.mark.parametrize(("rows", "diameter"), [(None, 100), (80, 100)], ids=["whole circle", "cut above and below"])
def test_an_angle_over_the_fields_diameter_is_an_estimate(rows: int | None, diameter: int) -> None:
    found = fill(scan(round_photograph(rows=rows)), stated(field_angle=45)).geometry
    expected = 45 * 0.01306 * 22.18 / diameter
    assert found.spacing_mm == pytest.approx((expected, expected), rel=0.03)
    assert (found.spacing_source, found.spacing_error) == ("estimated", pytest.approx(0.1345, abs=1e-3))
    longer = fill(scan(round_photograph(rows=rows)), stated(field_angle=45, axial_length=26.0)).geometry
    assert longer.spacing_mm is not None
    assert longer.spacing_mm[0] / expected == pytest.approx(24.18 / 22.18, rel=0.03)
    assert (longer.spacing_source, longer.spacing_error) == ("estimated", pytest.approx(0.1044, abs=1e-3))


def test_an_estimate_needs_the_edge_that_the_angle_spans_and_a_narrow_field() -> None:
    everywhere = np.random.default_rng(0).integers(60, 200, (60, 80, 3), dtype=np.uint8)
    assert fill(scan(everywhere), stated(field_angle=45)).geometry.spacing_mm is None
    assert fill(scan(everywhere[..., 0], "slo"), stated(field_angle=30)).geometry.spacing_mm == pytest.approx(
        (30 * mm_per_degree() / 80,) * 2
    )
    wide = replace(scan(), field_degrees=200.0)
    assert fill(wide, stated()).geometry.spacing_mm is None


def test_an_estimate_is_never_mixed_with_what_is_measured() -> None:
    """It does not fill an axis, counts last, and is said where it is far off."""
    half = fill(scan(spacing_mm=(0.13, None), spacing_source="tag"), stated(field_angle=45))
    assert (half.geometry.spacing_mm, half.geometry.spacing_source) == ((0.13, None), "tag")
    agreed = fill(scan(**tagged(0.13, 0.13)), stated(field_angle=45))
    assert (agreed.geometry.spacing_source, agreed.doubts) == ("tag", ())
    resized = fill(scan(**tagged(0.065, 0.065)), stated(field_angle=45))
    assert "65 um by the file's header" in resized.doubts[0][1]
    assert "by the angle of the field" in resized.doubts[0][1]


def test_what_an_estimate_gives_is_not_written_for_other_programs(tmp_path: Path) -> None:
    geometry = fill(scan(), stated(field_angle=45)).geometry
    assert geometry.pixel_mm is not None
    assert (geometry.trusted().pixel_mm, geometry.trusted().spacing_source) == (None, "unknown")
    write_nifti(tmp_path / "mask.nii.gz", np.zeros(geometry.shape, np.uint8), geometry)
    assert open_scan(tmp_path / "mask.nii.gz").geometry.spacing_mm is None


def test_tags_of_camera_and_eye(tmp_path: Path) -> None:
    path = saved(dicom(round_photograph(), HorizontalFieldOfView=45.0, AxialLengthOfTheEye=25.0), tmp_path / "a.dcm")
    read = open_scan(path)
    assert (read.field_degrees, read.axial_length_mm, read.geometry.spacing_mm) == (45.0, 25.0, None)
    found = fill(read, stated()).geometry
    assert found.spacing_mm == pytest.approx((45 * mm_per_degree(25.0) / 100,) * 2, rel=0.03)
    assert found.spacing_source == "estimated"
    odd = open_scan(saved(dicom(round_photograph(), HorizontalFieldOfView=0.0, AxialLengthOfTheEye=2.5), tmp_path / "b.dcm"))
    assert (odd.field_degrees, odd.axial_length_mm) == (None, None)


def test_what_cannot_be_true_is_not_believed_of_a_user_either() -> None:
    found = fill(scan(), stated(pixel_mm="1"))
    assert found.geometry.spacing_mm is None
    (said,) = found.warnings
    assert said.startswith("the user states a size of 120 x 120 mm")
    assert said.endswith("not believed, sizes are in px")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pixel_mm": "small"}, "pixel-mm 'small': must be millimetres"),
        ({"pixel_mm": "0"}, "pixel-mm '0': must be"),
        ({"pixel_mm": "1x1x1x1"}, "pixel-mm"),
        ({"field_angle": 200.0}, r"field-angle 200\.0: must be 5 to 60 degrees"),
        ({"axial_length": 2.4}, r"axial-length 2\.4: must be 14 to 40 mm"),
        ({"patients": "name"}, "patients 'name': must be folder or file"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stated(**given)


def test_of_a_flat_folder_each_file_may_be_a_patient(tmp_path: Path) -> None:
    (tmp_path / "batch7").mkdir()
    paths = [tmp_path / "batch7" / name for name in ("Anna_OD.png", "Anna_OS.png", "Bert_OD.png")]
    for number, path in enumerate(paths):
        write_png(path, np.full((4, 5, 3), number + 1, np.uint8))
    read = [open_scan(path, pseudonyms=NAMES, root=tmp_path) for path in paths]
    assert {one.patient_source for one in read} == {"folder"}
    assert len({one.case.patient for one in read}) == 1
    apart = [fill(one, stated(patients="file")) for one in read]
    assert {one.patient_source for one in apart} == {"file"}
    assert [one.case.patient for one in apart] == [NAMES.patient(name) for name in ("Anna", "Anna", "Bert")]
