"""Reads and writes NIfTI-1 and -2; positions are in ``nifti_header.py``."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.atomic import atomic_path
from pipeline.errors import ScanError
from pipeline.scans.files import MAX_PIXELS, MOST_BEHIND, check_finite, check_pixels, decoding, open_regular, sniff_file
from pipeline.scans.nifti_header import fill_header, geometry_of, lean_nibabel, read_header
from pipeline.scans.quiet import quiet
from pipeline.types import Geometry

Pixels = npt.NDArray[Any]

_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def read_nifti(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, Geometry]:
    """An array (H, W), (D, H, W), or with RGB (..., 3) last, in the stored dtype (float32 if the header scales), and its Geometry.

    Raises
    ------
    ScanError: ``empty``, ``truncated``, ``malformed``, ``too_large``, ``not_an_image``, ``unsupported`` (time series, vectors,
        complex numbers, header and image in two files), ``unreadable``, ``not_a_file``.
    """
    with open_regular(path) as file:
        if sniff_file(file) != "nifti":
            if not file.read(1):
                raise ScanError("empty", "the file is empty")
            raise ScanError("not_an_image", "this is not a NIfTI image")
        return decode_nifti(file, max_pixels)


def _read_checksum(stream: BinaryIO) -> None:
    """Read past the pixels to gzip's checksum, which damage may have shifted; a limit stops decompression bombs.

    Raises BadGzipFile, zlib.error or EOFError if it does not match the data or is missing.
    """
    try:
        for _ in range(MOST_BEHIND):
            if not stream.read(1 << 20):
                break
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):  # what follows a stream that was whole, and has been compared
            raise


def decode_nifti(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, Geometry]:
    """:func:`read_nifti` of an open file."""
    with quiet(), decoding("the NIfTI image"):
        file.seek(0)
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        header, frame = read_header(stream)
        if bytes(header["magic"])[:2] == b"ni":
            raise ScanError("unsupported", "header and image lie in two files (.hdr, .img); save as one .nii file")
        shape, colour = _shape(header)
        stored = header.get_data_dtype()
        count = int(np.prod(shape, dtype=object)) * (3 if colour else 1)
        check_pixels(count, max_pixels)
        size = count * stored.itemsize
        stream.seek(int(header.get_data_offset()))
        data = stream.read(size)
        if len(data) < size:
            raise ScanError("truncated", "the NIfTI image is truncated; copy or export it again")
        if 0 in header["dim"][1 : 1 + len(shape)] and stream.read(1):
            raise ScanError("malformed", "the NIfTI header states an axis of 0 pixels, but the file holds more than one; export it again")
        if packed:
            _read_checksum(stream)
        # Fortran order over (column, row, slice[, colour]) is C order over ([colour,] slice, row, column).
        array = np.frombuffer(data, dtype=stored).reshape(((3,) if colour else ()) + shape[::-1])
        array = _values(np.moveaxis(array, 0, -1) if colour else array, *_scaling(header))
        return array, geometry_of(header, frame, shape[::-1])


def _shape(header: Any) -> tuple[tuple[int, ...], bool]:
    """(columns, rows[, slices]), and whether three colours follow, as SimpleITK lays out a colour image (a vector in the fifth axis).

    An axis of 0 pixels counts as 1, as in the reference library.
    """
    if not 1 <= int(header["dim"][0]) <= 7:
        raise ScanError("malformed", f"the NIfTI header states {int(header['dim'][0])} axes; export it again")
    shape = tuple(max(int(n), 1) for n in header.get_data_shape())
    if len(shape) == 5 and shape[3:] == (1, 3) and header.get_data_dtype() == np.uint8:
        return (shape[:2] if shape[2] == 1 else shape[:3]), True
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise ScanError("unsupported", f"NIfTI images with {len(shape)} dimensions are not read; save 2 or 3")
    return shape, False


def _scaling(header: Any) -> tuple[float | None, float | None]:
    """(slope, intercept) of the stored numbers, None if the header states none."""
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise ScanError("malformed", "the NIfTI header scales its values by no number (scl_inter); export it again") from None
    return slope, intercept


def _values(array: Pixels, slope: float | None, intercept: float | None) -> Pixels:
    if array.dtype.names is not None:
        channels = [array[name] for name in ("R", "G", "B")]
        return np.stack(channels, axis=-1)
    if array.dtype.kind not in "iuf":
        raise ScanError("unsupported", f"NIfTI images of type {array.dtype.name} are not read; save numbers or RGB")
    if slope is not None and (slope, intercept or 0.0) != (1.0, 0.0):
        array = (array.astype(np.float64) * slope + (intercept or 0.0)).astype(np.float32)
    else:
        array = array.astype(array.dtype.newbyteorder("="))  # a copy, so that the result can be written to
    check_finite(array, "the NIfTI image")
    return array


def write_nifti(path: Path, array: Pixels, geometry: Geometry) -> None:
    """Write (H, W), (D, H, W) or uint8 RGB (..., 3) in ``geometry``; gzipped when the name ends in .gz; atomically.

    ``open_scan`` of the result has the same pixels and an identical Geometry, but for a spacing that is only estimated. For a source
    that was NIfTI, codes, units and every other field that places the image are kept. bool becomes uint8. The same input always gives the
    same bytes.
    """
    content = nifti_bytes(array, geometry)
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=1, mtime=0)
    with atomic_path(path) as staged:
        staged.write_bytes(content)


def nifti_bytes(array: Pixels, geometry: Geometry) -> bytes:
    """The file of :func:`write_nifti`, not compressed."""
    nibabel = lean_nibabel()
    colour = array.shape == (*geometry.shape, 3) and array.dtype == np.uint8
    if array.shape != geometry.shape and not colour:
        raise ValueError(f"array {array.shape} does not match geometry {geometry.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if colour:
        array = np.ascontiguousarray(array).view(_RGB)[..., 0]
    kind = nibabel.Nifti2Header if max(geometry.shape) > np.iinfo(np.int16).max else nibabel.Nifti1Header
    header = kind()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(geometry.shape[::-1])
    header.set_slope_inter(1.0, 0.0)
    fill_header(header, geometry.trusted())
    header["magic"] = header.single_magic
    header.set_data_offset(header.single_vox_offset + header.extensions.get_sizeondisk())
    out = io.BytesIO()
    header.write_to(out)
    out.write(b"\0" * (int(header.get_data_offset()) - out.tell()))
    out.write(np.ascontiguousarray(array).tobytes())
    return out.getvalue()
