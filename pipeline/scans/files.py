"""Files of any kind: opened without ever hanging, identified by their content, hashed, and written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from pipeline.errors import ScanError
from pipeline.memory import Limits

if TYPE_CHECKING:
    import numpy.typing as npt

Format = Literal[
    "dicom",
    "nifti",
    "png",
    "jpeg",
    "tiff",
    "gif",
    "bmp",
    "pnm",
    "jp2",
    "webp",
    "avif",
    "heic",
    "zip",
    "archive",
    "metaimage",
    "nrrd",
    "analyze",
    "heidelberg_vol",
    "heidelberg_e2e",
    "heidelberg_sdb",
    "heidelberg_xml",
    "topcon_fda",
]

MAX_PIXELS = Limits.chosen().max_pixels
"""Declared pixels (all slices together) above which a file is refused before decoding, unless another limit is given."""

MOST_BEHIND = 64
"""MiB that may be unpacked after the pixels of a compressed file to reach its checksum."""

MORE_MEMORY = "raise --memory-limit (or OCUSEG_MEMORY_LIMIT) if this machine has more"

_HEAD = 1024
_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"NRRD000", "nrrd"),
    (b"PK\x03\x04", "zip"),
    (b"Rar!\x1a\x07", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"HSF-OCT-", "heidelberg_vol"),
    (b"CMDb\0", "heidelberg_e2e"),
    (b"MDbMDir", "heidelberg_sdb"),
    (b"MDbDir", "heidelberg_sdb"),
    (b"FOCT", "topcon_fda"),
    (b"FAAA", "topcon_fda"),
)
_BRANDS: dict[bytes, Format] = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"heif": "heic", b"mif1": "heic"}


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """The file, opened for reading; anything that is not a regular file is refused without waiting for it.

    Opening a FIFO for reading blocks until somebody writes; O_NONBLOCK and a look at the descriptor (not at the name, which
    may change in between) rule that out.

    Raises
    ------
    ScanError: ``unreadable`` (permissions, input/output error, gone) or ``not_a_file`` (folder, FIFO, socket, device).
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ScanError("not_a_file", "this is a folder, pipe, socket or device, not a file")
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (errors of opening and of reading are told apart)
    except (OSError, ValueError) as error:
        raise _unreadable(error) from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ScanError("not_a_file", "this is a folder, pipe, socket or device, not a file")
        yield file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _unreadable(error: Exception) -> ScanError:
    # strerror alone: str(error) of an OSError quotes the path.
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return ScanError("unreadable", f"the file cannot be read ({why}); check its permissions and the disk it lies on")


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turns whatever a decoder raises inside into a ScanError that reveals nothing of the file's contents.

    Decoders meet hostile bytes and raise almost anything; their messages quote header values, so only the type's name is kept.
    """
    try:
        yield
    except ScanError:
        raise
    except MemoryError:
        raise ScanError("too_large", f"decoding {what} takes more memory than one file may use; {MORE_MEMORY}") from None
    except OSError as error:
        # Pillow speaks of broken data by OSErrors without an errno.
        if error.errno is not None:
            raise _unreadable(error) from None
        code = "truncated" if "truncated" in str(error) else "malformed"
        raise ScanError(code, f"{what} is {code}; copy or export it again") from None
    except EOFError:
        raise ScanError("truncated", f"{what} is truncated; copy or export it again") from None
    except Exception as error:  # whatever a decoder makes of hostile bytes; the type's name tells nothing of the patient
        raise ScanError("malformed", f"{what} cannot be decoded ({type(error).__name__}); export it again") from None


def check_pixels(pixels: int, limit: int) -> None:
    """Refuse a file by what its header declares, before a byte is decoded."""
    if pixels > limit:
        raise ScanError("too_large", f"the header declares {pixels:,} pixels; the limit is {limit:,} (OCUSEG_MAX_PIXELS)")


def check_finite(array: npt.NDArray[Any], what: str) -> None:
    """Refuse NaN and infinity: they have no meaning in a picture, and one of them spoils the scale of all pixels."""
    import numpy as np

    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ScanError("malformed", f"{what} holds NaN or infinite values; replace them")


def sha256_of(file: BinaryIO) -> str:
    """SHA-256 of the whole file in hexadecimal; the file is left at its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()


def inflate_head(data: bytes, size: int) -> bytes:
    """The first ``size`` bytes that gzip ``data`` holds, or b"" if it is not gzip."""
    try:
        return zlib.decompressobj(31).decompress(data, size)
    except zlib.error:
        return b""


def _headerless_dicom(head: bytes) -> bool:
    """A DICOM data set without the Part 10 preamble, as old archives hold them: it begins with group 0002 or 0008."""
    if len(head) < 8 or head[1] or head[0] not in (2, 8) or head[3] or head[2] > 0x18:
        return False
    if head[4:6].isalpha() and head[4:6].isupper():
        return head[4:6] in (b"UL", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO", b"OB", b"DT")
    return int.from_bytes(head[4:8], "little") <= 256  # implicit VR: a plausible length


def _axes(analyze: bytes) -> int:
    """dim[0] of an Analyze 7.5 header."""
    return int.from_bytes(analyze[40:42], "little" if analyze[0] else "big")


def sniff_bytes(head: bytes) -> Format | None:
    """What a file is, by its first kilobyte; None if unknown."""
    if head[128:132] == b"DICM":
        return "dicom"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head[257:262] == b"ustar":
        return "archive"
    if re.match(rb"(?:[ -~]{1,200}\r?\n){0,8}?(?:ObjectType|NDims)[ \t]*=", head):
        return "metaimage"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<", head) and re.search(rb"<HEDX\b|<BODY>\s*<(?:SWVersion|Patient)\b", head):
        return "heidelberg_xml"
    if head[:2] == b"\x1f\x8b":
        inner = inflate_head(head, 600)
        return sniff_bytes(inner) if sniff_bytes(inner) in ("nifti", "pnm") else None
    sizes = head[:4]
    if sizes in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and head[344:348] in (b"n+1\0", b"ni1\0"):
        return "nifti"
    if sizes in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") and head[4:7] in (b"n+2", b"ni2"):
        return "nifti"
    if sizes in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and len(head) >= 348 and _axes(head) in range(1, 8):
        return "analyze"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\n", b"\r", b"\t"):
        return "pnm"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and len(head) > 26:
        return "bmp"
    return "dicom" if _headerless_dicom(head) else None


def sniff_file(file: BinaryIO) -> Format | None:
    """:func:`sniff_bytes` of an open file, which is left at its start."""
    with decoding("the file"):
        file.seek(0)
        head = file.read(_HEAD)
        file.seek(0)
    return sniff_bytes(head)
