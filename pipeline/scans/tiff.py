"""TIFF 6.0 beyond 8-bit pictures, and damage that its decoders do not report.

Pillow (libtiff) reads the common kinds. Several channels of more than 8 bits, and number types without a Pillow mode, are read by
tifffile.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.files import check_pixels
from pipeline.scans.jpeg import check_jpeg

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[Any]

_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 274, 339
_WHITE_IS_ZERO, _SIGNED, _FLOAT = 0, 2, 3
_JPEG, _DEFLATE = 7, (8, 32946)
_STEP = 1 << 20


def is_deep_colour(image: Image) -> bool:
    """Whether an open TIFF has more than 8 bits in several channels, which Pillow would cut."""
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
    return len(bits) > 1 and max(bits) > 8


def true_values(image: Image, array: Pixels) -> Pixels:
    """Pillow's array of one page with the values that the file means: Pillow misreads signed bytes and long numbers, and inverts pictures
    in which white is zero only up to 8 bits."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, kind = int(tags.get(_BITS_PER_SAMPLE, (1,))[0]), int(tags.get(_SAMPLE_FORMAT, (1,))[0])
    if array.ndim == 2 and (bits, kind) == (8, _SIGNED):
        array = array.view(np.int8)
    if array.ndim == 2 and (bits, kind) == (32, 1):
        array = array.view(np.uint32)
    white_is_zero = int(tags.get(_PHOTOMETRIC, 1)) == _WHITE_IS_ZERO
    return turned_round(array) if white_is_zero and (bits > 8 or kind != 1) else array


def turned_round(array: Pixels) -> Pixels:
    """Inverted; defined for types with a largest value."""
    if array.dtype.kind != "u":
        raise ScanError(
            "unsupported", f"TIFF pictures of type {array.dtype.name} in which white is zero are not read; save with black as zero"
        )
    return np.asarray(np.iinfo(array.dtype).max - array)


def read_by_tifffile(file: BinaryIO, max_pixels: int) -> list[tuple[Pixels, int]]:
    """(array, orientation) of every full-size page: (H, W) or (H, W, 2, 3 or 4), float16 as float32.

    Raises
    ------
    ScanError: ``unsupported``, naming what is not read; ``too_large``.
    """
    import tifffile

    pages = []
    total = 0
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        for page in tiff.pages:
            if page.subfiletype & 1:
                continue
            total += page.imagelength * page.imagewidth
            check_pixels(total, max_pixels)
            if page.samplesperpixel > 4:
                raise ScanError(
                    "unsupported", f"the TIFF picture has {page.samplesperpixel} channels; save one (grey) or three (RGB) of them"
                )
            if page.axes not in ("YX", "YXS", "SYX") or page.dtype is None or page.dtype.kind not in "uif":
                raise ScanError(
                    "unsupported", "TIFF pictures with this arrangement of channels or numbers are not read; export as RGB or grey"
                )
            try:
                array = page.asarray()
            except ValueError:
                name = getattr(page.compression, "name", "unknown")
                raise ScanError(
                    "unsupported",
                    f"TIFF pictures of {page.dtype.name} numbers with {name} compression are not read; export uncompressed",
                ) from None
            array = np.moveaxis(array, 0, 2) if page.axes == "SYX" else array
            array = array.astype(np.float32) if array.dtype == np.float16 else array.astype(array.dtype.newbyteorder("="), copy=False)
            if page.photometric == _WHITE_IS_ZERO:
                array = turned_round(array)
            tag = page.tags.get(_ORIENTATION)
            pages.append((array, tag.value if tag is not None else 1))
    return pages


def check_segments(file: BinaryIO) -> None:
    """Refuse damage that libtiff ignores: in JPEG strips, and after the last line of a deflated strip.

    Raises
    ------
    ScanError: ``malformed``.
    """
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        for page in tiff.pages:
            if page.compression != _JPEG and page.compression not in _DEFLATE:
                continue
            tables = page.jpegtables or b""
            for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(offset)
                segment = file.read(size)
                if page.compression == _JPEG:
                    check_jpeg(tables[:-2] + segment[2:] if tables else segment, "the TIFF picture")
                elif not _is_whole(segment, page.nbytes):
                    raise ScanError("malformed", "the TIFF picture is damaged: a checksum in it is wrong; copy or export it again")


def _is_whole(deflated: bytes, most: int) -> bool:
    """Whether a zlib stream ends with the right checksum; inflated step by step, up to ``most`` bytes."""
    inflater, done = zlib.decompressobj(), 0
    try:
        while deflated and not inflater.eof and done <= most:
            done += len(inflater.decompress(deflated, _STEP))
            deflated = inflater.unconsumed_tail
    except zlib.error:
        return False
    return True
