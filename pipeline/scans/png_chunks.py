"""PNG as a row of chunks (W3C PNG, third edition, section 5): those of the picture, each with its checksum right.

Pillow checks no IDAT chunk, and refuses a whole picture for a long comment.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.errors import ScanError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SHOWN = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")  # beside the critical ones: transparency, orientation, animation
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_OF_ORIENTATION = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")
_LONGEST_TEXT = 1 << 18


def declared_size(file: BinaryIO) -> tuple[int, int]:
    """(rows, columns) of the header; (0, 0) where there is none."""
    file.seek(16)
    data = file.read(8)
    columns, rows = struct.unpack(">II", data) if len(data) == 8 else (0, 0)
    return rows, columns


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of each chunk of an open PNG file that says something of the picture.

    Raises
    ------
    ScanError: ``truncated``, ``malformed`` (what is no chunk, or has another checksum than it states).
    """
    file.seek(len(SIGNATURE))
    while start := file.read(8):
        length, kind = struct.unpack(">I4s", start) if len(start) == 8 else (0, b"")
        if start and len(start) < 8:
            raise ScanError("truncated", "the PNG picture is truncated; copy or export it again")
        if not kind.isalpha() or length > 1 << 31:
            raise ScanError("malformed", "the PNG picture is malformed; copy or export it again")
        content, checksum = file.read(length), file.read(4)
        if len(content) < length or (len(checksum) < 4 and kind != b"IEND"):
            raise ScanError("truncated", "the PNG picture is truncated; copy or export it again")
        critical = kind[:1].isupper()
        if critical or kind in _SHOWN or (kind in _TEXT and length <= _LONGEST_TEXT and content.startswith(_OF_ORIENTATION)):
            if kind != b"IEND" and zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
                raise ScanError("malformed", "a checksum of the PNG picture is wrong: it is damaged; copy or export it again")
            yield kind, content
        if kind == b"IEND":
            return


def picture_only(file: BinaryIO) -> BinaryIO:
    """The PNG file without its comments, profiles and thumbnails; raises as :func:`png_chunks`."""
    out = io.BytesIO(SIGNATURE)
    out.seek(len(SIGNATURE))
    for kind, content in png_chunks(file):
        out.write(chunk(kind, content))
    out.seek(0)
    return out


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk as the file has it: length, type, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
