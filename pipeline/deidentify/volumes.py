"""Volumes without words: NIfTI and Heidelberg .vol files keep their numbers byte for byte, MetaImage and NRRD become NIfTI.

What stays of a header is listed here; the rest becomes zeros.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.deidentify.burned_in import Box, blacken
from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.profile import Rules
from pipeline.errors import ScanError
from pipeline.scans.files import decoding
from pipeline.scans.nifti import nifti_bytes
from pipeline.scans.vendor import vol_layout
from pipeline.types import Scan

_WORDS_1 = ((4, 39), (148, 252), (328, 344))  # data_type .. regular; descrip, aux_file; intent_name
_WORDS_2 = ((240, 344), (508, 524), (525, 540))  # descrip, aux_file; intent_name; unused_str
_UNUSED_1 = ("h", "f", 40, 76, ((68, "h", 56, 68), (252, "h", 256, 280), (254, "h", 280, 328)))
_UNUSED_2 = ("q", "d", 16, 104, ((504, "i", 80, 104), (344, "i", 352, 400), (348, "i", 400, 496)))
"""Types of sizes and of scales, where each begin; and of intent, qform and sform where its code is, and what means nothing without it."""
_LONGEST_HEADER = 544
_VOL_KEPT = ((0, 88), (96, 104))  # version, sizes, scales, eye; scan pattern and length of a B-scan's header
_VOL_PATIENT, _VOL_VISIT = slice(140, 161), 200


def clean_nifti(file: BinaryIO) -> Cleaned:
    """A NIfTI file whose texts and extensions are zeros; nothing follows its last voxel.

    Raises
    ------
    ScanError: ``unsupported`` (header and image in two files), ``truncated``.
    """
    with decoding("the NIfTI image"):
        file.seek(0)
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if packed else file
        head = stream.read(_LONGEST_HEADER)
        second = head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
        size = 540 if second else 348
        if (head[4:7] if second else head[344:347]).startswith(b"ni"):
            raise ScanError("unsupported", "header and image lie in two files (.hdr, .img); convert them to one NIfTI file (.nii)")
        begin, end = _voxels(head, second, "<" if head[0] else ">")
        data = bytearray(head + stream.read(max(0, end + 1 - len(head))))
        if end > len(data):
            raise ScanError("truncated", "the NIfTI image is truncated; copy or export it again")
        removed = {"what follows the voxels"} if len(data) > end else set()
        for what, first, last in (*(("descriptions", *words) for words in (_WORDS_2 if second else _WORDS_1)), ("extensions", size, begin)):
            removed |= {what} if any(data[first:last]) else set()
            data[first:last] = b"\0" * (last - first)
        removed |= {"numbers that mean nothing"} if _clear_unused(data, second, "<" if head[0] else ">") else set()
        content = bytes(data[:end])
        named = tuple(sorted(removed))
        return Cleaned(gzip.compress(content, 1, mtime=0), ".nii.gz", named) if packed else Cleaned(content, ".nii", named)


def _clear_unused(data: bytearray, second: bool, order: str) -> bool:
    """Set what no reader looks at to one or zero, in place, and say whether it was anything else: sizes and scales of axes that there are
    not, parameters without an intent, transforms without a code, and the range of grey values that NIfTI-1 left unused."""
    before = bytes(data[:_LONGEST_HEADER])
    whole, real, sizes, scales, coded = _UNUSED_2 if second else _UNUSED_1
    (axes,) = struct.unpack_from(order + whole, data, sizes)
    for axis in range(axes + 1, 8):
        for kind, at in ((whole, sizes + axis * struct.calcsize(whole)), (real, scales + axis * struct.calcsize(real))):
            if struct.unpack_from(order + kind, data, at)[0] not in (0, 1):
                struct.pack_into(order + kind, data, at, 1)
    for code, kind, first, last in coded:
        if not struct.unpack_from(order + kind, data, code)[0]:
            data[first:last] = bytes(last - first)
    if not second:
        data[140:148] = bytes(8)
    return bytes(data[:_LONGEST_HEADER]) != before


def _voxels(data: bytes, second: bool, order: str) -> tuple[int, int]:
    """Where the voxels begin and end."""
    if second:
        sizes = struct.unpack_from(f"{order}8q", data, 16)
        bits, begin = struct.unpack_from(f"{order}h", data, 14)[0], struct.unpack_from(f"{order}q", data, 168)[0]
    else:
        sizes = struct.unpack_from(f"{order}8h", data, 40)
        bits, begin = struct.unpack_from(f"{order}h", data, 72)[0], int(struct.unpack_from(f"{order}f", data, 108)[0])
    begin = max(begin, 544 if second else 352)
    return begin, begin + math.prod(max(n, 1) for n in sizes[1 : 1 + sizes[0]]) * bits // 8


def laser_picture(file: BinaryIO, max_pixels: int) -> npt.NDArray[np.uint8]:
    """The scanning laser's picture in an open .vol file, (H, W), which no Scan holds."""
    with decoding("the Spectralis file"):
        layout = vol_layout(file, max_pixels)
        file.seek(layout.slo_at)
        return np.frombuffer(file.read(math.prod(layout.slo)), np.uint8).reshape(layout.slo)


