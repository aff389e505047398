"""Compressed pictures without their words: JPEG, JPEG-LS and JPEG 2000 streams, and ICC profiles; no pixel is decoded or changed.

ITU-T T.81 B (markers), T.87 (JPEG-LS), T.800 A (JPEG 2000); JFIF 1.02; Adobe TN 5116; ICC.1:2022 7.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.errors import ScanError

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_SOT, _SOD = b"\xff\x90", b"\xff\x93"
_OF_2000 = {*range(0x50, 0x54), *range(0x55, 0x5A), *range(0x5C, 0x62), 0x63}
"""Segments of JPEG 2000 headers that say how the picture is coded (T.800 table A.2, T.814 A); 64 is a comment."""
_ALONE = {0x01, *range(0xD0, 0xD8)}
_COMMENT = 0xFE
_CODING = {*range(0xC0, 0xD0), *range(0xDB, 0xE0), 0xF7, 0xF8}
"""Frames, tables and parameters (T.81 table B.1, T.87 C.1.1); what else there is no decoder needs."""
_NAMES = {0xE0: "JFIF extension", 0xE1: "EXIF or XMP", 0xE2: "pictures beside the first", 0xED: "IPTC", _COMMENT: "comment"}
_ICC = b"ICC_PROFILE\0"
_MOST_OF_ICC = 65_519 - 14
_COLORIMETRIC = {
    *(b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC", b"wtpt", b"bkpt", b"lumi", b"chad", b"chrm", b"gamt", b"cicp"),
    *(direction + number for direction in (b"A2B", b"B2A", b"D2B", b"B2D", b"pre") for number in (b"0", b"1", b"2", b"3")),
}
"""Tags of an ICC profile that hold numbers alone; all others are words, or could hide some."""


def plain_jpeg(stream: bytes, orientation: int = 1) -> tuple[bytes, tuple[str, ...]]:
    """A JPEG or JPEG-LS stream with nothing but what its picture needs, and what was taken away.

    Kept: tables, scans, JFIF density without a thumbnail, the Adobe and "mrfx" colour transforms, and an ICC profile's numbers. An EXIF
    ``orientation`` (2 to 8) is written anew, alone. What follows the end of the picture is dropped.

    Raises
    ------
    ScanError: ``malformed``, ``truncated``.
    """
    out, profile, removed = [b"\xff\xd8"], b"", set()
    for marker, content in _segments(stream):
        if marker == _SOS:
            out.append(content)
        elif marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14:
            out.insert(1, _segment(0xE0, content[:12] + b"\0\0"))
            removed |= {"thumbnail"} if len(content) > 14 else set()
        elif marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
            out.append(_segment(0xEE, content[:12]))
        elif marker == 0xE8 and content.startswith(b"mrfx"):
            out.append(_segment(0xE8, content[:6]))
        elif marker == 0xE2 and content.startswith(_ICC):
            profile += content[14:]
        elif marker in _CODING:
            out.append(_segment(marker, content))
        else:
            removed.add(_NAMES.get(marker) or (f"APP{marker - 0xE0}" if 0xE0 <= marker <= 0xEF else f"segment {marker:02X}"))
    first = 2 if len(out) > 1 and out[1].startswith(b"\xff\xe0") else 1
    plain, said = plain_icc(profile) if profile else (b"", ())
    parts = [plain[at : at + _MOST_OF_ICC] for at in range(0, len(plain), _MOST_OF_ICC)]
    out[first:first] = [
        *([_segment(0xE1, b"Exif\0\0" + exif(orientation))] if orientation in range(2, 9) else []),
        *(_segment(0xE2, _ICC + bytes((number + 1, len(parts))) + part) for number, part in enumerate(parts)),
    ]
    whole = b"".join(out)
    if len(stream) - stream.rfind(b"\xff\xd9") > 2 or stream.count(b"\xff\xd9") > whole.count(b"\xff\xd9"):
        removed.add("what follows the picture")
    return whole, tuple(sorted({*removed, *said}))


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) up to the end of the first picture; a start of scan comes whole, with its coded data, and so does the end."""
    at = 2
    while True:
        while stream[at : at + 2] == b"\xff\xff":
            at += 1
        if at + 2 > len(stream):
            raise ScanError("truncated", "the JPEG picture ends before its end marker; copy or export it again")
        if stream[at] != 0xFF:
            raise ScanError("malformed", "the JPEG picture is malformed between its segments; export it again")
        marker = stream[at + 1]
        if marker == _EOI:
            yield _SOS, b"\xff\xd9"
            return
        if marker in _ALONE:
            at += 2
            continue
        size = int.from_bytes(stream[at + 2 : at + 4], "big")
        end = at + 2 + size
        if size < 2 or end > len(stream):
            raise ScanError("malformed", "a segment of the JPEG picture states a wrong size; export it again")
        if marker == _SOS:
            last = _scan_end(stream, end)
            yield _SOS, stream[at:last]
            at = last
        else:
            yield marker, stream[at + 4 : end]
            at = end


