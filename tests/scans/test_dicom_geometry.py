"""Where it lies and which eye it is: as stated, in closed form, or None."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ScanError
from pipeline.scans.open import open_scan
from pipeline.types import Geometry
from tests.scans.make import CT, EN_FACE, OPT, SECONDARY_CAPTURE, dicom, item, ramp, saved, sequence

ROWS, COLUMNS, SLICES = 6, 11, 4
VOLUME = np.stack([ramp(ROWS, COLUMNS)] * SLICES)
SIDEWAYS = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]  # rows run to the back, columns down


def geometry(dataset: Any, tmp_path: Path) -> Geometry:
    return open_scan(saved(dataset, tmp_path / "a")).geometry


def opt(positions: list[list[float]] | None = None, orientation: list[float] | None = None, **tags: Any) -> Any:
    """An OPT volume: 0.004 mm rows, 0.012 mm columns; positions and orientation in functional groups."""
    shared = item(PixelMeasuresSequence=sequence(item(PixelSpacing=[0.004, 0.012], SliceThickness=9.0)))
    if "between" in tags:
        shared.PixelMeasuresSequence[0].SpacingBetweenSlices = tags.pop("between")
    if orientation:
        shared.PlaneOrientationSequence = sequence(item(ImageOrientationPatient=orientation))
    frames = [item() for _ in range(SLICES)]
    for frame, position in zip(frames, positions or [], strict=False):
        frame.PlanePositionSequence = sequence(item(ImagePositionPatient=position))
    groups = {"SharedFunctionalGroupsSequence": sequence(shared), "PerFrameFunctionalGroupsSequence": sequence(*frames)}
    return dicom(VOLUME, sop_class=OPT, modality="OPT", **groups, **tags)


def test_pixel_spacing_is_rows_first(tmp_path: Path) -> None:
    placed = geometry(dicom(ramp(ROWS, COLUMNS), PixelSpacing=[0.5, 0.25]), tmp_path)
    assert (placed.spacing_mm, placed.spacing_source) == ((0.5, 0.25), "tag")
    assert placed.affine is None


def test_affine_of_a_plane(tmp_path: Path) -> None:
    dataset = dicom(ramp(ROWS, COLUMNS), PixelSpacing=[0.5, 0.25], ImagePositionPatient=[1, 2, 3], ImageOrientationPatient=SIDEWAYS)
    expected = np.array([[0, 0, -1, 1], [0.25, 0, 0, 2], [0, -0.5, 0, 3], [0, 0, 0, 1.0]])  # normal: y cross -z is -x
    assert np.allclose(geometry(dataset, tmp_path).affine, expected)


def test_affine_and_spacing_of_a_volume(tmp_path: Path) -> None:
    placed = geometry(opt([[1 - 0.2 * k, 2, 3] for k in range(SLICES)], SIDEWAYS), tmp_path)
    assert placed.spacing_mm == pytest.approx((0.2, 0.004, 0.012))
    expected = np.array([[0, 0, -0.2, 1], [0.012, 0, 0, 2], [0, -0.004, 0, 3], [0, 0, 0, 1.0]])
    assert np.allclose(placed.affine, expected)
    column, row, piece = 10, 5, 3
    assert np.allclose((placed.affine @ [column, row, piece, 1])[:3], [1 - 0.6, 2 + 0.12, 3 - 0.02])


def test_spacing_between_slices_counts_where_there_are_no_positions(tmp_path: Path) -> None:
    placed = geometry(opt(between=0.3), tmp_path)
    assert placed.spacing_mm == (0.3, 0.004, 0.012)
    assert placed.affine is None


def test_slice_thickness_is_no_spacing_and_pixels_keep_theirs(tmp_path: Path) -> None:
    placed = geometry(opt(), tmp_path)
    assert (placed.spacing_mm, placed.spacing_source) == ((None, 0.004, 0.012), "tag")
    assert (placed.pixel_mm, placed.voxel_mm) == ((0.004, 0.012), None)


@pytest.mark.parametrize(
    "positions",
    [
        [[0, 0, 0], [0, 0, 1], [0, 0, 3], [0, 0, 4]],  # uneven
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]],  # a star
        [[0, 0, 0], [0, 0, 1]],  # not every slice has one
    ],
)
def test_slices_that_do_not_lie_in_a_row_have_no_affine(positions: list[list[float]], tmp_path: Path) -> None:
    placed = geometry(opt(positions, SIDEWAYS, between=1.0), tmp_path)
    assert placed.affine is None
    assert placed.spacing_mm == (None, 0.004, 0.012)


@pytest.mark.parametrize("wrong", [[0.0, 0.5], [-1.0, 1.0], [0.1, 0.1, 0.1]])
def test_impossible_spacing_is_unknown(wrong: list[float], tmp_path: Path) -> None:
    assert geometry(dicom(ramp(ROWS, COLUMNS), PixelSpacing=wrong), tmp_path).spacing_mm is None


def test_a_crooked_orientation_gives_no_affine(tmp_path: Path) -> None:
    dataset = dicom(
        ramp(ROWS, COLUMNS), PixelSpacing=[0.5, 0.25], ImagePositionPatient=[1, 2, 3], ImageOrientationPatient=[1, 0, 0, 1, 0, 0]
    )
    assert geometry(dataset, tmp_path).affine is None


def test_secondary_capture_needs_a_calibration(tmp_path: Path) -> None:
    options = {"sop_class": SECONDARY_CAPTURE, "modality": "OT", "PixelSpacing": [0.5, 0.5]}
    assert geometry(dicom(ramp(ROWS, COLUMNS), **options), tmp_path).spacing_mm is None
    calibrated = dicom(ramp(ROWS, COLUMNS), PixelSpacingCalibrationType="FIDUCIAL", **options)
    assert geometry(calibrated, tmp_path).spacing_mm == (0.5, 0.5)


@pytest.mark.parametrize(("value", "expected"), [("R", "R"), ("L", "L"), ("B", None), ("", None)])
def test_image_laterality(value: str, expected: str | None, tmp_path: Path) -> None:
    scan = open_scan(saved(dicom(ramp(ROWS, COLUMNS), ImageLaterality=value), tmp_path / "scan_OD"))
    assert scan.geometry.laterality == expected
    assert scan.geometry.laterality_source == ("tag" if expected else "unknown")
    assert scan.case.eye == (expected or "U")


def test_laterality_of_the_series_and_of_the_name_is_not_asked(tmp_path: Path) -> None:
    scan = open_scan(saved(dicom(ramp(ROWS, COLUMNS), Laterality="R"), tmp_path / "scan_OD"))
    assert scan.geometry.laterality is None


def test_frame_laterality_where_all_frames_agree(tmp_path: Path) -> None:
    def groups(sides: str) -> Any:
        return sequence(*(item(FrameAnatomySequence=sequence(item(FrameLaterality=side))) for side in sides))

    same = dicom(VOLUME, sop_class=OPT, modality="OPT", PerFrameFunctionalGroupsSequence=groups("LLLL"))
    placed = geometry(same, tmp_path)
    assert (placed.laterality, placed.laterality_source) == ("L", "functional_group")
    mixed = dicom(VOLUME, sop_class=OPT, modality="OPT", PerFrameFunctionalGroupsSequence=groups("LLRL"))
    assert geometry(mixed, tmp_path).laterality is None
    shared = dicom(VOLUME, sop_class=OPT, modality="OPT", SharedFunctionalGroupsSequence=groups("R"))
    assert geometry(shared, tmp_path).laterality == "R"


def coded(value: str, scheme: str = "SCT") -> Any:
    return sequence(item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning="x"))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, "fundus"),
        ({"AcquisitionDeviceTypeCodeSequence": coded("409898007")}, "fundus"),
        ({"AcquisitionDeviceTypeCodeSequence": coded("392001008")}, "slo"),
        ({"AcquisitionDeviceTypeCodeSequence": coded("397247004")}, "unknown"),  # slit lamp
        ({"sop_class": OPT, "modality": "OPT"}, "oct"),
        ({"sop_class": EN_FACE, "modality": "OPTENF", "OphthalmicImageTypeCodeSequence": coded("128265", "DCM")}, "octa"),
        ({"sop_class": EN_FACE, "modality": "OPTENF", "OphthalmicImageTypeCodeSequence": coded("128266", "DCM")}, "oct"),
        ({"sop_class": EN_FACE, "modality": "OPTENF"}, "unknown"),
        ({"sop_class": SECONDARY_CAPTURE, "modality": "OT"}, "unknown"),
        ({"sop_class": SECONDARY_CAPTURE, "modality": "OP"}, "fundus"),
        ({"sop_class": "1.3.6.1.4.1.99999.1", "modality": "OPT"}, "oct"),
    ],
)
def test_modality(tags: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert open_scan(saved(dicom(ramp(ROWS, COLUMNS), **tags), tmp_path / "a")).modality == expected


@pytest.mark.parametrize(("sop_class", "modality"), [(CT, "CT"), (SECONDARY_CAPTURE, "MR"), (CT, ""), (CT, "MEIER^HANS")])
def test_other_parts_of_the_body_are_refused_by_name(sop_class: str, modality: str, tmp_path: Path) -> None:
    dataset = dicom(ramp(ROWS, COLUMNS), sop_class=sop_class)
    dataset["Modality"]._value = modality
    with pytest.raises(ScanError, match="not a picture of an eye") as caught:
        open_scan(saved(dataset, tmp_path / "a"))
    assert caught.value.code == "not_ophthalmic"
    assert "MEIER" not in str(caught.value)


def test_no_preamble(tmp_path: Path) -> None:
    saved(dicom(ramp(ROWS, COLUMNS), PixelSpacing=[0.5, 0.25], SpecificCharacterSet="ISO_IR 100"), tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "b").write_bytes(whole[whole.index(b"\x08\x00\x05\x00CS") :])
    scan = open_scan(tmp_path / "b")
    assert np.array_equal(scan.pixels[0], ramp(ROWS, COLUMNS))
    assert scan.geometry.spacing_mm == (0.5, 0.25)
