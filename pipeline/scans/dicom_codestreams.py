"""The compressed or plain pixels of a DICOM file, decoded by one decoder for each encoding and checked before and after (PS3.5 8.2)."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.jpeg import decode_jpeg, frame_of, is_damage
from pipeline.scans.quiet import libjpeg_lines

_JPEG_BASELINE, _JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_RLE = "1.2.840.10008.1.2.5"
# pyjpegls has no wheel for Python 3.14. JPEG-LS is lossless, or exact to a stated bound: another decoder gives the same pixels.
_JPEG_LS = "pyjpegls" if find_spec("jpeg_ls") else "gdcm"
# One decoder for each encoding: colour JPEG differs slightly between decoders, and a result must not depend on which one
# happened to be tried first. What is "" lies plain; "jpeg" is our own way through Pillow (jpeg.py).
DECODERS = {
    "1.2.840.10008.1.2": "",
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.1.99": "",
    "1.2.840.10008.1.2.2": "",
    _RLE: "pydicom",
    _JPEG_BASELINE: "jpeg",
    _JPEG_EXTENDED: "jpeg",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    **{f"1.2.840.10008.1.2.4.{n}": _JPEG_LS for n in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{n}": "pylibjpeg" for n in (90, 91, 201, 202, 203)},
}
# These decoders take a stream without its end for a whole one and make up the rest.
_UNFINISHED_PASSES = {syntax for syntax, decoder in DECODERS.items() if decoder in ("pylibjpeg", "gdcm")}

_JP2 = bytes.fromhex("0000000c6a5020200d0a870a")
_SCRAMBLED = bytes(byte ^ 0x5A for byte in _JP2)
_DAMAGED = "the DICOM file's compressed pixels are damaged, and part of what they show would be made up; copy or export it again"


def decode_frames(dataset: Any, syntax: str, frames: int, raw: bool) -> npt.NDArray[Any]:
    """([D,] H, W) or ([D,] H, W, 3) as stored, YBR turned to RGB unless ``raw``; the header is complete (dicom_header.py).

    Raises
    ------
    ScanError: ``unsupported``, ``truncated``, ``malformed``.
    """
    from pydicom.pixels import get_decoder

    streams = _streams(dataset, syntax, frames)
    if DECODERS[syntax] == "jpeg":
        decoded = [decode_jpeg(stream, str(dataset.PhotometricInterpretation).strip().upper() == "RGB") for stream in streams]
        return decoded[0] if frames == 1 else np.stack(decoded)
    decoder = get_decoder(syntax)
    if DECODERS[syntax] != "gdcm":
        plain: npt.NDArray[Any] = decoder.as_array(dataset, raw=raw, decoding_plugin=DECODERS[syntax])[0]
        return plain
    with libjpeg_lines() as lines:
        array: npt.NDArray[Any] = decoder.as_array(dataset, raw=raw, decoding_plugin="gdcm")[0]
    if any(is_damage(line, streams[0]) for line in lines):
        raise ScanError("malformed", _DAMAGED)
    return array


def _streams(dataset: Any, syntax: str, frames: int) -> list[bytes]:
    """The compressed frames. Refuses streams that the decoders cannot read, or would reject only after allocating their memory."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels.utils import get_expected_length

    data = dataset.get("PixelData")
    if data is None:
        raise ScanError("unsupported", "DICOM files with floating-point pixels are not read; export integers")
    if DECODERS[syntax] == "":
        if len(data) < get_expected_length(dataset):
            raise ScanError("truncated", "the DICOM file has fewer pixels than its header states; copy or export it again")
        return []
    streams = list(generate_frames(data, number_of_frames=frames))
    for stream in streams:
        if syntax == _RLE:
            _check_rle(stream, int(dataset.Rows) * int(dataset.Columns))
        else:
            _check(stream, dataset, syntax)
    if len(streams) < frames:
        raise ScanError("truncated", "the DICOM file has fewer frames than its header states; copy or export it again")
    return streams[:frames]


def _check(stream: bytes, dataset: Any, syntax: str) -> None:
    found = codestream_of(stream)
    if found is None:
        if _is_scrambled(stream, dataset):
            raise ScanError(
                "unsupported",
                "the picture is scrambled in the camera maker's own way (Zeiss), and no other program can show it; exporting it again "
                "the same way does not help: export as PNG, TIFF or unscrambled DICOM, or ask the maker",
            )
        raise ScanError("malformed", "the DICOM file's compressed pixels are not of the kind its header states; export it again")
    rows, columns, precision = found
    if syntax == _JPEG_EXTENDED and precision != 8:
        raise ScanError("unsupported", f"{precision}-bit JPEG Extended has no decoder here; export as JPEG 2000 or uncompressed")
    if syntax in _UNFINISHED_PASSES and b"\xff\xd9" not in stream[-16:]:
        raise ScanError("truncated", "the DICOM file's compressed pixels end too early; copy or export it again")
    if rows and (rows, columns) != (int(dataset.Rows), int(dataset.Columns)):
        raise ScanError("malformed", "the DICOM header and its compressed pixels state different sizes; export it again")
    frame = frame_of(stream)
    if frame is not None and len(frame.components) != int(dataset.SamplesPerPixel):
        raise ScanError("malformed", "the DICOM header and its compressed pixels state different numbers of colours; export it again")


def _check_rle(stream: bytes, pixels: int) -> None:
    """Refuse runs that do not end with the picture (PS3.5 G): damage gives too many or too few, and pydicom cuts off the rest."""
    count, *offsets = struct.unpack_from("<16I", stream.ljust(64, b"\0"))
    bounds = [*offsets[:count], len(stream)]
    for begin, end in pairwise(bounds):
        at, done = begin, 0
        while at < end and done < pixels:
            run = stream[at]
            done += run + 1 if run < 128 else 257 - run if run > 128 else 0
            at += run + 2 if run < 128 else 2 if run > 128 else 1
        if done < pixels or at > end:
            raise ScanError("truncated", "the DICOM file's compressed pixels end too early; copy or export it again")
        if done > pixels or any(stream[at:end].strip(b"\0\x80")):
            raise ScanError("malformed", _DAMAGED)


def _is_scrambled(stream: bytes, dataset: Any) -> bool:
    """Zeiss instruments export JPEG 2000 with bytes XORed with 5A (all of them, or some in a different order)."""
    maker = f"{dataset.get('Manufacturer')} {dataset.get('ManufacturerModelName')}".lower()
    return _SCRAMBLED in stream or "zeiss" in maker or "cirrus" in maker


def codestream_of(stream: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, bits) as a JPEG, JPEG-LS or JPEG 2000 stream states them itself; None for any other stream.

    JPEG: ITU-T T.81 B.2.2 (start of frame), JPEG-LS: T.87 (SOF55), JPEG 2000: T.800 A.5.1 (SIZ; bare or inside JP2 boxes).
    """
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0 and len(stream) >= start + 43:
        right, bottom, left, top = struct.unpack_from(">IIII", stream, start + 8)
        return bottom - top, right - left, (stream[start + 42] & 0x7F) + 1
    frame = frame_of(stream)
    return None if frame is None else (frame.rows, frame.columns, frame.precision)
