"""MetaImage (.mha, .mhd; itk.org/Wiki/MetaIO) and NRRD (teem.sourceforge.net/nrrd/format.html): a text header and raw values.

Both count (column, row, slice). MetaImage's TransformMatrix and NRRD's space directions hold, for each index, its direction in the
patient; ITK's world is DICOM's LPS, as here. Our array shape is the file's sizes in reverse.
"""

from __future__ import annotations

import bz2
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.files import MOST_BEHIND, check_finite, check_pixels, open_regular
from pipeline.types import Geometry, known_spacing

_HEADER = 1 << 16
_ELEMENTS = re.compile(rb"ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?\n?")
_STEP = 1 << 24
_META_TYPES = {
    "CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
    "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8",
}  # fmt: skip
_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TO_LPS = {"lps": (1, 1, 1), "ras": (-1, -1, 1), "las": (1, -1, 1)}
_SPACES = {
    "left-posterior-superior": "lps", "lps": "lps", "right-anterior-superior": "ras", "ras": "ras",
    "left-anterior-superior": "las", "las": "las",
}  # fmt: skip


@dataclass(frozen=True)
class _Header:
    """``sizes`` of the spatial axes, fastest first; ``directions`` (3, axes), millimetres LPS, or None; ``data`` names another file."""

    sizes: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    spacing: tuple[float | None, ...]
    directions: npt.NDArray[np.float64] | None
    origin: npt.NDArray[np.float64] | None
    packing: str  # raw, gzip, zlib or bzip2
    begin: int  # where the data begin; -1: they end with the file
    data: str | None


def read_volume_file(file: BinaryIO, kind: str, path: Path, max_pixels: int) -> tuple[npt.NDArray[Any], Geometry]:
    """Pixels (C, H, W) or (C, D, H, W) in the stored dtype, and their Geometry.

    Raises
    ------
    ScanError: ``truncated``, ``malformed``, ``too_large``, ``unsupported``.
    """
    file.seek(0)
    head = file.read(_HEADER)
    header = _meta_header(head) if kind == "metaimage" else _nrrd_header(head)
    count = int(np.prod(header.sizes, dtype=object))
    if len(header.sizes) not in (2, 3) or min(header.sizes) < 1 or header.channels not in (1, 3):
        raise ScanError(
            "unsupported", f"volumes of {len(header.sizes)} axes and {header.channels} values a pixel are not read; save 2 or 3 axes"
        )
    check_pixels(count, max_pixels)
    size = count * header.channels * header.dtype.itemsize
    if header.data is None:
        data = _unpacked(file, header, size)
    else:
        with open_regular(_beside(path, header.data)) as other:
            data = _unpacked(other, header, size)
    if len(data) < size:
        raise ScanError("truncated", "the volume file is truncated; copy or export it again")
    array = np.frombuffer(data, header.dtype).reshape(*header.sizes[::-1], header.channels)
    pixels = np.moveaxis(array, -1, 0).astype(header.dtype.newbyteorder("="), order="C")
    check_finite(pixels, "the volume file")
    if len(header.sizes) == 3 and header.sizes[2] == 1:
        return pixels[:, 0], _geometry(header, 2)
    return pixels, _geometry(header, len(header.sizes))


def data_file(file: BinaryIO, path: Path) -> Path | None:
    """The file that holds the pixels of an open MetaImage header; None where they follow the header."""
    file.seek(0)
    place = _ELEMENTS.search(file.read(_HEADER))
    name = "LOCAL" if place is None else place[1].decode("latin-1").strip()
    return None if name.upper() == "LOCAL" else _beside(path, name)


def joint_sha256(header: BinaryIO, data: Path) -> str:
    """SHA-256 of a header together with the file that it names, because headers of different volumes may be equal."""
    header.seek(0)
    digest = hashlib.sha256(header.read())
    with open_regular(data) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _beside(path: Path, name: str) -> Path:
    """The data file of a header; only one in the same folder, and no link, is accepted."""
    other = path.parent / name
    if not re.fullmatch(r"[^/\\\0%]{1,200}", name) or name.upper() in (".", "..", "LIST") or other.is_symlink():
        raise ScanError("unsupported", "the volume's data lie in several files or another folder; save header and data as one .mha file")
    return other


def _unpacked(file: BinaryIO, header: _Header, size: int) -> bytes:
    """``size`` bytes of values, with their checksum verified."""
    begin = header.begin
    if begin < 0:
        begin = max(file.seek(0, 2) - size, 0)
    file.seek(begin)
    if header.packing == "raw":
        return file.read(size)
    inflater: Any = bz2.BZ2Decompressor() if header.packing == "bzip2" else zlib.decompressobj(47)  # zlib or gzip, as its head says
    out, behind = bytearray(), 0
    try:
        for data in _steps(file, inflater):
            out += data[: size - len(out)]
            behind += len(data) if len(out) == size else 0
            if behind > MOST_BEHIND << 20:
                return bytes(out)
    except (zlib.error, OSError):
        raise ScanError("malformed", "the volume file's compressed data are damaged; copy or export it again") from None
    if not inflater.eof:
        raise ScanError("truncated", "the volume file's compressed data are truncated; copy or export it again")
    return bytes(out)


def _steps(file: BinaryIO, inflater: Any) -> Iterator[bytes]:
    """The unpacked data, step by step, until the stream ends (its checksum is then compared) or the file does."""
    left = b""
    while not inflater.eof:
        if not left and getattr(inflater, "needs_input", True):
            left = file.read(_STEP)
            if not left:
                return
        yield inflater.decompress(left, _STEP)
        left = getattr(inflater, "unconsumed_tail", b"")


