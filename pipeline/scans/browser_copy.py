"""A photograph's own data, passed on for a browser to show: lossless, and without anything that may identify the patient.

Re-encoding a photograph takes longer than everything else done with it except the network, and makes it several times as large.
A JPEG's tables, frame and scans and a PNG's header, palette and rows are kept; comments, EXIF, XMP, colour profiles, thumbnails and
anything after the end are dropped.
"""

from __future__ import annotations

import io
import re
import struct
import zlib

from pipeline.errors import ScanError
from pipeline.scans.jpeg import Frame, frame_of
from pipeline.scans.png import SIGNATURE, chunk, png_chunks

_JPEG = b"\xff\xd8"
SHOWN = (_JPEG, SIGNATURE)
"""How files begin whose data a browser may show."""

_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""Without its last byte, the colour transform."""
_OF_COLOURS = (0xE0, 0xEE)
"""JFIF and Adobe; after the frame header decoders differ on whether they count, so the picture is re-encoded."""
_SHOWN_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive DCT: what browsers decode."""
_TABLES = (0xC4, 0xDB, 0xDD)
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LOOKED_UP = 3
_SAMPLES = {0: 1, 2: 3, _LOOKED_UP: 1}
"""Samples of a pixel by a PNG's colour type: grey, RGB, palette."""


def browser_copy(data: bytes, size: tuple[int, int]) -> tuple[str, bytes] | None:
    """(file extension, content) that a browser shows as the pixels of the picture file ``data``, or None if it must be re-encoded:
    another format, more than 8 bits, another orientation, transparency, colours that programs interpret differently.

    ``size``: (rows, columns) that it was decoded to.
    """
    if data.startswith(_JPEG):
        copy, extension = jpeg_picture_only(data, size), "jpg"
    elif data.startswith(SIGNATURE):
        copy, extension = _png_picture_only(data, size), "png"
    else:
        return None
    return None if copy is None else (extension, copy)


def jpeg_picture_only(data: bytes, size: tuple[int, int]) -> bytes | None:
    """The JPEG file ``data`` with nothing but its picture (ITU-T T.81 annex B); None as for :func:`browser_copy`."""
    frame = frame_of(data)
    if frame is None or not _is_plain(frame, size) or _turned(data):
        return None
    kept, framed, at = [_head(frame)], False, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        segment = data[at : at + 2 + length]
        at += 2 + length
        if marker in _TABLES:
            kept.append(segment)
        elif marker in _SHOWN_FRAMES and not framed and length == 8 + 3 * len(frame.components):
            framed = True
            kept.append(segment)
        elif marker == 0xDA and framed:
            end = _NEXT_MARKER.search(data, at)
            if end is None:
                return None
            kept += [segment, data[at : end.start()]]
            at = end.start()
            if data[at + 1] == 0xD9:
                return b"".join([*kept, b"\xff\xd9"])
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (framed and marker in _OF_COLOURS):
            return None
    return None


def _is_plain(frame: Frame, size: tuple[int, int]) -> bool:
    """Whether every program decodes the frame to the same ``size`` (rows, columns) and colours."""
    marked = frame.jfif or frame.adobe is not None
    names = tuple(name for name, *_ in frame.components)
    return (frame.rows, frame.columns, frame.precision) == (*size, 8) and (
        len(names) == 1 or (len(names) == 3 and (marked or names == (1, 2, 3)))
    )


def _head(frame: Frame) -> bytes:
    """The start of the file, with the markers that say how colours are encoded."""
    adobe = b"" if frame.adobe is None else _ADOBE + bytes([frame.adobe])
    return _JPEG + (_JFIF if frame.jfif or not adobe else b"") + adobe


def _turned(data: bytes) -> bool:
    """Whether EXIF or XMP says that the picture is shown rotated or mirrored; read as the pixel reader does it."""
    from PIL import JpegImagePlugin

    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
            return image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # a broken block states no orientation, in the reader as here
        return False


def _png_picture_only(data: bytes, size: tuple[int, int]) -> bytes | None:
    try:
        chunks = list(png_chunks(io.BytesIO(data)))
    except ScanError:
        return None
    if len(chunks) < 3 or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or chunks[-1][0] != b"IEND":
        return None
    header, picture = chunks[0], chunks[1:-1]
    if any(kind not in (b"PLTE", b"IDAT") for kind, _ in picture):
        return None
    columns, rows, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", header[1])
    # In a truecolour picture a palette is only a suggestion, and may hold any bytes.
    palettes = [content for kind, content in picture if kind == b"PLTE"] if colour == _LOOKED_UP else []
    if (rows, columns) != size or depth != 8 or colour not in _SAMPLES or interlaced or len(palettes) != (colour == _LOOKED_UP):
        return None
    # Anything could be hidden after the end of the compressed rows.
    stream, expected = zlib.decompressobj(), rows * (columns * _SAMPLES[colour] + 1)
    try:
        packed = b"".join(content for kind, content in picture if kind == b"IDAT")
        found = stream.decompress(packed, expected + 1)
    except zlib.error:
        return None
    if len(found) != expected or not stream.eof or stream.unused_data:
        return None
    parts = [header, *((b"PLTE", palette) for palette in palettes), (b"IDAT", packed), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(kind, content) for kind, content in parts)
