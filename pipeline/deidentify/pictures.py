"""Pictures without words: PNG and JPEG keep their coded pixels, TIFF and BMP are written anew, other kinds become PNG or TIFF.

Which way up a picture is shown stays: an EXIF orientation is kept, alone, or applied.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.streams import exif, plain_icc, plain_jpeg
from pipeline.errors import ScanError
from pipeline.scans.files import Format, decoding
from pipeline.scans.jpeg import frame_of
from pipeline.scans.png import SIGNATURE, chunk, png_chunks
from pipeline.scans.quiet import quiet
from pipeline.scans.raster import png_of

Pixels = npt.NDArray[Any]

_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"cICP")
_WORDS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"iCCP", b"sPLT", b"hIST")
_ANIMATED = (b"acTL", b"fcTL", b"fdAT")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_TRANSPARENT = (4, 6)  # colour types with alpha
_ORIENTATION = 0x0112


def clean_picture(file: BinaryIO, kind: Format, pages: list[Pixels]) -> Cleaned:
    """An open picture without words; ``pages``: its pixels as scans/raster.py reads them, upright.

    Raises
    ------
    ScanError: ``unsupported``, ``malformed``, ``truncated``.
    """
    with quiet(), decoding(f"the {kind.upper()} picture"):
        if kind == "jpeg":
            file.seek(0)
            stream = file.read()
            plain, removed = plain_jpeg(stream, _orientation(file, kind))
            if frame_of(plain) is None:
                raise ScanError("malformed", "the JPEG picture is malformed; export it again")
            return Cleaned(plain, ".jpg", removed, searched=plain)
        if kind == "png":
            return _plain_png(file, pages)
        return encode_plain(pages, kind)


def encode_plain(pages: list[Pixels], kind: Format) -> Cleaned:
    """Pages as a new file without words: TIFF and BMP stay what they are, everything else becomes PNG, or TIFF where PNG cannot hold it."""
    words = ("everything but the pixels",)
    if kind == "bmp" and len(pages) == 1 and pages[0].dtype == np.uint8:
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(pages[0]).save(out, "BMP")
        return Cleaned(out.getvalue(), ".bmp", words)
    note = () if kind in ("tiff", "png") else (f"written as {{}}, with the pixels of the {kind.upper()}",)
    if kind != "tiff" and len(pages) == 1 and _fits_png(pages[0]):
        return Cleaned(png_of(pages[0]), ".png", words, tuple(said.format("PNG") for said in note))
    return Cleaned(_tiff(pages), ".tif", words, tuple(said.format("TIFF") for said in note))


def _fits_png(page: Pixels) -> bool:
    return page.dtype == np.uint8 or (page.ndim == 2 and page.dtype == np.uint16)


def _tiff(pages: list[Pixels]) -> bytes:
    import tifffile

    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for page in pages:
            kind = "rgb" if page.ndim == 3 else "minisblack"
            writer.write(page, photometric=kind, compression="zlib", metadata=None, software=False)
    return out.getvalue()


def _orientation(file: BinaryIO, kind: Format) -> int:
    """The orientation that readers apply, by EXIF or XMP; 1 where none is stated or it is not valid."""
    from PIL import JpegImagePlugin, PngImagePlugin

    file.seek(0)
    reader: Callable[[BinaryIO], Any] = JpegImagePlugin.JpegImageFile if kind == "jpeg" else PngImagePlugin.PngImageFile
    try:
        said = int(reader(file).getexif().get(_ORIENTATION, 1))
    except Exception:  # as for the reader of pixels: a broken block says nothing
        return 1
    return said if said in range(1, 9) else 1


def _plain_png(file: BinaryIO, pages: list[Pixels]) -> Cleaned:
    """The chunks that make the picture. Where data stand behind the pixels, in or after the compressed stream, or some of it is
    transparent, it is compressed anew: text can lie in what shows on another ground alone, where nobody has looked for it."""
    orientation = _orientation(file, "png")
    kept: list[tuple[bytes, bytes]] = []
    removed: set[str] = set()
    header, data = b"", bytearray()
    for kind, content in png_chunks(file, (*_COLOUR, *_WORDS)):
        if kind in _ANIMATED:
            raise ScanError("unsupported", "animated PNG pictures are not cleaned; save one picture a file")
        if kind == b"IHDR":
            header = content
        if kind == b"IDAT":
            data += content
        elif kind in _WORDS:
            removed.add(f"{kind.decode('ascii')} chunk")
        if kind == b"iCCP":
            content = _plain_iccp(content)
        if kind in (*_COLOUR, b"IHDR", b"PLTE", b"tRNS", b"iCCP") and content:
            kept.append((kind, content))
    if file.read(1):
        removed.add("what follows the picture")
    transparent = header[9] in _TRANSPARENT or any(kind == b"tRNS" for kind, _ in kept)
    if transparent or not _is_exact(header, bytes(data)):
        again = encode_plain(pages, "png")
        why = "as it looks on black, without transparency" if transparent else "there were data behind its pixels"
        return Cleaned(again.content, again.suffix, again.removed, (f"compressed anew: {why}",))
    if orientation > 1:
        kept.append((b"eXIf", exif(orientation)))
    chunks = [*kept, (b"IDAT", bytes(data)), (b"IEND", b"")]
    content = SIGNATURE + b"".join(chunk(*one) for one in chunks)
    return Cleaned(content, ".png", tuple(sorted(removed)), searched=content)


def _plain_iccp(content: bytes) -> bytes:
    """An iCCP chunk's profile without its words; b"" where there is none that can be read."""
    _, _, packed = content.partition(b"\0")
    try:
        profile, _ = plain_icc(zlib.decompress(packed[1:]))
    except zlib.error:
        return b""
    return b"ICC\0\0" + zlib.compress(profile) if profile else b""


def _is_exact(header: bytes, data: bytes) -> bool:
    """Whether a compressed stream holds the picture's lines and nothing more; False for interlaced ones, whose lines are not counted."""
    columns, rows, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    size = rows * (1 + (columns * depth * _SAMPLES[colour] + 7) // 8)
    stream = zlib.decompressobj()
    return not interlaced and len(stream.decompress(data, size + 1)) == size and stream.eof and not stream.unused_data
