"""PNG, TIFF, JPEG, JPEG 2000, WebP, AVIF, BMP, GIF and PNM: pixels as stored, upright; and PNG written whole or not at all.

Every image that is not DICOM or NIfTI, masks included, is decoded here, so that orientation tags, palettes, alpha and 16 bits
mean the same thing everywhere.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.atomic import atomic_path
from pipeline.errors import ScanError
from pipeline.scans import tiff
from pipeline.scans.files import MAX_PIXELS, Format, check_finite, check_pixels, decoding, open_regular, sniff_file
from pipeline.scans.jpeg import check_jpeg, check_length
from pipeline.scans.png import SIGNATURE, chunk, declared_size, is_deep_colour, picture_only, read_deep_colour
from pipeline.scans.quiet import libtiff_errors, quiet
from pipeline.scans.web_formats import check_depth, webp_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[Any]
RASTER_FORMATS: tuple[Format, ...] = ("png", "jpeg", "tiff", "gif", "bmp", "pnm", "jp2", "webp", "avif")

_ORIENTATION = 0x0112
_NEW_SUBFILE_TYPE = 254
_KEPT_MODES = ("L", "RGB", "F", "I", "I;16", "I;16B", "I;16L", "I;16N", "I;16S")


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """One picture: (H, W) or (H, W, 3) RGB in the stored dtype.

    The EXIF / TIFF orientation is applied. 1-bit becomes uint8 0 / 255. A palette becomes its colours (a grey one gives
    (H, W)). Transparency is composed over black; if all colours are black, the alpha channel is the picture. CMYK and YCbCr become RGB.

    Raises
    ------
    ScanError: ``empty``, ``truncated``, ``too_large``, ``not_an_image``, ``unsupported`` (several pages, an odd
        colour space), ``malformed`` (also: not a number, transparent everywhere), ``unreadable``, ``not_a_file``.
    """
    with open_regular(path) as file:
        kind = sniff_file(file)
        if kind not in RASTER_FORMATS:
            if not file.read(1):
                raise ScanError("empty", "the file is empty")
            raise ScanError("not_an_image", "this is not a picture in a supported format (PNG, TIFF, JPEG and others)")
        pages = read_pages(file, kind, max_pixels)
    if len(pages) > 1:
        raise ScanError("unsupported", f"the picture has {len(pages)} pages where one is needed")
    return pages[0]


def read_pages(file: BinaryIO, kind: Format, max_pixels: int = MAX_PIXELS, warnings: list[str] | None = None) -> list[Pixels]:
    """Every page of an open picture, each as :func:`read_image` returns it; reduced-size previews (TIFF) are left out.

    Doubtful points are added to ``warnings``; without that list they are errors.
    """
    what = f"the {kind.upper()} picture"
    with quiet(), decoding(what):
        pages = _read_pages(_checked(file, kind, max_pixels), kind, max_pixels)
    if not pages:
        raise ScanError("malformed", f"{what} holds no full-size page")
    for page in pages:
        check_finite(page, what)
    if any(_is_transparent(page) for page in pages):
        if warnings is None:
            raise ScanError("malformed", f"{what} is transparent everywhere; save it without transparency")
        warnings.append("the picture is transparent everywhere; its transparency is left out")
    return [_without_alpha(page) for page in pages]


def _checked(file: BinaryIO, kind: Format, max_pixels: int) -> BinaryIO:
    """The bytes of a file that the decoder gets: where it can be checked, nothing damaged, too large or not part of the picture."""
    if kind == "pnm":
        return _plain(file, max_pixels)
    if kind == "png":
        rows, columns = declared_size(file)
        check_pixels(rows * columns, max_pixels)
        return picture_only(file)
    if kind == "webp":
        check_pixels(webp_pixels(file), max_pixels)  # its decoder takes the memory as it opens
    return file


def _read_pages(file: BinaryIO, kind: Format, max_pixels: int) -> list[Pixels]:
    """Pages (H, W) or (H, W, 2, 3 or 4), upright, alpha last."""
    if kind == "tiff":
        return _read_tiff(file, max_pixels)
    if kind == "jp2":
        check_depth(file)
    with _open(file, kind) as image:
        pixels = image.size[0] * image.size[1]
        check_pixels(pixels, max_pixels)
        if kind == "png" and is_deep_colour(file):
            return [_oriented(read_deep_colour(file), image)]
        if kind == "jpeg":
            check_length(file.seek(0, 2), pixels, "the JPEG picture")
        pages = []
        frames = getattr(image, "n_frames", 1)
        check_pixels(frames * pixels, max_pixels)
        for index in range(frames):
            image.seek(index)
            pages.append(_oriented(_array(image), image))
    if kind == "jpeg":
        file.seek(0)
        check_jpeg(file.read())
    return pages


def _read_tiff(file: BinaryIO, max_pixels: int) -> list[Pixels]:
    pages: list[Pixels] = []
    total = 0
    try:
        with libtiff_errors() as errors, _open(file, "tiff") as image:
            check_pixels(image.size[0] * image.size[1], max_pixels)
            if tiff.is_deep_colour(image):
                raise SyntaxError
            for index in range(getattr(image, "n_frames", 1)):
                image.seek(index)
                if int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & 1:  # type: ignore[attr-defined]
                    continue
                total += image.size[0] * image.size[1]
                check_pixels(total, max_pixels)
                pages.append(tiff.true_values(image, _array(image)))  # Pillow turns TIFF pages itself as it loads them
    except SyntaxError:  # Pillow's word for what it has no mode for
        return [turn(array, orientation) for array, orientation in tiff.read_by_tifffile(file, max_pixels)]
    if errors:
        raise ScanError("malformed", "the TIFF picture is damaged, and part of what it shows would be made up; copy or export it again")
    tiff.check_segments(file)
    return pages


def _plain(file: BinaryIO, max_pixels: int) -> BinaryIO:
    """PNM files are often gzipped (STARE): the bytes inside, as many as ``max_pixels`` RGB pixels of text can need."""
    if file.read(2) != b"\x1f\x8b":
        file.seek(0)
        return file
    file.seek(0)
    limit = 12 * max_pixels + 1024
    with gzip.GzipFile(fileobj=file) as packed:
        data = packed.read(limit + 1)
    if len(data) > limit:
        check_pixels(len(data) // 3, max_pixels)
    return io.BytesIO(data)


def _open(file: BinaryIO, kind: Format) -> Image:
    """The opened picture, header only. Not by ``Image.open``, whose limit on pixels is global; ours is an argument."""
    from PIL import (
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        Jpeg2KImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    readers: dict[str, Any] = {
        "png": PngImagePlugin.PngImageFile,
        "jpeg": JpegImagePlugin.JpegImageFile,
        "tiff": TiffImagePlugin.TiffImageFile,
        "gif": GifImagePlugin.GifImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
        "pnm": PpmImagePlugin.PpmImageFile,
        "jp2": Jpeg2KImagePlugin.Jpeg2KImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
        "avif": AvifImagePlugin.AvifImageFile,
    }
    file.seek(0)
    image: Image = readers[kind](file)
    return image


def _array(image: Image) -> Pixels:
    mode = image.mode
    if mode == "1":
        return np.asarray(image.convert("L"))
    if mode == "P":
        return _grey_if_grey(np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB")))
    if mode in ("LA", "PA", "RGBA"):
        return np.asarray(image if mode != "PA" else image.convert("RGBA"))
    if mode in ("CMYK", "YCbCr", "RGBX", "RGBa", "La"):
        return np.asarray(image.convert("L" if mode == "La" else "RGB"))
    if mode not in _KEPT_MODES:
        raise ScanError("unsupported", f"pictures in colour mode {mode} are not read; export as RGB or grey")
    array = np.asarray(image)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _grey_if_grey(rgb: Pixels) -> Pixels:
    """Colours of a palette, (H, W, 3 or 4), as (H, W [, 2]) if all of them are grey."""
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all():
        return np.ascontiguousarray(rgb[..., 0] if rgb.shape[-1] == 3 else rgb[..., 2:])
    return rgb


def _is_transparent(array: Pixels) -> bool:
    """Colours that no alpha lets through."""
    return array.ndim == 3 and array.shape[-1] != 3 and not array[..., -1].any() and bool(array[..., :-1].any())


def _without_alpha(array: Pixels) -> Pixels:
    """(H, W), or (H, W, 2 or 4) with alpha, unsigned -> (H, W) or (H, W, 3) as it looks on black.

    If the colours are black everywhere, the alpha channel is the picture (as in some masks); if alpha is 0 everywhere, the colours are.
    """
    if array.ndim == 2 or array.shape[-1] == 3:
        return array
    alpha, colour = array[..., -1:], array[..., :-1]
    top = np.iinfo(array.dtype).max
    if not colour.any() and alpha.min() < alpha.max():
        return np.ascontiguousarray(alpha[..., 0])
    if alpha.any() and not (alpha == top).all():
        colour = ((colour.astype(np.uint64) * alpha + top // 2) // top).astype(array.dtype)
    return np.ascontiguousarray(colour[..., 0] if colour.shape[-1] == 1 else colour)


def _oriented(array: Pixels, image: Image) -> Pixels:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about orientation, and is no reason to lose the picture
        orientation = 1
    return turn(array, orientation)


def turn(array: Pixels, orientation: Any) -> Pixels:
    """Apply an EXIF / TIFF orientation (1..8; TIFF 6.0 p. 36): which edge of the picture the stored first row and column are."""
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }.get(orientation)
    return array if turned is None else np.ascontiguousarray(turned(array))


def write_png(path: Path, array: Pixels) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8, as PNG; ``path`` never holds half a picture.

    The same array always gives the same bytes.
    """
    content = png_of(array)
    with atomic_path(path) as staged:
        staged.write_bytes(content)


def png_of(array: Pixels) -> bytes:
    """The PNG file of :func:`write_png`.

    Every row is stored as its difference from the one above (filter 2) and compressed at zlib's fastest level: a third of the time of an
    encoder that tries several filters, for a file of the same size, and nearly all of it outside Python's lock.
    """
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not grey and not (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8):
        raise ValueError(f"write_png takes (H, W) uint8 / uint16 or (H, W, 3) uint8, not {array.shape} {array.dtype}")
    rows, columns = array.shape[:2]
    stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, -1)
    lines = np.empty((rows, stored.shape[1] + 1), dtype=np.uint8)
    lines[:, 0] = 2
    lines[0, 1:] = stored[0]
    np.subtract(stored[1:], stored[:-1], out=lines[1:, 1:])
    header = struct.pack(">IIBBBBB", columns, rows, 8 * array.itemsize, 0 if grey else 2, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.data, 1)) + chunk(b"IEND", b"")
