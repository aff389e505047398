"""Pictures: every pixel where it belongs, in its own depth, whatever the container does to it."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from pipeline.errors import ScanError
from pipeline.scans.archive_survey import archives_below
from pipeline.scans.files import sniff_bytes
from pipeline.scans.open import open_scan
from pipeline.scans.raster import read_image, turn, write_png
from tests.scans.make import jpeg, photograph, ramp

ROWS, COLUMNS = 7, 12


def png_of(array: np.ndarray, colour_type: int, filters: str = "01234") -> bytes:
    """A 16-bit PNG written by hand (W3C PNG section 9), each row with the next of ``filters``."""
    rows, columns, channels = array.shape
    step = channels * 2
    data = array.astype(">u2").view(np.uint8).reshape(rows, -1).astype(int)
    lines = bytearray()
    for y in range(rows):
        kind = int(filters[y % len(filters)])
        lines.append(kind)
        for x in range(data.shape[1]):
            left = data[y, x - step] if x >= step else 0
            up = data[y - 1, x] if y else 0
            corner = data[y - 1, x - step] if y and x >= step else 0
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda n: abs(guess - n))  # min keeps the standard's order of preference
            lines.append(int(data[y, x] - [0, left, up, (left + up) // 2, nearest][kind]) % 256)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", columns, rows, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(lines))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("array", [ramp(ROWS, COLUMNS), ramp(ROWS, COLUMNS, "uint16", 700), photograph(ROWS, COLUMNS)])
def test_png_goes_out_and_comes_back(array: np.ndarray, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", array)
    again = read_image(tmp_path / "a.png")
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    scan = open_scan(tmp_path / "a.png")
    assert scan.geometry.shape == (ROWS, COLUMNS)
    assert np.array_equal(scan.pixels, array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def test_a_png_that_cannot_be_finished_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(tmp_path / "a.png", ramp(ROWS, COLUMNS))

    whole = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        whole(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        write_png(tmp_path / "a.png", 255 - ramp(ROWS, COLUMNS))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(tmp_path / "a.png"), ramp(ROWS, COLUMNS))


@pytest.mark.parametrize("array", [ramp(ROWS, COLUMNS, "int64"), np.zeros((2, 3, 4), np.uint8), np.zeros((3, 4, 3), np.uint16)])
def test_write_png_takes_only_what_it_can_keep(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write_png takes"):
        write_png(tmp_path / "a.png", array)


def test_16_bit_colour_png_keeps_its_bits_under_every_filter(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 65536, (ROWS, COLUMNS, 3)).astype(np.uint16)
    for filters in ("0", "1", "2", "3", "4", "01234"):
        (tmp_path / "a").write_bytes(png_of(colour, 2, filters))
        again = read_image(tmp_path / "a")
        assert again.dtype == np.uint16
        assert np.array_equal(again, colour)
    (tmp_path / "a").write_bytes(png_of(colour, 2)[:-60])
    with pytest.raises(ScanError) as caught:
        read_image(tmp_path / "a")
    assert caught.value.code == "truncated"


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    colour = photograph(ROWS, COLUMNS)
    alpha = np.full((ROWS, COLUMNS), 255, np.uint8)
    Image.fromarray(np.dstack([colour, alpha])).save(tmp_path / "a", "PNG")
    assert np.array_equal(read_image(tmp_path / "a"), colour)
    alpha[0], alpha[1] = 0, 51
    Image.fromarray(np.dstack([colour, alpha])).save(tmp_path / "a", "PNG")
    result = read_image(tmp_path / "a")
    assert result[0].max() == 0
    assert np.array_equal(result[1], np.rint(colour[1] * 0.2))
    assert np.array_equal(result[2:], colour[2:])
    grey = np.dstack([ramp(ROWS, COLUMNS), alpha])
    Image.fromarray(grey, "LA").save(tmp_path / "a", "PNG")
    assert read_image(tmp_path / "a").shape == (ROWS, COLUMNS)
    deep = np.full((ROWS, COLUMNS, 4), 65535, np.uint16)
    deep[..., 0], deep[0, :, 3] = 1234, 0
    (tmp_path / "a").write_bytes(png_of(deep, 6))
    result = read_image(tmp_path / "a")
    assert result[:, 0, 0].tolist() == [0] + [1234] * (ROWS - 1)


def test_palettes_and_one_bit(tmp_path: Path) -> None:
    index = (ramp(ROWS, COLUMNS) % 3).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        image.save(tmp_path / "a", kind)
        assert np.array_equal(read_image(tmp_path / "a"), np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30]])[index]), kind
    image.putpalette([0, 0, 0, 7, 7, 7, 200, 200, 200])
    image.save(tmp_path / "a", "PNG")
    assert np.array_equal(read_image(tmp_path / "a"), np.array([0, 7, 200])[index])
    Image.fromarray(index == 1).save(tmp_path / "a", "PNG")
    result = read_image(tmp_path / "a")
    assert result.dtype == np.uint8
    assert np.array_equal(result, np.where(index == 1, 255, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "deep TIFF"])
def test_orientation_is_carried_out(orientation: int, kind: str, tmp_path: Path) -> None:
    """EXIF 2.3 table: where the stored row 0 and column 0 lie in the picture, in words."""
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8], stored[:8, 16:], stored[8:, :8] = [250, 0, 0], [0, 250, 0], [0, 0, 250]  # red: row 0, column 0
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[orientation]
    if kind == "deep TIFF":
        deep = stored.astype(np.uint16) * 257
        tifffile.imwrite(tmp_path / "a", deep, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        result = (read_image(tmp_path / "a") // 257).astype(np.uint8)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / "a", kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
        result = read_image(tmp_path / "a")
    assert result.shape == ((24, 16, 3) if orientation > 4 else (16, 24, 3))
    inside = [3 if at == 0 else -4 for at in corner]
    assert result[inside[0], inside[1]].argmax() == 0
    assert result[inside[0], inside[1]].max() > 200
    # The stored row 0 runs along the picture's width for 1-4, along its height for 5-8: green is at its other end.
    other = (inside[0], -1 - inside[1]) if orientation <= 4 else (-1 - inside[0], inside[1])
    assert result[other].argmax() == 1


def test_turn_ignores_nonsense() -> None:
    assert turn(ramp(ROWS, COLUMNS), 0).shape == (ROWS, COLUMNS)
    assert turn(ramp(ROWS, COLUMNS), None).shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_16_bit_colour_tiff(compression: str | None, planar: str, tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 65536, (ROWS, COLUMNS, 3)).astype(np.uint16)
    stored = colour if planar == "contig" else colour.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a", stored, photometric="rgb", planarconfig=planar, compression=compression)
    assert np.array_equal(read_image(tmp_path / "a"), colour)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_grey_tiff(byteorder: str, dtype: str, tmp_path: Path) -> None:
    grey = ramp(ROWS, COLUMNS, dtype, 3)
    tifffile.imwrite(tmp_path / "a", grey, byteorder=byteorder)
    result = read_image(tmp_path / "a")
    assert result.dtype == dtype
    assert result.dtype.isnative
    assert np.array_equal(result, grey)


def test_compressed_tiff_of_8_bits(tmp_path: Path) -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        Image.fromarray(photograph(ROWS, COLUMNS)).save(tmp_path / "a", "TIFF", compression=compression)
        assert np.array_equal(read_image(tmp_path / "a"), photograph(ROWS, COLUMNS))


def test_pages_are_slices(tmp_path: Path) -> None:
    volume = np.stack([ramp(ROWS, COLUMNS) + k for k in range(4)]).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a", volume, photometric="minisblack")
    assert np.array_equal(open_scan(tmp_path / "a").pixels, volume[None])
    with pytest.raises(ScanError, match="4 pages") as caught:
        read_image(tmp_path / "a")
    assert caught.value.code == "unsupported"
    with tifffile.TiffWriter(tmp_path / "b") as out:
        out.write(ramp(ROWS, COLUMNS))
        out.write(ramp(ROWS + 1, COLUMNS))
    with pytest.raises(ScanError, match="differ in size"):
        open_scan(tmp_path / "b")
    with tifffile.TiffWriter(tmp_path / "c") as out:
        out.write(ramp(ROWS, COLUMNS))
        out.write(ramp(3, 4), subfiletype=1)
    assert np.array_equal(read_image(tmp_path / "c"), ramp(ROWS, COLUMNS))


def test_pnm_plain_and_gzipped(tmp_path: Path) -> None:
    colour = photograph(ROWS, COLUMNS)
    content = f"P6\n{COLUMNS} {ROWS}\n255\n".encode() + colour.tobytes()
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(gzip.compress(content))
    assert np.array_equal(read_image(tmp_path / "a"), colour)
    assert np.array_equal(read_image(tmp_path / "b"), colour)


def test_cmyk_and_grey_jpeg(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(jpeg(photograph(40, 53)[..., 0], quality=95))
    assert read_image(tmp_path / "a").shape == (40, 53)
    out = io.BytesIO()
    Image.fromarray(photograph(40, 53)).convert("CMYK").save(out, "JPEG", quality=95)
    (tmp_path / "a").write_bytes(out.getvalue())
    assert np.abs(read_image(tmp_path / "a").astype(int) - photograph(40, 53)).max() < 12


def test_a_broken_exif_block_costs_the_orientation_and_not_the_picture(tmp_path: Path) -> None:
    content = jpeg(photograph(40, 53), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xee" * 30)
    (tmp_path / "a").write_bytes(content)
    assert read_image(tmp_path / "a").shape == (40, 53, 3)


def bomb(rows: int, columns: int) -> bytes:
    """A PNG that declares far more pixels than it holds."""
    header = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 4) + b"IDAT" + b"0" * 8


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"abc", "not_an_image"),
        (b"\xff\xd8\xff", "malformed"),
        (jpeg(photograph(200, 260))[:-900], "truncated"),
        (jpeg(photograph(200, 260))[:300], "malformed"),
        (bomb(60_000, 70_000), "too_large"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "malformed"),
        (b"GIF89a" + b"\xff" * 40, "malformed"),
        (b"II*\0" + b"\xff" * 40, "malformed"),
    ],
)
def test_broken_pictures_have_a_name(content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "John Doe 1950.png").write_bytes(content)
    for read in (read_image, open_scan):
        with pytest.raises(ScanError) as caught:
            read(tmp_path / "John Doe 1950.png")
        assert caught.value.code == code
        assert "John" not in str(caught.value)


def test_the_limit_on_pixels_is_the_callers(tmp_path: Path) -> None:
    write_png(tmp_path / "a", ramp(ROWS, COLUMNS))
    assert read_image(tmp_path / "a", ROWS * COLUMNS).shape == (ROWS, COLUMNS)
    with pytest.raises(ScanError, match="84 pixels"):
        read_image(tmp_path / "a", ROWS * COLUMNS - 1)
    volume = np.zeros((5, ROWS, COLUMNS), np.uint8)
    tifffile.imwrite(tmp_path / "b", volume, photometric="minisblack")
    with pytest.raises(ScanError) as caught:
        open_scan(tmp_path / "b", max_pixels=4 * ROWS * COLUMNS)
    assert caught.value.code == "too_large"


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(b"P5\n10 10\n255\n" + b"\0" * 3_000_000))
    with pytest.raises(ScanError) as caught:
        read_image(tmp_path / "a", 1000)
    assert caught.value.code == "too_large"


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(jpeg(photograph(40, 53)))
    assert open_scan(tmp_path / "scan.dcm").pixels.shape == (3, 40, 53)
    assert sniff_bytes(b"HSF-OCT-103" + b"\0" * 100) == "heidelberg_vol"
    assert sniff_bytes(gzip.compress(b"just text")) is None


def damaged(content: bytes, at: float, size: int) -> bytes:
    start = int(len(content) * at)
    return content[:start] + bytes(size) + content[start + size :]


def noise(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (rows, columns, 3), np.uint8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2, "restart_marker_rows": 4}], ids=str)
def test_a_jpeg_with_a_hole_is_no_picture(tmp_path: Path, options: dict[str, object], capfd: pytest.CaptureFixture[str]) -> None:
    whole = jpeg(noise(240, 320), quality=90, **options)
    (tmp_path / "a").write_bytes(whole)
    assert open_scan(tmp_path / "a").warnings == ()
    for at in (0.3, 0.6):
        (tmp_path / "a").write_bytes(damaged(whole, at, 4096))
        for read in (read_image, open_scan):
            with pytest.raises(ScanError, match="made up") as caught:
                read(tmp_path / "a")
            assert caught.value.code == "malformed"
    (tmp_path / "a").write_bytes(whole[:-2] + b"\0" * 300 + whole[-2:])  # a camera's padding
    assert read_image(tmp_path / "a").shape == (240, 320, 3)
    (tmp_path / "a").write_bytes(whole + b"\0what a camera puts behind")
    assert read_image(tmp_path / "a").shape == (240, 320, 3)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_of_more_pixels_than_its_bytes_can_hold_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = jpeg(photograph(16, 24))
    frame = small.index(b"\xff\xc0")
    content = small[: frame + 5] + struct.pack(">HH", 19_999, 20_000) + small[frame + 9 :]
    (tmp_path / "a").write_bytes(content)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("its pixels were decoded"))
    with pytest.raises(ScanError, match="399,980,000 pixels in") as caught:
        open_scan(tmp_path / "a")
    assert caught.value.code == "truncated"


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_with_a_wrong_checksum_is_no_picture(tmp_path: Path, bits: int) -> None:
    out = io.BytesIO()
    Image.fromarray(noise(60, 70)).save(out, "PNG")
    whole = out.getvalue() if bits == 8 else png_of(noise(60, 70).astype(np.uint16), 2)
    checksum = len(whole) - 16
    (tmp_path / "a").write_bytes(whole[:checksum] + bytes(4) + whole[checksum + 4 :])  # of the last IDAT
    with pytest.raises(ScanError, match="checksum") as caught:
        read_image(tmp_path / "a")
    assert caught.value.code == "malformed"


def test_what_is_no_part_of_a_png_does_not_matter(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("notes", "x" * 3_000_000, zip=True)
    info.add_itxt("more", "y" * 3_000_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph(ROWS, COLUMNS)).save(tmp_path / "a", "PNG", pnginfo=info, exif=exif)
    assert np.array_equal(read_image(tmp_path / "a"), photograph(ROWS, COLUMNS).swapaxes(0, 1)[:, ::-1])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"])
def test_a_damaged_tiff_is_no_picture_and_says_nothing_itself(tmp_path: Path, compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    picture = Image.fromarray(noise(120, 160))
    (picture.convert("1") if compression == "group4" else picture).save(tmp_path / "a", "TIFF", compression=compression)
    whole = (tmp_path / "a").read_bytes()
    assert read_image(tmp_path / "a").shape[:2] == (120, 160)
    middle = len(whole) // 2
    mess = np.random.default_rng(4).integers(0, 256, 200, np.uint8).tobytes()
    (tmp_path / "a").write_bytes(whole[:middle] + mess + whole[middle + 200 :])
    with pytest.raises(ScanError) as caught:
        read_image(tmp_path / "a")
    assert caught.value.code == "malformed"
    assert capfd.readouterr() == ("", "")


def test_tiff_numbers_are_what_the_file_means(tmp_path: Path) -> None:
    grey = ramp(ROWS, COLUMNS)
    for stored in (
        (grey.astype(np.int16) - 100).astype(np.int8),
        grey.astype(np.int16) * 300 - 9000,
        grey.astype(np.uint32) * 70_000_000,
        grey.astype(np.float64) / 7,
        grey.astype(np.float32) / 7,
    ):
        tifffile.imwrite(tmp_path / "a", stored)
        assert np.array_equal(read_image(tmp_path / "a"), stored), stored.dtype
    tifffile.imwrite(tmp_path / "a", (grey / 8).astype(np.float16))
    assert np.array_equal(read_image(tmp_path / "a"), (grey / 8).astype(np.float16).astype(np.float32))
    tifffile.imwrite(tmp_path / "a", np.dstack([grey] * 5), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ScanError, match="5 channels") as caught:
        read_image(tmp_path / "a")
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_where_white_is_zero_black_is_shown_black(tmp_path: Path, dtype: str) -> None:
    grey = ramp(ROWS, COLUMNS, dtype, 3)
    tifffile.imwrite(tmp_path / "a", np.iinfo(dtype).max - grey, photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "a"), grey)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused(tmp_path: Path, bad: float) -> None:
    for dtype in ("float16", "float32", "float64"):
        stored = ramp(ROWS, COLUMNS, dtype)
        stored[2, 3] = bad
        tifffile.imwrite(tmp_path / "a", stored)
        for read in (read_image, open_scan):
            with pytest.raises(ScanError, match="NaN or infinite"):
                read(tmp_path / "a")


def test_where_only_alpha_says_something_it_is_the_picture(tmp_path: Path) -> None:
    mask = np.where(ramp(ROWS, COLUMNS) % 5 == 0, 255, 0).astype(np.uint8)
    for colour in (np.zeros((ROWS, COLUMNS, 3), np.uint8), np.zeros((ROWS, COLUMNS, 1), np.uint8)):
        Image.fromarray(np.dstack([colour, mask])).save(tmp_path / "a", "PNG")
        assert np.array_equal(read_image(tmp_path / "a"), mask)
        assert np.array_equal(open_scan(tmp_path / "a").pixels[0], mask)


def test_a_picture_transparent_everywhere_is_told(tmp_path: Path) -> None:
    colour = photograph(ROWS, COLUMNS)
    Image.fromarray(np.dstack([colour, np.zeros((ROWS, COLUMNS), np.uint8)])).save(tmp_path / "a", "PNG")
    scan = open_scan(tmp_path / "a")
    assert np.array_equal(scan.pixels, colour.transpose(2, 0, 1))
    assert "transparent" in scan.warnings[0]
    with pytest.raises(ScanError, match="transparent"):
        read_image(tmp_path / "a")


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG2000", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})]
)
def test_other_formats_of_pictures(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    colour = photograph(48, 64)
    Image.fromarray(colour).save(tmp_path / "a", kind, **options)
    assert np.abs(read_image(tmp_path / "a").astype(int) - colour).max() <= (0 if kind != "AVIF" else 4)
    with pytest.raises(ScanError, match="3,072 pixels"):
        read_image(tmp_path / "a", 48 * 64 - 1)


def test_formats_that_are_known_and_not_read_say_what_to_do(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("a.png", "in/b"):
            archive.writestr(name, png_of(noise(4, 5).astype(np.uint16), 2))
        archive.writestr("notes.txt", "nothing")
        archive.writestr("__MACOSX/._a.png", b"\0\x05\x16\x07")
    analyze = bytearray(348)
    analyze[:4], analyze[40:42] = struct.pack("<i", 348), struct.pack("<h", 3)
    known = {
        "a.zip": (packed.getvalue(), "holds 2 images; unpack"),
        "a.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(30), "unpack"),
        "a.heic": (b"\0\0\0\x18ftypheic" + bytes(30), "PNG"),
        "a.hdr": (bytes(analyze), "NIfTI"),
        "a.img": (bytes(300), "NIfTI"),
    }
    for name, (content, _) in known.items():
        (tmp_path / name).write_bytes(content)
    for name, (_, remedy) in known.items():
        with pytest.raises(ScanError, match=remedy) as caught:
            open_scan(tmp_path / name)
        assert caught.value.code == "unsupported"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(ScanError, match="without images") as caught:
        open_scan(tmp_path / "b.zip")
    assert caught.value.code == "not_an_image"
    assert archives_below(tmp_path) == (1, 2)
