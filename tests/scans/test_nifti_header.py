"""A header is believed as far as it goes: no spacing out of nothing, and a mask lies wherever its image lies."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipeline.errors import ScanError
from pipeline.scans.nifti import write_nifti
from pipeline.scans.open import open_scan
from pipeline.types import Geometry
from tests.scans.make import dicom, ramp, saved

SHAPE = (7, 5, 4)  # columns, rows, slices
RAS = np.array([[-0.0117, 0, 0, 4], [0, -0.0039, 0, 2], [0, 0, 0.12, -1], [0, 0, 0, 1.0]])
FIELDS = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def drawn(path: Path, change: Callable[[Any], None] = lambda header: None, shape: tuple[int, ...] = SHAPE, **stated: Any) -> Path:
    """A NIfTI file whose header's bytes are as ``change`` leaves them: nibabel's own writer would mend them."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_sform(RAS, code=2)
    header["pixdim"][1:4] = (0.0117, 0.0039, 0.12)
    header["xyzt_units"], header["magic"], header["vox_offset"] = 2, b"n+1", 352
    for name, value in stated.items():
        header[name] = value
    change(header)
    count = int(np.prod([max(int(n), 1) for n in header["dim"][1 : 1 + int(header["dim"][0])]]))
    path.write_bytes(header.binaryblock + b"\0" * 4 + bytes(n % 251 for n in range(count)))
    return path


def uncoded(header: Any) -> None:
    header["qform_code"] = header["sform_code"] = header["xyzt_units"] = 0


def micrometres(header: Any) -> None:
    header["xyzt_units"] = 3
    header["pixdim"][1:4] = (11.7, 3.9, 120)
    header.set_sform(np.diag([1000, 1000, 1000, 1]) @ RAS, code=1)
    header.set_qform(np.diag([1000, 1000, 1000, 1]) @ RAS, code=1)


def by_quaternion(header: Any) -> None:
    header.set_qform(RAS, code=1)
    header["sform_code"] = 0


def long_quaternion(header: Any) -> None:
    header["qform_code"], header["sform_code"] = 1, 0
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0.6, 0.6, 0.5292


def long_quaternion_beside_an_sform(header: Any) -> None:
    long_quaternion(header)
    header["sform_code"] = 1


def no_slices(header: Any) -> None:
    header["dim"][3] = 0


def two_places(header: Any) -> None:
    header.set_qform(np.diag([0.0117, 0.0039, 0.12, 1.0]), code=1)


def no_pixdim(header: Any) -> None:
    header["pixdim"][1:4] = 0


@pytest.mark.parametrize(
    "change",
    [uncoded, micrometres, by_quaternion, long_quaternion, long_quaternion_beside_an_sform, two_places, no_pixdim, no_slices],
)
def test_a_mask_has_the_fields_of_its_image(change: Callable[[Any], None], tmp_path: Path) -> None:
    source = drawn(tmp_path / "a.nii", change)
    scan = open_scan(source)
    write_nifti(tmp_path / "mask.nii", scan.pixels[0] > 3, scan.geometry)
    before, after = (nibabel.Nifti1Header(path.read_bytes()[:348], check=False) for path in (source, tmp_path / "mask.nii"))
    for name in FIELDS:
        assert np.allclose(before[name], after[name], rtol=0, atol=1e-4 if name.startswith("quatern") else 0), name
    assert np.array_equal(before.get_sform(), after.get_sform())
    assert open_scan(tmp_path / "mask.nii").geometry == scan.geometry
    if change is not long_quaternion:
        assert np.array_equal(nibabel.load(source).affine, nibabel.load(tmp_path / "mask.nii").affine)
    assert np.isfinite(nibabel.load(tmp_path / "mask.nii").affine).all()


