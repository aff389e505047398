"""JPEG streams in files, DICOM and TIFF: how their colours are encoded, and whether their data are complete.

ITU-T T.81 | ISO 10918-1; JFIF 1.02; the Adobe marker of TN 5116. After damage libjpeg continues with invented pixels, and Pillow does not
report it; libjpeg-turbo's own interface (simplejpeg) does.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError

# What libjpeg says when it has made up pixels. Its remarks on versions and colour transforms are no damage.
_MADE_UP = ("Corrupt JPEG data", "Premature end of JPEG file", "Inconsistent progression sequence")
_LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


@dataclass(frozen=True)
class Frame:
    """What the start of frame states; ``components`` are (id, horizontal, vertical sampling); ``adobe`` is the Adobe marker's transform."""

    rows: int
    columns: int
    precision: int
    components: tuple[tuple[int, int, int], ...]
    jfif: bool
    adobe: int | None


def frame_of(stream: bytes) -> Frame | None:
    """The first frame of a JPEG or JPEG-LS (SOF55) stream, or None where there is none."""
    if not stream.startswith(b"\xff\xd8"):
        return None
    at, jfif, adobe = 2, False, None
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in (0x01, *range(0xD0, 0xD9)):
            at += 2
            continue
        size = int.from_bytes(stream[at + 2 : at + 4], "big")
        content = stream[at + 4 : at + 2 + size]
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            if len(content) < 6 or len(content) < 6 + 3 * content[5]:
                return None
            parts = [content[6 + 3 * n : 9 + 3 * n] for n in range(content[5])]
            components = tuple((part[0], part[1] >> 4, part[1] & 15) for part in parts)
            rows, columns = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            return Frame(rows, columns, content[0], components, jfif, adobe)
        # Of 14 bytes at least, as libjpeg wants it: a shorter marker does not choose the colours.
        jfif = jfif or (marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14)
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            adobe = content[11]
        at += 2 + size
    return None


def is_rgb(frame: Frame, stated: bool) -> bool:
    """Whether three components are red, green and blue rather than Y, Cb and Cr.

    A marker decides. Without one, subsampled planes can only be colour differences, and components named R, G and B are RGB. Otherwise
    ``stated``, from the header around the stream, decides.
    """
    if frame.adobe is not None:
        return frame.adobe == 0
    if frame.jfif or len({part[1:] for part in frame.components}) > 1:
        return False
    return stated or bytes(part[0] for part in frame.components) in (b"RGB", b"rgb")


def decode_jpeg(stream: bytes, stated_rgb: bool) -> npt.NDArray[np.uint8]:
    """One 8-bit frame of a DICOM file: (H, W) grey or (H, W, 3) RGB; the caller has checked its declared size.

    Raises
    ------
    ScanError: ``malformed``: damaged, or neither one nor three components.
    """
    from PIL import JpegImagePlugin

    frame = frame_of(stream)
    if frame is not None:
        check_length(len(stream), frame.rows * frame.columns, "the JPEG data")
    if frame is None or len(frame.components) not in (1, 3):
        raise ScanError("malformed", "the JPEG data hold neither one nor three components; export it again")
    image: Any = JpegImagePlugin.JpegImageFile(io.BytesIO(stream))
    if len(frame.components) == 3:
        # Pillow hands the last word to libjpeg as what it takes the components for.
        codec, extent, offset, _ = image.tile[0]
        image.tile = [(codec, extent, offset, ("RGB", "RGB" if is_rgb(frame, stated_rgb) else "YCbCr"))]
    pixels: npt.NDArray[np.uint8] = np.asarray(image)
    check_jpeg(stream)
    return pixels


def check_length(size: int, pixels: int, what: str) -> None:
    """Refuse a stream that cannot hold its pixels before memory is taken for them: a block of 8 x 8 needs a bit for its mean."""
    if pixels > 64 * 8 * size:
        raise ScanError("truncated", f"{what} declares {pixels:,} pixels in {size:,} bytes; it is truncated, copy or export it again")


def check_jpeg(stream: bytes, what: str = "the JPEG picture") -> None:
    """Refuse a stream in which the decoder has to make up pixels; one that cannot be decoded at all is left to the decoder in use.

    Raises
    ------
    ScanError: ``malformed``.
    """
    import simplejpeg

    try:
        colours = simplejpeg.decode_jpeg_header(stream)[2]
        # At an eighth of the size all data are read and few pixels computed.
        simplejpeg.decode_jpeg(stream, "CMYK" if colours in ("CMYK", "YCCK") else "GRAY", min_factor=8, strict=True)
    except ValueError as error:
        if is_damage(str(error), stream):
            raise ScanError(
                "malformed", f"{what} is damaged, and part of what it shows would be made up; copy or export it again"
            ) from None


def is_damage(said: str, stream: bytes) -> bool:
    """Whether libjpeg's message about ``stream`` means that pixels were made up."""
    left_over, end = _LEFT_OVER.match(said), stream.rfind(b"\xff\xd9")
    if left_over is not None and end >= 0 and len(set(stream[max(end - int(left_over[1]), 0) : end])) <= 1:
        return False  # some cameras fill the space before the end marker with one value
    return said.startswith(_MADE_UP)