def clean_vol(file: BinaryIO, rules: Rules, patient: str, days: int, max_pixels: int, boxes: Sequence[Sequence[Box]] = ()) -> Cleaned:
    """A Spectralis .vol file with sizes, scales, eye, pattern, lines and pixels, and the pseudonym as Patient ID.

    Visit dates move by ``days``, stay or go as the options say; exam times, identifiers and thickness grids go. ``boxes`` are blackened:
    a list for each B-scan, and the last one for the scanning laser's picture.

    Raises
    ------
    ScanError: ``truncated``, ``malformed``.
    """
    with decoding("the Spectralis file"):
        layout = vol_layout(file, max_pixels)
        file.seek(0)
        data = bytearray(file.read(layout.end))
        version = re.match(rb"HSF-OCT-\d{3}", bytes(data[:12]))
        (visit,) = struct.unpack_from("<d", data, _VOL_VISIT)
        head = bytearray(2048)
        for first, last in _VOL_KEPT:
            head[first:last] = data[first:last]
        head[:12] = (version[0] if version else b"HSF-OCT-100").ljust(12, b"\0")
        head[84:88] = data[84:86].ljust(4, b"\0")
        head[_VOL_PATIENT] = patient.encode("ascii").ljust(21, b"\0")
        struct.pack_into("<d", head, _VOL_VISIT, _moved(visit, rules, days))
        data[:2048] = head
        for at, lines in layout.headers:
            b_head = bytearray(layout.b_header)
            b_head[:88] = data[at : at + 88]
            b_head[:12] = b"HSF-BS-103\0\0"
            b_head[lines] = data[at + lines.start : at + lines.stop]
            data[at : at + layout.b_header] = b_head
        if boxes:
            size = struct.unpack_from("<3I", data, 12)[::-2]  # rows and columns of a B-scan
            for (at, _), found in zip(layout.headers, boxes[:-1], strict=True):
                _blacken(data, at + layout.b_header, "<f4", size, found)
            _blacken(data, layout.slo_at, "u1", layout.slo, boxes[-1])
        return Cleaned(bytes(data), ".vol", ("identifiers", "dates", "spare fields"))


def _blacken(data: bytearray, at: int, kind: str, size: tuple[int, int], boxes: Sequence[Box]) -> None:
    """Set boxes of a picture that lies in ``data`` at an offset to zero, in place."""
    blacken(np.frombuffer(data, kind, math.prod(size), at).reshape(1, *size), [boxes])


def _moved(visit: float, rules: Rules, days: int) -> float:
    if rules.dates == "keep":
        return visit
    if rules.dates == "remove" or not 1 <= visit < 2_958_466:
        return 0.0
    return float(math.floor(visit) + days) if visit + days >= 1 else 0.0


def clean_volume_file(scan: Scan, left_out: tuple[str, ...] = ()) -> Cleaned:
    """A MetaImage, NRRD, .e2e or .xml volume as NIfTI: these formats hold free keys, or may name a person anywhere. ``left_out``: what a
    person should know.

    Raises
    ------
    ScanError: ``unsupported`` (colours of other than eight bits).
    """
    pixels: Any = scan.pixels[0] if len(scan.pixels) == 1 else np.ascontiguousarray(np.moveaxis(scan.pixels, 0, -1))
    if len(scan.pixels) != 1 and pixels.dtype != np.uint8:
        raise ScanError("unsupported", "volumes with colours of more than eight bits are not cleaned; save grey volumes")
    content = gzip.compress(nifti_bytes(pixels, scan.geometry), 1, mtime=0)
    return Cleaned(content, ".nii.gz", ("everything but voxels and geometry",), ("written as NIfTI, with the same voxels", *left_out))


__all__ = ["clean_nifti", "clean_vol", "clean_volume_file", "laser_picture"]
