"""The picture's own data for a browser: the same pixels, and nothing else of the file."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.scans.browser_copy import browser_copy
from pipeline.scans.png import SIGNATURE, chunk

NAME = b"Doe^Jane"
SIZE = (37, 53)


def pixels(channels: int = 3) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    colour = np.stack([rows * 5, columns * 4, rows + columns, np.full(SIZE, 255)], axis=-1).astype(np.uint8)
    return colour[..., 0] if channels == 1 else colour[..., :channels]


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


def named_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = NAME.decode(), orientation
    return exif


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 0, "quality": 95}])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_keeps_its_pixels_and_loses_every_name(channels: int, options: dict[str, Any]) -> None:
    data = (
        encoded(pixels(channels), "JPEG", exif=named_exif(), comment=NAME, icc_profile=NAME, xmp=b"<x>" + NAME + b"</x>", **options) + NAME
    )
    assert data.count(NAME) == 5
    kind, copy = browser_copy(data, SIZE) or ("", b"")
    assert kind == "jpg"
    assert NAME not in copy
    assert (decoded(copy) == decoded(data)).all()


def test_a_jpeg_of_a_camera_that_writes_exif_alone(tmp_path: object) -> None:
    data = encoded(pixels(), "JPEG")
    bare = data[:2] + data[20:]  # without the JFIF segment
    assert b"JFIF" not in bare
    kind, copy = browser_copy(bare, SIZE) or ("", b"")
    assert kind == "jpg"
    assert (decoded(copy) == decoded(bare)).all()


def test_a_marker_that_decoders_pass_over_chooses_no_colours() -> None:
    """Components named R, G and B after a JFIF marker that is too short to count: decoders show them as they are stored."""
    data = bytearray(encoded(pixels(), "JPEG", subsampling=0))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for component, name in enumerate(b"RGB"):
        data[frame + 10 + 3 * component] = data[scan + 5 + 2 * component] = name
    short = bytes(data[:2]) + b"\xff\xe0\x00\x09JFIF\0\x01\x01" + bytes(data[20:])
    assert (decoded(short) == decoded(bytes(data[:2] + data[20:]))).all(), "it does not count"
    assert (decoded(short) != decoded(bytes(data))).any(), "with a whole one they are Y, Cb and Cr"
    found = browser_copy(short, SIZE)
    assert found is None or (decoded(found[1]) == decoded(short)).all()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_picture_is_encoded_anew(orientation: int) -> None:
    assert browser_copy(encoded(pixels(), "JPEG", exif=named_exif(orientation)), SIZE) is None


def test_what_a_browser_may_show_otherwise_is_encoded_anew() -> None:
    jpeg = encoded(pixels(), "JPEG")
    assert browser_copy(jpeg, (SIZE[1], SIZE[0])) is None
    assert browser_copy(jpeg[:-40], SIZE) is None
    assert browser_copy(encoded(pixels(4), "PNG"), SIZE) is None
    assert browser_copy(encoded(pixels(1).astype(np.uint16) * 257, "PNG"), SIZE) is None
    assert browser_copy(encoded(pixels(), "TIFF"), SIZE) is None
    cmyk = io.BytesIO()
    Image.fromarray(pixels()).convert("CMYK").save(cmyk, "JPEG")
    assert browser_copy(cmyk.getvalue(), SIZE) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_keeps_its_pixels_and_loses_every_name(channels: int) -> None:
    text = PngInfo()
    text.add_text("Comment", NAME.decode())
    data = encoded(pixels(channels), "PNG", pnginfo=text) + NAME
    kind, copy = browser_copy(data, SIZE) or ("", b"")
    assert kind == "png"
    assert NAME not in copy
    assert (decoded(copy) == pixels(channels)).all()


@pytest.mark.parametrize("kind", [b"PLTE", b"IEND", b"IHDR"])
def test_a_png_chunk_that_holds_more_than_it_needs_tells_nothing(kind: bytes) -> None:
    """A truecolour picture needs no palette, and neither the end nor the header has room for a name; readers take all three."""
    data = encoded(pixels(), "PNG")
    header, rows = data[8:33], data[33 : data.index(b"IEND") - 4]
    palette, end = b"", chunk(b"IEND", b"")
    if kind == b"PLTE":
        palette = chunk(kind, NAME + b"!")
    elif kind == b"IEND":
        end = chunk(kind, NAME)
    else:
        header = chunk(kind, header[8:21] + NAME)
    file = SIGNATURE + header + palette + rows + end
    assert NAME in file
    found = browser_copy(file, SIZE)
    assert (found is None) == (kind == b"IHDR")
    assert found is None or (NAME not in found[1] and (decoded(found[1]) == pixels()).all())


def test_a_png_that_looks_its_colours_up_keeps_its_palette() -> None:
    file = io.BytesIO()
    Image.fromarray(pixels()).quantize(200).save(file, "PNG")
    found = browser_copy(file.getvalue(), SIZE)
    assert found is not None
    assert (np.asarray(Image.open(io.BytesIO(found[1])).convert("RGB")) == np.asarray(Image.open(file).convert("RGB"))).all()


def test_a_png_with_something_behind_its_rows_is_encoded_anew() -> None:
    data = encoded(pixels(1), "PNG")
    at = data.index(b"IDAT") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    content = data[at + 8 : at + 8 + length]
    assert browser_copy(SIGNATURE + data[8:at] + chunk(b"IDAT", content) + chunk(b"IEND", b""), SIZE) is not None
    assert browser_copy(SIGNATURE + data[8:at] + chunk(b"IDAT", content + NAME) + chunk(b"IEND", b""), SIZE) is None
    longer = zlib.compress(zlib.decompress(content) + NAME)
    assert browser_copy(SIGNATURE + data[8:at] + chunk(b"IDAT", longer) + chunk(b"IEND", b""), SIZE) is None
