"""Spectralis .vol: every field where it lies, real exports as the device shows them, and no header that leads astray."""

from __future__ import annotations

import csv
import random
import struct
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.errors import ScanError
from pipeline.scans.identity import NO_VISIT, Pseudonyms
from pipeline.scans.open import case_by_tags, open_scan
from pipeline.scans.vendor import read_surfaces
from tests.conftest import shared_data

NAMES = Pseudonyms(b"a key of sixteen")
LARGEST = float(np.finfo(np.float32).max)
REAL = ("Willis_B_716_0", "Willis_B_716_2", "Willis_B_716_4", "valid")


@dataclass
class Vol:
    """The fields of a small .vol file; ``lines`` is (B-scans, lines, columns), ``stored`` (B-scans, rows, columns)."""

    stored: npt.NDArray[np.float32]
    lines: npt.NDArray[np.float32]
    scales: tuple[float, float, float] = (0.0125, 0.25, 0.00390625)  # ScaleX, Distance, ScaleZ
    eye: bytes = b"OS"
    pattern: int = 3
    patient: bytes = b"MEIER-4711"
    visit: float = 36526.75  # 2000-01-01 in the evening
    slo: tuple[int, int] = (5, 4)
    start: int = 256
    spare: int = 20  # bytes between lines and intensities

    def bytes(self) -> bytes:
        slices, rows, columns = self.stored.shape
        b_header = self.start + self.lines.shape[1] * columns * 4 + self.spare
        head = bytearray(2048)
        struct.pack_into("<12s3I3d2I2dI", head, 0, b"HSF-OCT-103", columns, slices, rows, *self.scales, *self.slo, 0.01, 0.01, 30)
        struct.pack_into("<d4sQiI16s", head, 76, -1.5, self.eye, 125911584000000000, self.pattern, b_header, b"SERIES")
        struct.pack_into("<I24sdI24sd", head, 136, 7, self.patient, 20000.0, 9, b"#VISIT", self.visit)
        out = bytes(head) + b"\x55" * (self.slo[0] * self.slo[1])
        for lines, stored in zip(self.lines, self.stored, strict=True):
            b_head = bytearray(self.start)
            struct.pack_into("<12sI4d2If", b_head, 0, b"HSF-BS-103", b_header, 0.0, 1.0, 2.0, 1.0, len(lines), self.start, 30.0)
            out += bytes(b_head) + lines.astype("<f4").tobytes() + b"\0" * self.spare + stored.astype("<f4").tobytes()
        return out + b"thickness grid"

    def save(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path


def volume(slices: int = 3, rows: int = 6, columns: int = 11, lines: int = 3) -> Vol:
    """Fourth powers of i / 255, so that the grey values count up; lines at 1, 2, ... pixels, deeper in every B-scan by 0.5."""
    grey = (np.arange(slices * rows * columns) % 256).reshape(slices, rows, columns)
    depth = 1.0 + np.arange(lines)[None, :, None] + 0.5 * np.arange(slices)[:, None, None] + np.zeros((1, 1, columns))
    return Vol(((grey / 255) ** 4).astype(np.float32), depth.astype(np.float32))


def refusal(path: Path, max_pixels: int = 1_000_000) -> ScanError:
    with pytest.raises(ScanError) as caught:
        open_scan(path, max_pixels=max_pixels)
    assert "MEIER" not in str(caught.value)
    assert str(path) not in str(caught.value)
    return caught.value


def test_every_field_lies_where_it_belongs(tmp_path: Path) -> None:
    path = volume().save(tmp_path / "named.png")
    scan = open_scan(path, pseudonyms=NAMES)
    assert scan.modality == "oct"
    assert scan.pixels.dtype == np.uint8
    assert np.array_equal(scan.pixels[0], (np.arange(198) % 256).reshape(3, 6, 11))
    assert scan.geometry.spacing_mm == (0.25, 0.00390625, 0.0125)
    assert (scan.geometry.spacing_source, scan.geometry.laterality, scan.geometry.laterality_source) == ("tag", "L", "tag")
    surfaces = read_surfaces(path)
    assert list(surfaces) == ["ILM", "BM", "RNFL"]
    for place, depth in enumerate(surfaces.values()):
        assert depth.dtype == np.float32
        assert np.array_equal(depth, np.repeat(1.0 + place + 0.5 * np.arange(3)[:, None], 11, axis=1))


def test_patient_and_visit_become_the_tokens_that_dicom_has(tmp_path: Path) -> None:
    path = volume().save(tmp_path / "a.vol")
    case = open_scan(path, pseudonyms=NAMES, root=tmp_path).case
    assert (case.patient, case.eye, case.visit) == (NAMES.token("patient", "MEIER-4711"), "L", NAMES.token("visit", "20000101"))
    assert case_by_tags(path, pseudonyms=NAMES, root=tmp_path) == case
    assert "MEIER" not in str(case)


def test_a_header_without_them_leaves_it_to_the_place(tmp_path: Path) -> None:
    blank = volume()
    blank.patient, blank.visit, blank.eye = b"", 0.0, b""
    (tmp_path / "p1" / "v1").mkdir(parents=True)
    scan = open_scan(blank.save(tmp_path / "p1" / "v1" / "scan_OD.vol"), pseudonyms=NAMES, root=tmp_path)
    assert (scan.case.patient, scan.case.eye, scan.case.visit) == (NAMES.token("patient", "p1"), "R", NAMES.token("visit", "v1"))
    assert scan.geometry.laterality_source == "filename"
    for odd in (float("nan"), float("inf"), -5.0, 1e300):
        blank.visit = odd
        lone = open_scan(blank.save(tmp_path / "scan.vol"), pseudonyms=NAMES, root=tmp_path)
        assert (lone.case.eye, lone.case.visit, lone.geometry.laterality) == ("U", NO_VISIT, None)


@pytest.mark.parametrize(
    ("scales", "spacing"),
    [
        ((0.0125, 0.0, 0.004), (None, 0.004, 0.0125)),
        ((float("nan"), 0.25, 0.004), (0.25, 0.004, None)),
        ((0.0125, 0.25, -1.0), (0.25, None, 0.0125)),
        ((float("inf"), 0.25, 0.004), (0.25, 0.004, None)),
        ((0.0, float("nan"), -1.0), None),
    ],
)
def test_a_scale_that_is_not_stated_is_unknown(
    scales: tuple[float, float, float], spacing: tuple[float | None, ...] | None, tmp_path: Path
) -> None:
    vol = volume()
    vol.scales = scales
    geometry = open_scan(vol.save(tmp_path / "a")).geometry
    assert (geometry.spacing_mm, geometry.spacing_source) == (spacing, "tag" if spacing else "unknown")


def test_a_star_has_no_distance_between_its_scans(tmp_path: Path) -> None:
    star = volume()
    star.pattern = 5
    scan = open_scan(star.save(tmp_path / "a"))
    assert scan.pixels.shape == (1, 3, 6, 11)
    assert scan.geometry.spacing_mm == (None, 0.00390625, 0.0125)


def test_a_single_b_scan_is_a_picture(tmp_path: Path) -> None:
    line = volume(slices=1)
    line.scales = (0.0125, 0.0, 0.004)  # no distance: there is no second scan
    scan = open_scan(line.save(tmp_path / "a"))
    assert scan.pixels.shape == (1, 6, 11)
    assert (scan.geometry.shape, scan.geometry.spacing_mm, scan.geometry.spacing_source) == ((6, 11), (0.004, 0.0125), "tag")
    assert read_surfaces(tmp_path / "a")["ILM"].shape == (1, 11)
    line.pattern = 2  # a circle
    assert open_scan(line.save(tmp_path / "b")).geometry.spacing_mm == (0.004, 0.0125)
    line.scales = (0.0125, 0.25, 0.0)
    assert open_scan(line.save(tmp_path / "c")).geometry.spacing_mm == (None, 0.0125)


def test_no_value_is_black_and_no_line_is_nan(tmp_path: Path) -> None:
    vol = volume(slices=1)
    vol.stored[0, 0, :6] = [LARGEST, np.nan, -1.0, np.inf, 1.0, 1.5]
    vol.lines[0, 0, :6] = [LARGEST, np.nan, -0.5, np.inf, 0.0, 5.5]
    vol.lines[0, 2] = LARGEST
    path = vol.save(tmp_path / "a")
    assert open_scan(path).pixels[0, 0, :6].tolist() == [0, 0, 0, 0, 255, 255]
    surfaces = read_surfaces(path)
    assert np.array_equal(surfaces["ILM"][0, :7], [np.nan, np.nan, np.nan, np.nan, 0.0, 5.5, 1.0], equal_nan=True)
    assert np.isnan(surfaces["RNFL"]).all()


def test_lines_that_a_file_lacks_are_nan_and_later_headers_are_longer(tmp_path: Path) -> None:
    two = read_surfaces(volume(lines=2).save(tmp_path / "a"))
    assert np.isnan(two["RNFL"]).all()
    assert not np.isnan(two["BM"]).any()
    assert all(np.isnan(depth).all() for depth in read_surfaces(volume(lines=0).save(tmp_path / "a")).values())
    many = volume(lines=17)
    many.start = 300
    assert np.array_equal(read_surfaces(many.save(tmp_path / "a"))["RNFL"][:, 0], [3.0, 3.5, 4.0])


@pytest.mark.parametrize("kept", [20, 2047, 2048, 2060, 2400, 3000, -15])
def test_a_file_cut_anywhere_is_truncated(kept: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(volume().bytes()[:kept])
    assert refusal(tmp_path / "a").code == "truncated"
    with pytest.raises(ScanError) as caught:
        read_surfaces(tmp_path / "a")
    assert caught.value.code == "truncated"


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (12, 0, "malformed"),
        (16, 0, "malformed"),
        (20, 0, "malformed"),
        (12, 2**32 - 1, "too_large"),
        (16, 2**32 - 1, "too_large"),
        (48, 2**32 - 1, "too_large"),
        (16, 4, "truncated"),
        (100, 2**32 - 1, "truncated"),
        (100, 255, "malformed"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_read(offset: int, value: int, code: str, tmp_path: Path) -> None:
    data = bytearray(volume().bytes())
    struct.pack_into("<I", data, offset, value)
    (tmp_path / "a").write_bytes(data)
    assert refusal(tmp_path / "a").code == code


@pytest.mark.parametrize(("offset", "value"), [(0, 0), (48, 2**32 - 1), (48, 9), (52, 0), (52, 2**32 - 1)])
def test_a_b_scan_header_that_leads_elsewhere_has_no_surfaces(offset: int, value: int, tmp_path: Path) -> None:
    data = bytearray(volume().bytes())
    struct.pack_into("<I", data, 2048 + 20 + offset, value)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ScanError) as caught:
        read_surfaces(tmp_path / "a")
    assert caught.value.code == "malformed"
    assert open_scan(tmp_path / "a").geometry.shape == (3, 6, 11)  # the pixels do not hang on it


def test_surfaces_of_what_is_no_vol(tmp_path: Path) -> None:
    for content, code in ((b"", "empty"), (b"abc", "not_an_image"), (b"\x89PNG\r\n\x1a\n", "not_an_image")):
        (tmp_path / "a.vol").write_bytes(content)
        with pytest.raises(ScanError) as caught:
            read_surfaces(tmp_path / "a.vol")
        assert caught.value.code == code


def test_bytes_changed_at_random_give_a_scan_or_a_reason(tmp_path: Path) -> None:
    dice = random.Random(4)
    whole = volume().bytes()
    codes: Counter[str] = Counter()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 9)):
            data[dice.randrange(8, dice.choice([104, 208, len(data)]))] = dice.randrange(256)
        (tmp_path / "a").write_bytes(data)
        for read in (open_scan, read_surfaces):
            try:
                read(tmp_path / "a", max_pixels=1_000_000)
                codes["read"] += 1
            except ScanError as error:
                codes[error.code] += 1
    assert codes["read"] > 40
    assert set(codes) == {"read", "truncated", "malformed", "too_large"}


