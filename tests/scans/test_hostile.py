"""Whatever lies in a folder: a Scan or a named rejection, and not a word of what the file says about a person."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.encaps import generate_frames
from pydicom.pixels import compress
from pydicom.uid import JPEG2000Lossless, RLELossless, StereometricRelationshipStorage

from pipeline.errors import ScanError
from pipeline.scans import files
from pipeline.scans.nifti import write_nifti
from pipeline.scans.open import open_scan, sniff
from pipeline.scans.quiet import libjpeg_lines, quiet
from pipeline.scans.raster import write_png
from pipeline.types import Geometry, Scan
from tests.conftest import shared_data
from tests.scans.make import dicom, encapsulated, item, jpeg, photograph, ramp, saved, sequence

PYDICOM_DATA = Path(pydicom.__file__).parent / "data"
PYDICOM_FILES = sorted(p for p in PYDICOM_DATA.rglob("*") if p.is_file())
CODES = {
    "empty",
    "truncated",
    "malformed",
    "too_large",
    "not_an_image",
    "no_pixels",
    "not_ophthalmic",
    "not_a_scan",
    "unsupported",
    "unreadable",
    "not_a_file",
}


def outcome(path: Path) -> Any:
    """The Scan, or the ScanError, which must be one of those that are promised and tell nothing of the place."""
    try:
        return open_scan(path)
    except ScanError as error:
        rejection = error
    assert rejection.code in CODES
    assert str(path.parent) not in str(rejection)
    assert "\n" not in str(rejection)
    return rejection


def test_every_file_in_the_pydicom_wheel_is_a_scan_or_has_a_reason(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: Counter[str] = Counter()
    for path in PYDICOM_FILES:
        result = outcome(path)
        seen[result.code if isinstance(result, ScanError) else "scan"] += 1
    assert sum(seen.values()) == len(PYDICOM_FILES) > 190
    assert seen["scan"] >= 40
    assert set(seen) == {"scan", "no_pixels", "not_an_image", "not_ophthalmic", "not_a_scan", "malformed"}
    said = capfd.readouterr()
    assert (said.out, said.err, caplog.text) == ("", "", "")


def test_the_pydicom_files_have_the_sizes_that_were_found_before() -> None:
    listed = shared_data("pydicom_3.0.2_test_files.tsv").read_text().splitlines()
    compared = 0
    for line in listed[1:]:
        name, decode = line.split("\t")[0], line.split("\t")[-1]
        path = PYDICOM_DATA / name
        if not path.exists() or not decode.startswith("ok ("):
            continue
        result = outcome(path)
        if isinstance(result, ScanError):
            assert result.code in ("not_ophthalmic", "not_a_scan"), name
            continue
        stored = tuple(int(n) for n in decode[decode.index("(") + 1 : decode.index(")")].split(","))
        colour = stored[-1] == 3 and result.pixels.shape[0] == 3
        assert result.geometry.shape == (stored[:-1] if colour else stored), name
        compared += 1
    assert compared >= 40


@pytest.mark.parametrize(
    ("name", "top_left"),
    [
        # Known from pydicom's own tests: the bars of these pictures, top to bottom, begin with pure red.
        ("SC_rgb_rle.dcm", (255, 0, 0)),
        ("SC_rgb_jpeg_gdcm.dcm", (255, 0, 0)),
        ("SC_rgb_dcmtk_+eb+cr.dcm", (255, 0, 0)),
        ("SC_rgb_jpeg_dcmtk.dcm", (254, 0, 0)),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", (254, 0, 0)),
        ("SC_ybr_full_422_uncompressed.dcm", (254, 0, 0)),
    ],
)
def test_colours_of_foreign_encoders(name: str, top_left: tuple[int, int, int]) -> None:
    scan = open_scan(PYDICOM_DATA / "test_files" / name)
    assert np.abs(scan.pixels[:, 1, 1].astype(int) - top_left).max() <= 2


def test_byte_order_changes_nothing() -> None:
    little, big = (open_scan(PYDICOM_DATA / "test_files" / f"SC_rgb_small_odd{end}.dcm").pixels for end in ("", "_big_endian"))
    assert np.array_equal(little, big)
    assert little[:, 1, 1].tolist() == [63, 87, 176]


@pytest.mark.parametrize("content", [b"", b"abc", b"\0", b"\0" * 3, b"DICM", b"\0" * 128 + b"DICM", b"\0" * 5000, b"\x1f\x8b"])
def test_scraps(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    result = outcome(tmp_path / "a.dcm")
    assert isinstance(result, ScanError)
    assert result.code == ("empty" if not content else "no_pixels" if content[128:] == b"DICM" else "not_an_image")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    codes = {name: outcome(tmp_path / name).code for name in ("fifo", "socket", "folder", "dangling", "loop")}
    listener.close()
    assert codes == {"fifo": "not_a_file", "socket": "not_a_file", "folder": "not_a_file", "dangling": "unreadable", "loop": "unreadable"}
    with pytest.raises(ScanError):
        sniff(tmp_path / "fifo")


def test_a_fifo_that_takes_the_place_of_a_file_in_between_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    write_png(tmp_path / "file", ramp(6, 11))
    before = os.stat(tmp_path / "file")
    monkeypatch.setattr(files.os, "stat", lambda *_, **__: before)  # the look at the name still finds the file
    with pytest.raises(ScanError) as caught, files.open_regular(tmp_path / "fifo"):
        pass
    assert caught.value.code == "not_a_file"


def test_permissions_and_failing_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(tmp_path / "a.png", ramp(6, 11))

    def denied(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files, "_without_waiting", denied)
    result = outcome(tmp_path / "a.png")
    assert isinstance(result, ScanError)
    assert result.code == "unreadable"
    assert "Permission denied" in str(result)
    assert "a.png" not in str(result)
    monkeypatch.undo()

    class Failing:
        def seek(self, *_: int) -> int:
            return 0

        def read(self, *_: int) -> bytes:
            raise OSError(5, "Input/output error", str(tmp_path / "a.png"))

    with pytest.raises(ScanError, match="Input/output error") as caught:
        files.sniff_file(Failing())  # type: ignore[arg-type]
    assert caught.value.code == "unreadable"
    assert "a.png" not in str(caught.value)


def test_names_with_newlines_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    for name in (b"new\nline.png", b"\xff\xfe\xfd.png"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        write_png(path, ramp(6, 11))
        assert open_scan(path).geometry.shape == (6, 11)


def test_vendor_files_are_refused_by_name(tmp_path: Path) -> None:
    for head, vendor in ((b"MDbMDir\3", ".sdb"), (b"FOCT", "Topcon")):
        (tmp_path / "a").write_bytes(head + b"\0" * 5000)
        result = outcome(tmp_path / "a")
        assert isinstance(result, ScanError)
        assert result.code == "unsupported"
        assert vendor in str(result)


def test_numbers_that_are_none_and_names_in_them(tmp_path: Path) -> None:
    dataset = dicom(ramp(6, 11))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.add_new("NumberOfFrames", "IS", "1")
        dataset["NumberOfFrames"]._value = "MEIER"
        dataset["NumberOfFrames"].VR = "LO"
        saved(dataset, tmp_path / "a")
    result = outcome(tmp_path / "a")
    assert isinstance(result, ScanError)
    assert result.code == "malformed"
    assert "MEIER" not in str(result)


def test_a_declared_size_beyond_the_limit(tmp_path: Path) -> None:
    saved(dicom(ramp(6, 11), Rows=65535, Columns=65535), tmp_path / "a")
    assert outcome(tmp_path / "a").code == "too_large"
    saved(dicom(ramp(6, 11), NumberOfFrames=2_000_000_000), tmp_path / "a")
    assert outcome(tmp_path / "a").code == "too_large"


@pytest.mark.parametrize("encoding", ["native", "compressed"])
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_a_dicom_file_cut_anywhere_is_truncated(encoding: str, kept: float, tmp_path: Path) -> None:
    dataset = dicom(photograph(40, 53))
    if encoding == "compressed":
        compress(dataset, JPEG2000Lossless)
    whole = saved(dataset, tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: int(len(whole) * kept)])
    result = outcome(tmp_path / "a")
    if kept == 0.999 and encoding == "compressed":  # only the delimiter behind the picture is gone
        assert np.array_equal(result.pixels, photograph(40, 53).transpose(2, 0, 1))
    else:
        assert isinstance(result, ScanError)
        assert result.code == "truncated"


def test_a_stereometric_relationship_has_no_pixels_by_design(tmp_path: Path) -> None:
    """It refers to two photographs and holds none itself (DICOM PS3.3 A.43)."""
    whole = dicom(
        ramp(6, 11), sop_class=StereometricRelationshipStorage, modality="SMR", PixelData=None, Rows=None, Columns=None, BitsAllocated=None
    )
    result = outcome(saved(whole, tmp_path / "a"))
    assert isinstance(result, ScanError)
    assert result.code == "no_pixels"


def test_a_compressed_picture_without_its_end_is_truncated(tmp_path: Path) -> None:
    whole = dicom(photograph(40, 53))
    compress(whole, JPEG2000Lossless)
    stream = next(generate_frames(whole.PixelData, number_of_frames=1))
    result = outcome(saved(encapsulated(whole, JPEG2000Lossless, [stream[: len(stream) // 4 * 2]]), tmp_path / "a"))
    assert isinstance(result, ScanError)
    assert result.code == "truncated"


def test_sequences_nested_without_end(tmp_path: Path) -> None:
    inner = item(CodeValue="1")
    for _ in range(60):
        inner = item(ConceptNameCodeSequence=sequence(inner))
    whole = saved(dicom(ramp(6, 11), ConceptNameCodeSequence=sequence(inner)), tmp_path / "a").read_bytes()
    assert isinstance(outcome(tmp_path / "a"), Scan)
    opened = b"\x40\x00\x43\xa0SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"  # (0040,A043), then an item, both of unknown length
    at = whole.index(b"\x40\x00\x43\xa0SQ")
    (tmp_path / "b").write_bytes(whole[:at] + opened * 20_000)
    assert isinstance(outcome(tmp_path / "b"), ScanError)


def samples(folder: Path) -> list[bytes]:
    write_png(folder / "png", photograph(23, 31))
    write_nifti(folder / "nii", np.stack([ramp(13, 17)] * 3), Geometry((3, 13, 17)))
    write_nifti(folder / "nii.gz", np.stack([ramp(13, 17)] * 3), Geometry((3, 13, 17)))
    (folder / "jpeg").write_bytes(jpeg(photograph(23, 31)))
    saved(dicom(photograph(23, 31)), folder / "dicom")
    for syntax in (RLELossless, JPEG2000Lossless):
        packed = dicom(photograph(40, 53))
        compress(packed, syntax)
        saved(packed, folder / f"dicom {syntax}")
    tifffile.imwrite(folder / "tiff", photograph(23, 31).astype(np.uint16), photometric="rgb")
    tifffile.imwrite(folder / "tiff 8", photograph(23, 31), photometric="rgb")
    return [p.read_bytes() for p in sorted(folder.iterdir())]


def test_bytes_changed_cut_and_added_at_random(tmp_path: Path) -> None:
    """A fuzzer in small: whatever happens to a good file, the answer is a Scan or a ScanError."""
    dice = random.Random(20)
    (tmp_path / "good").mkdir()
    originals = samples(tmp_path / "good")
    outcomes: Counter[str] = Counter()
    for turn in range(360):
        data = bytearray(originals[turn % len(originals)])
        how = dice.randrange(3)
        if how == 0:
            del data[dice.randrange(len(data)) :]
        for _ in range(dice.randrange(1, 9) if how else 0):
            # Mostly in the header, where every byte means something.
            at = dice.randrange(min(len(data), 400) if how == 1 else len(data))
            data[at] = dice.randrange(256)
        (tmp_path / "a").write_bytes(bytes(data))
        try:
            open_scan(tmp_path / "a", max_pixels=1_000_000)
            outcomes["scan"] += 1
        except ScanError as error:
            outcomes[error.code] += 1
    assert outcomes["scan"] > 20
    assert outcomes["truncated"] + outcomes["malformed"] > 60


def test_silence_ends_where_the_reader_ends(caplog: pytest.LogCaptureFixture) -> None:
    before = list(warnings.filters)
    with quiet(), quiet():
        warnings.warn_explicit("a patient's name", UserWarning, "x.py", 1, module="pydicom.misc")
        for name in ("pydicom", "pydicom.pixels.decoders.base", "nibabel.of_later"):
            logging.getLogger(name).warning("a patient's name")
        with pytest.warns(UserWarning, match="ours"):
            warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="somebody.else")
    assert list(warnings.filters) == before
    assert caplog.text == ""
    with pytest.warns(UserWarning, match="outside"):
        warnings.warn_explicit("outside", UserWarning, "x.py", 1, module="pydicom.misc")
    logging.getLogger("pydicom.pixels.decoders.base").warning("outside")
    assert "outside" in caplog.text


def test_silence_is_kept_to_its_thread() -> None:
    inside, done = threading.Event(), threading.Event()

    def reader() -> None:
        with quiet():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=reader)
    thread.start()
    assert inside.wait(10)
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn_explicit("heard", UserWarning, "x.py", 1, module="pydicom.misc")
    done.set()
    thread.join()


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = list(warnings.filters)
    some = [p for p in PYDICOM_FILES if p.name.startswith(("SC_", "chr", "JPEGLS"))]
    alone = [outcome(p) for p in some]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(outcome, some))
    for a, b in zip(alone, together, strict=True):
        assert type(a) is type(b)
        if isinstance(a, Scan) and isinstance(b, Scan):
            assert np.array_equal(a.pixels, b.pixels)
    assert list(warnings.filters) == before


def test_what_libjpeg_prints_is_kept_and_what_others_print_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with libjpeg_lines() as lines:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nsomebody else's line\n")
    assert lines == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "somebody else's line\n"
