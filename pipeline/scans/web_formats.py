"""Checks of WebP and JPEG 2000 before their decoders see them (RFC 9649; ITU-T T.800 A.5.1)."""

from __future__ import annotations

import struct
from typing import BinaryIO

from pipeline.errors import ScanError


def webp_pixels(file: BinaryIO) -> int:
    """Pixels of an open WebP file's canvas, as its first chunk states them; 0 if that is not valid."""
    file.seek(0)
    head = file.read(30)
    if len(head) < 30:
        return 0
    if head[12:16] == b"VP8X":
        columns, rows = int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        columns, rows = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        columns, rows = (n & 0x3FFF for n in struct.unpack_from("<HH", head, 26))
    return rows * columns


def check_depth(file: BinaryIO) -> None:
    """Refuse JPEG 2000 colour of more than 8 bits, which Pillow would cut.

    Raises
    ------
    ScanError: ``unsupported``.
    """
    file.seek(0)
    head = file.read(1 << 16)
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(head) < start + 43:
        return
    components, precision = int.from_bytes(head[start + 40 : start + 42], "big"), (head[start + 42] & 0x7F) + 1
    if components > 2 and precision > 8:
        raise ScanError("unsupported", f"JPEG 2000 colour pictures of {precision} bits are not read; save as PNG or TIFF")