@pytest.mark.parametrize("name", REAL)
def test_real_exports_look_as_the_device_shows_them(name: str) -> None:
    folder = shared_data("spectralis_vol")
    scan = open_scan(folder / f"{name}.vol", pseudonyms=NAMES)
    shown = np.asarray(Image.open(folder / f"{name}_bscan.png"))
    assert scan.pixels.shape == (1, 496, 768)
    assert np.array_equal(scan.pixels[0], shown)
    assert (scan.modality, scan.geometry.laterality) == ("oct", "R")
    assert scan.case.visit == NAMES.token("visit", "20000101")
    spacing = scan.geometry.pixel_mm
    assert spacing is not None
    assert spacing[0] == pytest.approx(0.003871670, abs=1e-9)
    assert 0.0118 < spacing[1] < 0.0180
    surfaces = read_surfaces(folder / f"{name}.vol")
    with open(folder / f"{name}_layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 768
    for line, depth in surfaces.items():
        expected = np.array([float(row[line]) if row[line] else np.nan for row in rows])
        assert depth.shape == (1, 768)
        assert np.array_equal(np.isnan(depth[0]), np.isnan(expected)), line
        assert np.nanmax(np.abs(depth[0] - expected), initial=0.0) <= 0.0051, line  # the table has two decimals


def test_the_empty_export_is_empty() -> None:
    assert refusal(shared_data("spectralis_vol") / "invalid.vol").code == "empty"


@pytest.mark.parametrize("name", REAL)
def test_eyepy_finds_the_same_where_it_reads(name: str) -> None:
    path = shared_data("spectralis_vol") / f"{name}.vol"
    vol_reader = pytest.importorskip("eyepy.io.he.vol_reader")
    reader = vol_reader.HeVolReader(path)
    surfaces = read_surfaces(path)
    for depth, expected in zip(surfaces.values(), reader.layers, strict=False):
        assert np.array_equal(depth, expected, equal_nan=True)
    if reader.parsed_file.scan_pattern == 2:
        with pytest.raises(ValueError, match="Circular"):
            _ = reader.volume
        return
    eye = reader.volume
    scan = open_scan(path, pseudonyms=NAMES)
    assert eye.shape == (1, *scan.geometry.shape)
    assert (eye.scale_y, eye.scale_x) == scan.geometry.pixel_mm
    assert eye.laterality == "OD"
    assert str(reader.parsed_file.visit_date).startswith("2000-01-01")
    # eyepy draws a logarithm instead of the fourth root: the order of the grey values is the same.
    ours, theirs = scan.pixels[0].ravel(), eye.data.ravel()
    ranges = [(theirs[ours == grey].min(), theirs[ours == grey].max()) for grey in np.unique(ours)]
    assert len(ranges) > 100
    assert all(below[1] <= above[0] for below, above in pairwise(ranges))