def _fields(head: bytes, sign: str) -> dict[str, str]:
    pairs = (line.split(sign, 1) for line in head.decode("latin-1").splitlines() if sign in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


def _meta_header(head: bytes) -> _Header:
    place = _ELEMENTS.search(head)
    if place is None:
        raise ScanError("malformed", "the MetaImage header names no ElementDataFile; export it again")
    fields = _fields(head[: place.end()], "=")
    data = place[1].decode("latin-1").strip()
    kind = _META_TYPES.get(fields.get("elementtype", "").upper().removeprefix("MET_").removesuffix("_ARRAY"))
    if kind is None or fields.get("binarydata", "True").lower() != "true":
        raise ScanError("unsupported", "MetaImages of this element type, or written as text, are not read; save binary numbers")
    order = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False")).lower() == "true"
    sizes = tuple(int(n) for n in fields.get("dimsize", "").split())
    axes = len(sizes)
    matrix = _numbers(fields, ("transformmatrix", "rotation", "orientation"), axes * axes)
    origin = _numbers(fields, ("offset", "origin", "position"), axes)
    stated = _numbers(fields, ("elementspacing", "elementsize"), axes)
    spacing = _spacing(stated)
    directions = None
    if axes == 3 and matrix is not None and stated is not None:
        directions = matrix.reshape(axes, axes).T * stated  # row i of the file's matrix is where index i runs
    local = data.upper() == "LOCAL"
    begin = place.end() if local else int(fields.get("headersize", "0"))
    packing = "zlib" if fields.get("compresseddata", "False").lower() == "true" else "raw"
    channels = int(fields.get("elementnumberofchannels", "1"))
    return _Header(
        sizes, channels, np.dtype(">" + kind if order else "<" + kind), spacing, directions, origin, packing, begin, None if local else data
    )


def _nrrd_header(head: bytes) -> _Header:
    end = re.search(rb"\r?\n\r?\n", head)
    fields = _fields(head[: end.start()] if end else head, ":")
    if end is None or "data file" in fields or "datafile" in fields:
        raise ScanError("unsupported", "the NRRD header and its data lie in two files; save as one .nrrd file")
    kind = next((short for short, names in _NRRD_TYPES.items() if fields.get("type", "").lower() in names), None)
    packing = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}.get(fields.get("encoding", "").lower())
    if kind is None or packing is None or int(fields.get("line skip", "0")) or int(fields.get("byte skip", "0")) not in (0, -1):
        raise ScanError("unsupported", "NRRD files of this type or encoding are not read; save numbers, raw or gzip")
    sizes = tuple(int(n) for n in fields["sizes"].split())
    vectors = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    kinds = fields.get("kinds", "").lower().split()
    colour = (
        len(sizes) > 2 and sizes[0] == 3 and (vectors[:1] == ["none"] or "color" in (kinds or [""])[0] or "vector" in (kinds or [""])[0])
    )
    if colour:
        sizes, vectors = sizes[1:], vectors[1:]
    spacing, directions, origin = _nrrd_space(fields, vectors, len(sizes))
    begin = -1 if int(fields.get("byte skip", "0")) == -1 else end.end()
    big = fields.get("endian", "little").lower() == "big"
    return _Header(
        sizes, 3 if colour else 1, np.dtype(">" + kind if big else "<" + kind), spacing, directions, origin, packing, begin, None
    )


def _nrrd_space(
    fields: dict[str, str], vectors: list[str], axes: int
) -> tuple[tuple[float | None, ...], npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
    """Spacing, directions and origin; none if the unit is not millimetres, or is not stated and there is no space."""
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))) - {""}
    space = _SPACES.get(fields.get("space", "").lower())
    if units - {"mm"}:
        return (), None, None
    directions = origin = None
    if space is not None and len(vectors) == axes == 3 and "none" not in vectors:
        turn = np.array(_TO_LPS[space], np.float64)
        directions = np.stack([_vector(v) for v in vectors], axis=1) * turn[:, None]
        origin = _vector(fields["space origin"]) * turn if "space origin" in fields else None
        return _spacing(np.linalg.norm(directions, axis=0)), directions, origin
    return (_spacing(_numbers(fields, ("spacings",), axes)) if units else ()), None, None


def _vector(text: str) -> npt.NDArray[np.float64]:
    return np.array([float(n) for n in text.strip("() ").split(",")])


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int) -> npt.NDArray[np.float64] | None:
    text = next((fields[name] for name in names if name in fields), "").split()
    return np.array([float(n) for n in text]) if len(text) == count else None


def _spacing(stated: npt.NDArray[np.float64] | None) -> tuple[float | None, ...]:
    return () if stated is None else tuple(float(s) if np.isfinite(s) and s > 0 else None for s in stated)


def _geometry(header: _Header, axes: int) -> Geometry:
    """As the header states it. An affine with unmeasured pixels of 1 mm still gives the directions of the axes."""
    shape = header.sizes[:axes][::-1]
    spacing = known_spacing(header.spacing[:axes][::-1])
    affine = None
    if axes == 3 and header.directions is not None and header.origin is not None and spacing is not None and None not in spacing:
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = header.directions, header.origin
        if abs(np.linalg.det(header.directions / np.linalg.norm(header.directions, axis=0))) < 1e-6:
            affine = None
    return Geometry(shape, spacing, "unknown" if spacing is None else "tag", affine)
