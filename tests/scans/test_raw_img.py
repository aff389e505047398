"""Raw .img volumes: read as the user states them, and never otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.deidentify.file import clean_file
from pipeline.errors import ConfigError, ScanError
from pipeline.scans.open import open_scan
from pipeline.scans.raw_img import state_img_geometry
from pipeline.scans.stated import stated
from tests.deidentify.test_dicom import job


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """(slices, rows, columns) = (3, 8, 5), each voxel another value, of a left eye."""
    path = tmp_path / "P1" / "cube_OS.img"
    path.parent.mkdir()
    np.arange(120, dtype=np.uint8).tofile(path)
    yield path
    state_img_geometry(None)


def test_it_is_read_as_stated(volume: Path) -> None:
    state_img_geometry("8,5,3")
    scan = open_scan(volume, root=volume.parent.parent)
    np.testing.assert_array_equal(scan.pixels[0], np.arange(120).reshape(3, 8, 5))
    assert (scan.modality, scan.modality_source, scan.geometry.laterality, scan.geometry.spacing_mm) == ("oct", "user", "L", None)
    state_img_geometry("24,5,1")
    assert open_scan(volume).pixels.shape == (1, 24, 5)
    assert stated(img_geometry="8,5,3").options() == "--img-geometry 8,5,3"


def test_noise_that_begins_like_another_format_is_noise(volume: Path) -> None:
    content = bytearray(volume.read_bytes())
    content[:3] = b"P5 "
    volume.write_bytes(content)
    state_img_geometry("8,5,3")
    assert open_scan(volume).pixels.shape == (1, 3, 8, 5)


def test_without_a_statement_or_with_another_size_it_is_refused(volume: Path) -> None:
    with pytest.raises(ScanError, match="--img-geometry ROWS,COLUMNS,SLICES") as caught:
        open_scan(volume)
    assert caught.value.code == "no_geometry"
    state_img_geometry("8,5,4")
    with pytest.raises(ScanError, match="has 120 bytes, and 8,5,4"):
        open_scan(volume)
    for said in ("8,5", "8x5x3", "0,5,3", "8,5,3,1"):
        with pytest.raises(ConfigError, match="such as 1024,512,128"):
            state_img_geometry(said)


def test_deidentified_it_is_nifti(volume: Path) -> None:
    state_img_geometry("8,5,3")
    cleaned, _ = clean_file(volume, job(volume.parent.parent))
    assert cleaned.suffix == ".nii.gz"
