"""The pixels of a DICOM file: without words between them, and blackened where text is burned in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.deidentify.burned_in import Box, blacken
from pipeline.deidentify.streams import plain_jpeg, plain_jpeg2000
from pipeline.errors import ScanError
from pipeline.scans.dicom_codestreams import DECODERS, decode_frames
from pipeline.scans.dicom_header import GREY, complete_header

_JPEG = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)}
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"


def plain_pixels(dataset: Any) -> set[str]:
    """Take what is no pixel out of Pixel Data, in place: segments and boxes of compressed frames, frames or bytes behind the last pixel,
    planes of overlays in unused bits. Returns the names of what was taken.

    Raises
    ------
    ScanError: ``unsupported`` (video and other streams that are not read here), ``malformed``, ``truncated``.
    """
    if "PixelData" not in dataset:
        return set()
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax not in DECODERS:
        raise ScanError("unsupported", "the DICOM file's pixels are stored in a way that is not read here, such as video: export it again")
    return _plain_native(dataset, syntax) if DECODERS[syntax] == "" else _plain_frames(dataset, syntax)


def _plain_frames(dataset: Any, syntax: str) -> set[str]:
    from pydicom.encaps import encapsulate, generate_frames

    frames = int(dataset.get("NumberOfFrames") or 1)
    streams: list[bytes] = []
    removed: set[str] = set()
    for stream in generate_frames(dataset.PixelData, number_of_frames=frames):
        if len(streams) == frames:  # no reader shows it, so nobody has looked for text in it
            removed.add("frames behind the last")
            break
        if syntax in _JPEG:
            stream, said = plain_jpeg(stream)
        else:
            stream, said = plain_jpeg2000(stream) if syntax in _JPEG_2000 else (stream, ())
        streams.append(stream)
        removed |= {f"{what} (in the pixels)" for what in said}
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            del dataset[keyword]
    return removed


def _plain_native(dataset: Any, syntax: str) -> set[str]:
    from pydicom.pixels.utils import get_expected_length

    removed, data = set(), dataset.PixelData
    expected = get_expected_length(dataset)
    if len(data) > expected + expected % 2:
        removed.add("bytes behind the pixels")
    data = data[:expected]
    allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
    if allocated in (16, 32) and stored < allocated and not dataset.get("PixelRepresentation"):
        low = int(dataset.get("HighBit", stored - 1)) - stored + 1
        kind = np.dtype(f"{'>' if syntax == _BIG_ENDIAN else '<'}u{allocated // 8}")
        values = np.frombuffer(data, kind)
        used = values & kind.type(((1 << stored) - 1) << max(low, 0))
        if not np.array_equal(used, values):
            removed.add("overlay in unused bits")
            data = used.astype(kind).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    return removed


def blacken_dicom(dataset: Any, boxes: Sequence[Sequence[Box]]) -> None:
    """Blacken boxes (a list for each frame) in the pixels, in place; what was compressed is stored plain from then on.

    Raises
    ------
    ScanError: ``unsupported`` (palettes).
    """
    photometric, array = stored_frames(dataset)
    if photometric not in GREY and int(dataset.SamplesPerPixel) != 3:
        raise ScanError("unsupported", "text in a picture with a palette is not blackened; export it as RGB")
    black = (1 << int(dataset.BitsStored)) - 1 if photometric == "MONOCHROME1" else 0
    blacken(array, boxes, black)
    dataset.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    dataset["PixelData"].VR = "OW" if int(dataset.BitsAllocated) > 8 else "OB"
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    if photometric not in GREY:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    dataset.BurnedInAnnotation = "NO"


def stored_frames(dataset: Any) -> tuple[str, npt.NDArray[Any]]:
    """The photometric interpretation, and the values (D, H, W [, 3]) as they are stored, before any window; colours as RGB."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    photometric = complete_header(dataset, frames, [])
    stored = decode_frames(dataset, str(dataset.file_meta.TransferSyntaxUID), frames, raw=False)
    return photometric, np.array(stored if frames > 1 else stored[None])


__all__ = ["blacken_dicom", "plain_pixels", "stored_frames"]
