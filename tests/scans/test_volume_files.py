"""MetaImage and NRRD, written here byte by byte: pixels, patient's axes, spacing, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ScanError
from pipeline.scans.open import content_sha256, open_scan
from tests.scans.make import photograph, ramp

VOLUME = ramp(4, 5 * 7, "int16", 3).reshape(4, 5, 7)  # 4 slices, 5 rows, 7 columns


def meta(data: str = "LOCAL", kind: str = "MET_SHORT", size: str = "7 5 4", **more: str) -> bytes:
    lines = {"ObjectType": "Image", "NDims": str(len(size.split())), "BinaryData": "True", "BinaryDataByteOrderMSB": "False"}
    lines |= {"DimSize": size, "ElementType": kind} | more | {"ElementDataFile": data}
    return "".join(f"{name} = {value}\n" for name, value in lines.items()).encode()


def nrrd(sizes: str = "7 5 4", kind: str = "short", encoding: str = "raw", *more: str) -> bytes:
    lines = [f"type: {kind}", f"dimension: {len(sizes.split())}", f"sizes: {sizes}", f"encoding: {encoding}", *more]
    return ("NRRD0004\n# a comment\n" + "\n".join(lines) + "\n\n").encode()


PLACED = {"TransformMatrix": "0 1 0 1 0 0 0 0 1", "Offset": "10 20 30", "ElementSpacing": "0.1 0.2 0.3"}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_metaimage_is_read_where_it_lies(tmp_path: Path, packed: bool, order: str) -> None:
    stored = VOLUME.astype(f"{order}i2").tobytes()
    head = meta(CompressedData=str(packed), BinaryDataByteOrderMSB=str(order == ">"), **PLACED)
    (tmp_path / "scan_OS.mha").write_bytes(head + (zlib.compress(stored) if packed else stored))
    scan = open_scan(tmp_path / "scan_OS.mha")
    assert np.array_equal(scan.pixels, VOLUME[None])
    assert scan.pixels.dtype == np.int16
    assert (scan.geometry.spacing_mm, scan.geometry.spacing_source) == ((0.3, 0.2, 0.1), "tag")
    assert scan.geometry.laterality == "L"
    # The first index runs along y, the second along x.
    assert scan.geometry.affine is not None
    assert np.allclose(scan.geometry.affine @ [1, 0, 0, 1], [10, 20.1, 30, 1])
    assert np.allclose(scan.geometry.affine @ [0, 1, 2, 1], [10.2, 20, 30.6, 1])


def test_a_header_and_its_data_are_one_scan(tmp_path: Path) -> None:
    for name, volume in (("a", VOLUME), ("b", VOLUME[::-1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oct.mhd").write_bytes(meta("oct.raw", ElementSpacing="0.1 0.2 0.3"))
        (tmp_path / name / "oct.raw").write_bytes(np.ascontiguousarray(volume).tobytes())
    first, second = (open_scan(tmp_path / name / "oct.mhd") for name in "ab")
    assert np.array_equal(second.pixels, VOLUME[None, ::-1])
    assert first.sha256 != second.sha256, "their headers are the same file"
    assert first.sha256 == content_sha256(tmp_path / "a" / "oct.mhd")
    (tmp_path / "a" / "oct.raw").write_bytes(VOLUME.tobytes()[:-1])
    with pytest.raises(ScanError) as caught:
        open_scan(tmp_path / "a" / "oct.mhd")
    assert caught.value.code == "truncated"


@pytest.mark.parametrize("name", ["../a.raw", "/etc/hostname", "LIST", "a_%03d.raw 1 4 1", "link.raw"])
def test_a_header_does_not_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.raw").write_bytes(VOLUME.tobytes())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.raw").symlink_to(tmp_path / "a.raw")
    (tmp_path / "in" / "a.mhd").write_bytes(meta(name))
    with pytest.raises(ScanError, match="another folder") as caught:
        open_scan(tmp_path / "in" / "a.mhd")
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize(("space", "sign"), [("left-posterior-superior", 1), ("right-anterior-superior", -1)])
def test_an_nrrd_is_read_where_it_lies(tmp_path: Path, encoding: str, space: str, sign: int) -> None:
    pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding]
    place = (f"space: {space}", "space directions: (0.1,0,0) (0,0,0.2) (0,0.3,0)", "space origin: (1,2,3)", "endian: little")
    (tmp_path / "a").write_bytes(nrrd("7 5 4", "short", encoding, *place) + pack(VOLUME.astype("<i2").tobytes()))
    scan = open_scan(tmp_path / "a")
    assert np.array_equal(scan.pixels, VOLUME[None])
    assert scan.geometry.spacing_mm == pytest.approx((0.3, 0.2, 0.1))
    assert scan.geometry.affine is not None
    assert np.allclose(scan.geometry.affine @ [1, 1, 1, 1], [sign * 1.1, sign * 2.3, 3.2, 1])


@pytest.mark.parametrize(
    ("head", "pack"),
    [
        (nrrd("7 5 4", "short", "gzip"), lambda data: gzip.compress(data, compresslevel=0)),
        (nrrd("7 5 4", "short", "bzip2"), bz2.compress),
        (meta(CompressedData="True"), lambda data: zlib.compress(data, 0)),
    ],
)
@pytest.mark.parametrize("more", [b"", b"more than the header states"])
def test_damage_that_only_the_checksum_shows_is_refused(tmp_path: Path, head: bytes, pack: Callable[[bytes], bytes], more: bytes) -> None:
    data = bytearray(pack(VOLUME.tobytes() + more))
    (tmp_path / "a").write_bytes(head + data)
    assert np.array_equal(open_scan(tmp_path / "a").pixels, VOLUME[None])
    (tmp_path / "a").write_bytes(head + data[:-1])
    with pytest.raises(ScanError, match="truncated"):
        open_scan(tmp_path / "a")
    data[len(data) // 2] ^= 4
    (tmp_path / "a").write_bytes(head + data)
    with pytest.raises(ScanError, match="damaged"):
        open_scan(tmp_path / "a")


def test_colour_and_single_slices(tmp_path: Path) -> None:
    colour = photograph(5, 7)
    (tmp_path / "a").write_bytes(nrrd("3 7 5", "uchar", "raw", "kinds: RGB-color domain domain") + colour.tobytes())
    assert np.array_equal(open_scan(tmp_path / "a").pixels, colour.transpose(2, 0, 1))
    (tmp_path / "b").write_bytes(meta(kind="MET_UCHAR", size="7 5 1", ElementNumberOfChannels="3") + colour.tobytes())
    assert np.array_equal(open_scan(tmp_path / "b").pixels, colour.transpose(2, 0, 1))


def test_a_spacing_that_nobody_stated_is_unknown(tmp_path: Path) -> None:
    data = VOLUME.tobytes()
    for head in (
        meta(),
        meta(ElementSpacing="1 1 1", Offset="0 0 0", TransformMatrix="1 0 0 0 1 0 0 0 1"),
        nrrd(),
        nrrd("7 5 4", "short", "raw", "spacings: 1 2 3"),
    ):
        (tmp_path / "a").write_bytes(head + data)
        assert open_scan(tmp_path / "a").geometry.spacing_mm is None
        affine = open_scan(tmp_path / "a").geometry.affine
        assert (affine is None) == (b"TransformMatrix" not in head), "axes of pixels whose size nobody knows still run somewhere"
    (tmp_path / "a").write_bytes(meta(ElementSpacing="0.1 0.2 0") + data)
    assert open_scan(tmp_path / "a").geometry.spacing_mm == (None, 0.2, 0.1)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (meta(size="7 5 4 2") + b"\0" * 999, "unsupported"),
        (meta(kind="MET_STRING") + b"\0" * 999, "unsupported"),
        (meta(size="70000 50000 4"), "too_large"),
        (meta(size="seven 5 4"), "malformed"),
        (meta(CompressedData="True") + b"no zlib stream", "malformed"),
        (meta(kind="MET_FLOAT") + np.full(140, np.nan, "<f4").tobytes(), "malformed"),
        (nrrd("7 5 4", "block") + b"\0" * 999, "unsupported"),
        (nrrd("7 5 4", "short", "raw", "data file: ../a.raw"), "unsupported"),
        (nrrd() + VOLUME.tobytes()[:-1], "truncated"),
        (b"NRRD0004\ntype: short\nencoding: raw\n\n", "malformed"),
    ],
)
def test_what_is_refused_has_a_name(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ScanError) as caught:
        open_scan(tmp_path / "a")
    assert caught.value.code == code


def test_a_bomb_is_inflated_no_further_than_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(meta(CompressedData="True", kind="MET_UCHAR", size="7 5 4") + zlib.compress(bytes(30_000_000)))
    assert open_scan(tmp_path / "a").pixels.shape == (1, 4, 5, 7)
