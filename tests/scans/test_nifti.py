"""NIfTI: array and geometry come back identical, and another reader sees the same thing in the same place."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.errors import ScanError
from pipeline.scans.nifti import read_nifti, write_nifti
from pipeline.scans.open import open_scan
from pipeline.types import Geometry

ROOT = Path(__file__).resolve().parents[2]
AFFINE = np.array([[0.0, 0.2, 0.0, 1 / 3], [0.3, 0.0, 0.0, -2.0], [0.0, 0.0, -0.1, 3.0], [0.0, 0.0, 0.0, 1.0]])
VOLUME = (np.arange(4 * 5 * 7) % 200).reshape(4, 5, 7)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"])
def test_round_trip_is_identical(name: str, dtype: str, tmp_path: Path) -> None:
    geometry = Geometry((4, 5, 7), (0.1, 1 / 3, 0.3), "axial_length", AFFINE, "L", "tag")
    array = VOLUME.astype(dtype)
    write_nifti(tmp_path / name, array, geometry)
    again, placed = read_nifti(tmp_path / name)
    assert again.dtype == dtype
    assert np.array_equal(again, array)
    assert placed == geometry
    assert np.array_equal(placed.affine, AFFINE)
    scan = open_scan(tmp_path / name)
    assert scan.geometry == geometry
    assert np.array_equal(scan.pixels, array[None])
    assert scan.case.eye == "L"


@pytest.mark.parametrize("geometry", [Geometry((5, 7)), Geometry((5, 7), (0.5, 0.25), "user", None, "R", "filename")])
def test_two_dimensions_grey_mask_and_colour(geometry: Geometry, tmp_path: Path) -> None:
    grey = VOLUME[0].astype(np.uint8)
    for array in (grey, grey > 10, np.stack([grey, grey + 1, grey + 2], axis=-1)):
        write_nifti(tmp_path / "a.nii.gz", array, geometry)
        again, placed = read_nifti(tmp_path / "a.nii.gz")
        assert np.array_equal(again, array)
        assert placed == geometry
        assert placed.affine is None
    assert open_scan(tmp_path / "a.nii.gz").pixels.shape == (3, 5, 7)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, VOLUME.astype(np.uint8), Geometry((4, 5, 7)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_another_reader_finds_columns_first_and_the_world_in_ras(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", VOLUME.astype(np.uint8), Geometry((4, 5, 7), (0.1, 0.2, 0.3), "tag", AFFINE))
    image = nibabel.load(tmp_path / "a.nii")
    assert image.shape == (7, 5, 4)
    column, row, piece = 6, 2, 1
    assert image.dataobj[column, row, piece] == VOLUME[piece, row, column]
    left, posterior, superior = (AFFINE @ [column, row, piece, 1])[:3]
    assert np.allclose((image.affine @ [column, row, piece, 1])[:3], [-left, -posterior, superior], atol=1e-6)
    assert image.header.get_zooms() == pytest.approx((0.3, 0.2, 0.1))
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_file_of_another_writer(tmp_path: Path) -> None:
    ras = np.array([[-0.01, 0, 0, 3], [0, 0, -0.2, 4], [0, -0.004, 0, 5], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(VOLUME.T.astype(np.int16), ras), tmp_path / "a.nii.gz")
    array, geometry = read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(array, VOLUME)
    assert geometry.spacing_mm == pytest.approx((0.2, 0.004, 0.01))
    assert geometry.spacing_source == "tag"
    assert np.allclose(geometry.affine, np.array([[0.01, 0, 0, -3], [0, 0, 0.2, -4], [0, -0.004, 0, 5], [0, 0, 0, 1.0]]))


def test_unknown_spacing_stays_unknown(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME.T.astype(np.uint8), None)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii")[1] == Geometry((4, 5, 7))
    image.header.set_zooms((20, 30, 40))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii")[1].spacing_mm == pytest.approx((0.04, 0.03, 0.02))


def test_a_moved_image_is_not_placed_by_the_old_note(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", VOLUME.astype(np.uint8), Geometry((4, 5, 7), (0.1, 0.2, 0.3), "tag", AFFINE))
    image = nibabel.load(tmp_path / "a.nii")
    moved = nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([2.0, 2.0, 2.0, 1.0]), image.header)
    nibabel.save(moved, tmp_path / "b.nii")
    assert len(nibabel.load(tmp_path / "b.nii").header.extensions) == 1
    geometry = read_nifti(tmp_path / "b.nii")[1]
    assert geometry.spacing_mm == (2.0, 2.0, 2.0)
    assert np.allclose(geometry.affine, np.diag([-2.0, -2.0, 2.0, 1.0]))


def test_scaling_by_no_number_is_told(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME.T.astype(np.int16), None)
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[116:120] = np.float32(np.nan).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(ScanError, match="scl_inter"):
        read_nifti(tmp_path / "a.nii")


def test_scaling_big_endian_second_version_and_trailing_ones(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME.T.astype(np.int16), None)
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "a.nii")
    assert np.allclose(read_nifti(tmp_path / "a.nii")[0], np.asarray(nibabel.load(tmp_path / "a.nii").dataobj).T)
    assert read_nifti(tmp_path / "a.nii")[0].dtype == np.float32
    big = nibabel.Nifti1Image(VOLUME.T[..., None].astype(">i2"), None, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, tmp_path / "b.nii")
    array, _ = read_nifti(tmp_path / "b.nii")
    assert np.array_equal(array, VOLUME)
    assert array.dtype.isnative
    nibabel.save(nibabel.Nifti2Image(VOLUME.T.astype(np.uint8), None), tmp_path / "c.nii.gz")
    assert np.array_equal(read_nifti(tmp_path / "c.nii.gz")[0], VOLUME)


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    cases = {
        "unsupported": nibabel.Nifti1Image(np.zeros((7, 5, 4, 3), np.uint8), None),
        "malformed": nibabel.Nifti1Image(np.full((7, 5, 4), np.nan, np.float32), None),
    }
    for code, image in cases.items():
        nibabel.save(image, path)
        with pytest.raises(ScanError) as caught:
            read_nifti(path)
        assert caught.value.code == code
    nibabel.save(nibabel.Nifti1Image(np.zeros((7, 5), np.complex64), None), path)
    with pytest.raises(ScanError, match="complex"):
        read_nifti(path)
    nibabel.save(nibabel.Nifti1Pair(VOLUME.T.astype(np.uint8), None), tmp_path / "pair.hdr")
    with pytest.raises(ScanError, match="two files"):
        read_nifti(tmp_path / "pair.hdr")
    write_nifti(path, VOLUME.astype(np.uint8), Geometry((4, 5, 7)))
    whole = path.read_bytes()
    for content, code in ((whole[:-1], "truncated"), (gzip.compress(whole)[:-20], "truncated"), (b"", "empty"), (b"text", "not_an_image")):
        path.write_bytes(content)
        with pytest.raises(ScanError) as caught:
            read_nifti(path)
        assert caught.value.code == code
    path.write_bytes(whole)
    with pytest.raises(ScanError, match="140 pixels"):
        read_nifti(path, 139)


def test_damage_that_only_the_checksum_shows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    write_nifti(path, VOLUME.astype(np.uint8), Geometry((4, 5, 7)))
    packed = bytearray(gzip.compress(path.read_bytes(), compresslevel=0))
    packed[-50] ^= 4  # among the pixels, which level 0 stores as they are
    longer = bytearray(gzip.compress(path.read_bytes() + b"more than the header states", compresslevel=0))
    path_of_longer = tmp_path / "longer.nii.gz"
    path_of_longer.write_bytes(longer)
    assert np.array_equal(read_nifti(path_of_longer)[0], VOLUME)
    path_of_longer.write_bytes(bytes(longer) + b"what some systems leave behind a file")
    assert np.array_equal(read_nifti(path_of_longer)[0], VOLUME)
    longer[-50] ^= 4
    for content, code in ((packed, "malformed"), (longer, "malformed"), (gzip.compress(path.read_bytes())[:-3], "truncated")):
        path.write_bytes(content)
        with pytest.raises(ScanError) as caught:
            read_nifti(path)
        assert caught.value.code == code


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 100))
    with pytest.raises(ScanError) as caught:
        open_scan(tmp_path / "a.nii.gz")
    assert caught.value.code == "too_large"


def test_the_writer_wants_array_and_geometry_to_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not match"):
        write_nifti(tmp_path / "a.nii", VOLUME, Geometry((5, 4, 7)))


def test_an_extension_that_says_it_is_dicom_is_never_parsed(tmp_path: Path) -> None:
    """Nor is pydicom imported for it, which takes four fifths of nibabel's own import."""
    image = nibabel.Nifti1Image(np.arange(12, dtype=np.int16).reshape(4, 3), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"0123456789"))
    nibabel.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[356:360] = (2).to_bytes(4, "little")  # the extension's code
    (tmp_path / "a.nii").write_bytes(content)
    say = (
        "import sys; from pathlib import Path; from pipeline.scans.nifti import read_nifti; "
        "print(read_nifti(Path(sys.argv[1]))[0].shape, 'pydicom' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", say, str(tmp_path / "a.nii")], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.split() == ["(3,", "4)", "False"], done.stderr[-2000:]
