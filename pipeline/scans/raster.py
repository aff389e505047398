"""PNG, TIFF, JPEG, BMP, GIF and PNM: pixels exactly as stored, the right way up; and PNG written whole or not at all.

Every image that is not DICOM or NIfTI, masks included, is decoded here, so that orientation tags, palettes, alpha and 16 bits
mean the same thing everywhere.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.atomic import atomic_path
from pipeline.errors import ScanError
from pipeline.scans.deep_png import is_deep_colour, read_deep_colour
from pipeline.scans.files import MAX_PIXELS, Format, check_pixels, decoding, open_regular, sniff_file
from pipeline.scans.quiet import quiet

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[Any]
RASTER_FORMATS: tuple[Format, ...] = ("png", "jpeg", "tiff", "gif", "bmp", "pnm")

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_NEW_SUBFILE_TYPE = 254
_KEPT_MODES = ("L", "RGB", "F", "I", "I;16", "I;16B", "I;16L", "I;16N", "I;16S")


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """One picture: (H, W) or (H, W, 3) RGB in the stored dtype.

    The EXIF / TIFF orientation is carried out. 1-bit becomes uint8 0 / 255. A palette becomes its colours (grey ones become
    (H, W)). Transparency is laid over black. CMYK and YCbCr become RGB.

    Raises
    ------
    ScanError: ``empty``, ``truncated``, ``malformed``, ``too_large``, ``not_an_image``, ``unsupported`` (several pages, an odd
        colour space), ``unreadable``, ``not_a_file``.
    """
    with open_regular(path) as file:
        kind = sniff_file(file)
        if kind not in RASTER_FORMATS:
            if not file.read(1):
                raise ScanError("empty", "the file is empty")
            raise ScanError("not_an_image", "this is not a PNG, TIFF, JPEG, BMP, GIF or PNM picture")
        pages = read_pages(file, kind, max_pixels)
    if len(pages) > 1:
        raise ScanError("unsupported", f"the picture has {len(pages)} pages where one is needed")
    return pages[0]


def read_pages(file: BinaryIO, kind: Format, max_pixels: int = MAX_PIXELS) -> list[Pixels]:
    """Every page of an open picture, each as :func:`read_image` has it; reduced-size previews (TIFF) are left out."""
    what = f"the {kind.upper()} picture"
    with quiet(), decoding(what), _open(_plain(file, max_pixels) if kind == "pnm" else file, kind) as image:
        columns, rows = image.size
        check_pixels(columns * rows, max_pixels)
        if kind == "png" and is_deep_colour(file):
            deep = read_deep_colour(file)
            return [_oriented(deep if deep.shape[2] == 3 else _over_black(deep), image)]
        if kind == "tiff" and _deep_colour_tiff(image):
            return _deep_tiff(file, max_pixels)
        pages: list[Pixels] = []
        total = 0
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            if kind == "tiff" and int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & 1:  # type: ignore[attr-defined]
                continue
            total += image.size[0] * image.size[1]
            check_pixels(total, max_pixels)
            # Pillow turns TIFF pages itself as it loads them; the others are turned here.
            pages.append(_array(image) if kind == "tiff" else _oriented(_array(image), image))
    if not pages:
        raise ScanError("malformed", f"{what} holds no full-size page")
    return pages


def _plain(file: BinaryIO, max_pixels: int) -> BinaryIO:
    """PNM files are often kept gzipped (STARE): the bytes inside, as many as ``max_pixels`` RGB pixels of text can need."""
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
    """The picture's header. Not by ``Image.open``: its limit on pixels is a global; ours is an argument."""
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin

    readers: dict[str, Any] = {
        "png": PngImagePlugin.PngImageFile,
        "jpeg": JpegImagePlugin.JpegImageFile,
        "tiff": TiffImagePlugin.TiffImageFile,
        "gif": GifImagePlugin.GifImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
        "pnm": PpmImagePlugin.PpmImageFile,
    }
    file.seek(0)
    image: Image = readers[kind](file)
    return image


def _array(image: Image) -> Pixels:
    mode = image.mode
    if mode == "1":
        return np.asarray(image.convert("L"))
    if mode == "P":
        if "transparency" in image.info:
            return _grey_if_grey(_over_black(np.asarray(image.convert("RGBA"))))
        return _grey_if_grey(np.asarray(image.convert("RGB")))
    if mode in ("LA", "PA", "RGBA"):
        return _over_black(np.asarray(image if mode != "PA" else image.convert("RGBA")))
    if mode in ("CMYK", "YCbCr", "RGBX", "RGBa", "La"):
        return np.asarray(image.convert("L" if mode == "La" else "RGB"))
    if mode not in _KEPT_MODES:
        raise ScanError("unsupported", f"pictures in colour mode {mode} are not read; export as RGB or grey")
    array = np.asarray(image)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _grey_if_grey(rgb: Pixels) -> Pixels:
    if rgb.ndim == 3 and (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all():
        return np.ascontiguousarray(rgb[..., 0])
    return rgb


def _over_black(array: Pixels) -> Pixels:
    """(H, W, 2) grey or (H, W, 4) RGB with alpha, uint8 or uint16 -> without alpha, as it looks on black."""
    alpha, colour = array[..., -1:], array[..., :-1]
    top = np.iinfo(array.dtype).max
    if not (alpha == top).all():
        colour = ((colour.astype(np.uint64) * alpha + top // 2) // top).astype(array.dtype)
    return np.ascontiguousarray(colour[..., 0] if colour.shape[-1] == 1 else colour)


def _oriented(array: Pixels, image: Image) -> Pixels:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about orientation, and is no reason to lose the picture
        orientation = 1
    return turn(array, orientation)


def turn(array: Pixels, orientation: Any) -> Pixels:
    """Carry out an EXIF / TIFF orientation (1..8; TIFF 6.0 p. 36): which edge of the picture the stored first row and column are."""
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


def _deep_colour_tiff(image: Image) -> bool:
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
    return len(bits) > 1 and max(bits) > 8


def _deep_tiff(file: BinaryIO, max_pixels: int) -> list[Pixels]:
    """TIFF with more than 8 bits in several channels, by tifffile."""
    import tifffile

    pages: list[Pixels] = []
    total = 0
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        for page in tiff.pages:
            if page.subfiletype & 1:
                continue
            total += page.imagelength * page.imagewidth
            check_pixels(total, max_pixels)
            if page.axes not in ("YXS", "SYX") or page.samplesperpixel not in (2, 3, 4):
                raise ScanError("unsupported", "TIFF pictures with this arrangement of channels are not read; export as RGB")
            try:
                array = page.asarray()
            except ValueError:
                name = getattr(page.compression, "name", "unknown")
                raise ScanError("unsupported", f"16-bit colour TIFF with {name} compression is not read; export without") from None
            array = np.moveaxis(array, 0, 2) if page.axes == "SYX" else array
            tag = page.tags.get(_ORIENTATION)
            pages.append(turn(array if array.shape[2] == 3 else _over_black(array), tag.value if tag is not None else 1))
    return pages


def write_png(path: Path, array: Pixels) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8, as PNG; ``path`` never holds half a picture.

    The same array always gives the same bytes.
    """
    from PIL import Image

    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not grey and not (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8):
        raise ValueError(f"write_png takes (H, W) uint8 / uint16 or (H, W, 3) uint8, not {array.shape} {array.dtype}")
    # A low level writes several times faster, and masks come out as small.
    with atomic_path(path) as staged:
        Image.fromarray(np.ascontiguousarray(array)).save(staged, format="PNG", compress_level=3)