@pytest.mark.parametrize(
    ("change", "spacing", "said"),
    [
        (lambda header: None, (0.12, 0.0039, 0.0117), None),
        (micrometres, (0.12, 0.0039, 0.0117), None),
        (long_quaternion, (0.12, 0.0039, 0.0117), None),
        (long_quaternion_beside_an_sform, (0.12, 0.0039, 0.0117), None),
        (no_slices, (0.12, 0.0039, 0.0117), None),
        (no_pixdim, (0.12, 0.0039, 0.0117), r"pixdim \(0 x 0 x 0 mm\) and its affine \(0.0117 x 0.0039 x 0.12 mm\) disagree"),
        (lambda header: header["pixdim"].__setitem__(slice(1, 4), 1), (0.12, 0.0039, 0.0117), "disagree"),
        (lambda header: header["pixdim"].__setitem__(slice(1, 4), (-0.0117, -0.0039, -0.12)), (0.12, 0.0039, 0.0117), None),
        (uncoded, None, None),
        (lambda header: header.__setitem__("sform_code", 0), (0.12, 0.0039, 0.0117), None),
        (lambda header: (header.__setitem__("sform_code", 0), header["pixdim"].__setitem__(3, 0)), (None, 0.0039, 0.0117), None),
        (lambda header: (header.__setitem__("sform_code", 0), no_pixdim(header)), None, None),
        (lambda header: header.set_sform(np.diag([1.0, 1, 1, 1]), code=2), None, "exactly 1 mm.*sizes are in px"),
        (
            lambda header: header.set_sform(np.diag([0.02, 0.004, 20, 1]), code=2),
            None,
            "a size of 80 x 0.02 x 0.14 mm.*larger than an eye",
        ),
    ],
)
def test_spacing_is_what_the_header_says_and_never_more(
    change: Any, spacing: Any, said: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    scan = open_scan(drawn(tmp_path / "a.nii", change))
    assert (capfd.readouterr(), caplog.records) == (("", ""), []), "nibabel says nothing of its own"
    found = scan.geometry.spacing_mm
    assert (found and tuple(axis and round(axis, 6) for axis in found)) == spacing
    assert scan.geometry.spacing_source == ("unknown" if spacing is None else "tag")
    assert [bool(re.search(said or "^$", warning)) for warning in scan.warnings] == ([True] if said else [])


def test_the_same_doubts_of_dicom(tmp_path: Path) -> None:
    for spacing, known in (([1.0, 1.0], False), ([0.01, 0.02], True), ([20.0, 0.1], False)):
        scan = open_scan(saved(dicom(ramp(5, 7), PixelSpacing=spacing), tmp_path / "a.dcm"))
        assert (scan.geometry.spacing_mm is not None) == known
        assert len(scan.warnings) == (not known)


def test_spacing_that_a_person_stated_is_believed(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", np.arange(35, dtype=np.uint8).reshape(5, 7), Geometry((5, 7), (1.0, 1.0), "user"))
    assert open_scan(tmp_path / "a.nii").geometry.spacing_mm == (1.0, 1.0)


def test_an_axis_of_no_pixels_counts_one(tmp_path: Path) -> None:
    path = drawn(tmp_path / "a.nii", dim=[3, 7, 5, 0, 1, 1, 1, 1])
    assert open_scan(path).geometry.shape == (1, 5, 7)
    path.write_bytes(path.read_bytes() + b"more slices")
    with pytest.raises(ScanError, match="an axis of 0 pixels, but the file holds more"):
        open_scan(path)
    with pytest.raises(ScanError, match="states 0 axes"):
        open_scan(drawn(tmp_path / "b.nii", dim=[0, 7, 5, 4, 1, 1, 1, 1]))


@pytest.mark.parametrize("slices", [1, 2])
def test_colour_as_a_vector_in_the_fifth_axis(slices: int, tmp_path: Path) -> None:
    scan = open_scan(drawn(tmp_path / "a.nii", shape=(7, 5, slices, 1, 3), intent_code=1007))
    flat = np.arange(3 * slices * 35, dtype=np.uint8).reshape(3, slices, 5, 7)
    assert np.array_equal(scan.pixels, flat[:, 0] if slices == 1 else flat)