def _scan_end(stream: bytes, at: int) -> int:
    """Where the coded data that begin at ``at`` end: at the next marker that is neither a restart nor a stuffed byte."""
    while (at := stream.find(b"\xff", at)) >= 0 and at + 1 < len(stream):
        following = stream[at + 1]
        if following >= 0x80 and following != 0xFF and following not in _ALONE:  # below 0x80: stuffed, in JPEG as in JPEG-LS
            return at
        at += 1 if following == 0xFF else 2
    raise ScanError("truncated", "the JPEG picture ends before its end marker; copy or export it again")


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def exif(orientation: int) -> bytes:
    """A TIFF block that states an orientation and nothing else."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def plain_jpeg2000(stream: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A JPEG 2000 codestream with those segments alone in its headers that a decoder needs, without comments,
    and without the boxes around it, and what was taken away.

    Raises
    ------
    ScanError: ``malformed``, ``truncated``.
    """
    start = stream.find(b"\xff\x4f\xff\x51", 0, 1 << 16)
    if start < 0:
        raise _malformed_2000()
    main, at = _plain_header(stream, start + 2, _SOT)
    tiles, end = _plain_tiles(stream, at)
    removed = {"boxes around the codestream"} if start else set()
    if len(b"".join([*main, *tiles])) < end - start - 2:
        removed.add("comment or unknown segment")
    if sum(map(len, tiles)) < end - at:  # lengths of tile-parts, said once more ahead of them (A.7.1), are no longer right
        main = [segment for segment in main if segment[:2] != b"\xff\x55"]
    if stream[end + 2 :].strip(b"\0"):
        removed.add("what follows the picture")
    return b"".join([b"\xff\x4f", *main, *tiles, b"\xff\xd9"]), tuple(sorted(removed))


def _plain_header(stream: bytes, at: int, last: bytes) -> tuple[list[bytes], int]:
    """The marker segments that a decoder needs, from ``at`` to the marker ``last``, and where that marker is."""
    kept = []
    while (marker := stream[at : at + 2]) != last:
        size = int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker[:1] != b"\xff" or size < 2 or at + 2 + size > len(stream):
            raise _malformed_2000()
        if marker[1] in _OF_2000:
            kept.append(stream[at : at + 2 + size])
        at += 2 + size
    return kept, at


def _plain_tiles(stream: bytes, at: int) -> tuple[list[bytes], int]:
    """The tile-parts that begin at ``at`` without comments in their headers, and where the end marker behind them is (T.800 A.4.2).

    Looking for the last end marker alone would take a second picture behind the first for a part of it.
    """
    out = []
    while stream[at : at + 2] == _SOT:
        size = int.from_bytes(stream[at + 6 : at + 10], "big")
        header, data = _plain_header(stream, at + 12, _SOD)
        # 0: as far as the end marker, which coded data cannot hold
        end = at + size if size else stream.find(b"\xff\xd9", data)
        if end < data:
            raise _malformed_2000()
        part = b"".join([*header, stream[data:end]])
        out += [stream[at : at + 6], (12 + len(part) if size else 0).to_bytes(4, "big"), stream[at + 10 : at + 12], part]
        at = end
    if stream[at : at + 2] != b"\xff\xd9":
        raise _malformed_2000()
    return out, at


def _malformed_2000() -> ScanError:
    return ScanError("malformed", "the JPEG 2000 picture is malformed; export it again")


def plain_icc(profile: bytes) -> tuple[bytes, tuple[str, ...]]:
    """An ICC profile's colours without its words, dates and makers; b"" where it is malformed. And what was taken away."""
    tags = []
    count = int.from_bytes(profile[128:132], "big")
    if profile[36:40] != b"acsp" or 132 + 12 * count > len(profile):
        return b"", ("ICC profile (malformed)",)
    for number in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if name in _COLORIMETRIC and offset + size <= len(profile):
            tags.append((name, profile[offset : offset + size]))
    at, index, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags:
        index += struct.pack(">4sII", name, at + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    header = bytearray(profile[:128])
    for begin, end in ((4, 8), (24, 36), (40, 44), (48, 56), (80, 128)):
        header[begin:end] = b"\0" * (end - begin)
    struct.pack_into(">I", header, 0, at + len(body))
    return bytes(header) + struct.pack(">I", len(tags)) + index + body, ("words of the ICC profile",)
