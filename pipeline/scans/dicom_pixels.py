"""DICOM pixels as they are meant to be seen: decoded, in RGB or grey, rescaled, windowed, black where it is dark.

Grey pixels go through the steps of PS3.3 C.11: modality (rescale or LUT), then VOI (LUT or the first window), then MONOCHROME1 is
inverted. All of this depends on the stored value alone, so up to 16 bits it is computed once for each possible value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.dicom_codestreams import DECODERS, decode_frames
from pipeline.scans.dicom_geometry import macro, numbers
from pipeline.scans.dicom_header import GREY, complete_header

Pixels = npt.NDArray[Any]
Curve = Callable[[Pixels], Pixels]

# PS3.3 C.7.6.3.1.2, YBR_PARTIAL_422: (R, G, B) to (Y - 16, CB - 128, CR - 128).
_PARTIAL = np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]])


def decode_pixels(dataset: Any, frames: int, warnings: list[str] | None = None) -> Pixels:
    """(C, H, W), or (C, D, H, W) for several frames; C is 1 or 3 (RGB).

    The stored dtype is kept where nothing is rescaled. Integer rescaling gives the smallest integer type that holds every
    possible result, other rescaling float32; a window maps onto the full stored range, unsigned. Doubtful points of the
    header are added to ``warnings``.

    Raises
    ------
    ScanError: ``unsupported``, ``truncated``, ``malformed``.
    """
    warnings = [] if warnings is None else warnings
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax not in DECODERS:
        raise ScanError("unsupported", "the DICOM file's transfer syntax (video or an unknown one) is not read; export uncompressed")
    photometric = complete_header(dataset, frames, warnings)
    partial = photometric == "YBR_PARTIAL_422"
    if partial:
        dataset.PhotometricInterpretation = "YBR_FULL_422"  # laid out alike, and pydicom knows only this one
    array = decode_frames(dataset, syntax, frames, raw=partial)
    if partial:
        array = _from_partial(array)
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        array = apply_color_lut(array, dataset)[..., :3]
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    colour = photometric not in GREY
    if array.shape[-1] == 1 and int(dataset.SamplesPerPixel) == 1 and array.ndim == 3 + (frames > 1):
        array = array[..., 0]
    if not colour:
        array = _as_seen(dataset, array if frames > 1 else array[None], photometric, warnings)
        array = array if frames > 1 else array[0]
    return np.ascontiguousarray(np.moveaxis(array, -1, 0) if colour else array[None])


def _from_partial(ybr: Pixels) -> Pixels:
    inverse = np.linalg.inv(_PARTIAL)
    rgb = (ybr.astype(np.float32) - np.array([16, 128, 128], np.float32)) @ inverse.T.astype(np.float32)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _as_seen(dataset: Any, array: Pixels, photometric: str, warnings: list[str]) -> Pixels:
    """Grey frames (D, H, W) through modality, VOI and MONOCHROME1, each frame by its own functional groups.

    A window or table that would make all stored pixels look alike is skipped, with a warning.
    """
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    signed = array.dtype.kind == "i"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    array = _without_stray_bits(array, bits, signed, low, high)
    settings = [_settings(dataset, frame) for frame in range(len(array))]
    seen = _through_settings(array, settings, low, high, photometric)
    windowed = any(own["voi_lut"] is not None or own["window"] is not None for own in settings)
    if not windowed or seen.min() < seen.max() or array.min() == array.max():
        return seen
    warnings.append("under the header's window all pixels are alike; it is left out, and the stored values are shown")
    settings = [own | {"voi_lut": None, "window": None} for own in settings]
    return _through_settings(array, settings, low, high, photometric)


def _through_settings(array: Pixels, settings: list[dict[str, Any]], low: int, high: int, photometric: str) -> Pixels:
    first = settings[0]
    if all(_alike(other, first) for other in settings):
        curve = _curve(first, array.dtype, low, high, photometric)
        return array if curve is None else _through(curve, array, low, high)
    seen = []
    for frame, own in zip(array, settings, strict=True):
        curve = _curve(own, array.dtype, low, high, photometric)
        seen.append(frame if curve is None else _through(curve, frame, low, high))
    return np.stack(seen)


def _without_stray_bits(array: Pixels, bits: int, signed: bool, low: int, high: int) -> Pixels:
    """Bits above Bits Stored (old overlays) are not part of the value."""
    if array.size == 0 or (int(array.min()) >= low and int(array.max()) <= high):
        return array
    if signed:
        shift = array.dtype.itemsize * 8 - bits
        array = (array << shift) >> shift
    else:
        array = array & array.dtype.type(high)
    return array


def _settings(dataset: Any, frame: int) -> dict[str, Any]:
    """What turns a stored value into a displayed one: rescale, modality LUT, VOI LUT, window; each None if it does not apply."""
    values = macro(dataset, frame, "PixelValueTransformationSequence") or dataset
    slope, intercept = numbers(values, "RescaleSlope", 1), numbers(values, "RescaleIntercept", 1)
    rescale = None
    if slope is not None and slope[0] != 0 and intercept is not None and (slope[0], intercept[0]) != (1.0, 0.0):
        rescale = (float(slope[0]), float(intercept[0]))
    voi = macro(dataset, frame, "FrameVOILUTSequence") or dataset
    window = None
    centre, width = _first(voi, "WindowCenter"), _first(voi, "WindowWidth")
    function = str(voi.get("VOILUTFunction") or "LINEAR").strip().upper()
    least = 1.0 if function == "LINEAR" else 0.0
    if centre is not None and width is not None and width > least and function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        window = (centre, width, function)
    return {
        "modality_lut": _table(dataset, "ModalityLUTSequence"),
        "rescale": rescale,
        "voi_lut": _table(voi, "VOILUTSequence"),
        "window": window,
    }


def _first(dataset: Any, keyword: str) -> float | None:
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _table(dataset: Any, keyword: str) -> tuple[int, int, Pixels] | None:
    """(first mapped value, bits of an entry, entries) of a LUT sequence (PS3.3 C.11.1.1)."""
    items = dataset.get(keyword)
    if not items:
        return None
    entries, first, bits = (int(n) for n in items[0].LUTDescriptor)
    data = items[0].LUTData
    count = entries or 65536
    if isinstance(data, bytes):
        kind = "<u2" if len(data) >= 2 * count else "u1"
        table = np.frombuffer(data, kind, count)
    else:
        table = np.array(data, np.int64)[:count]
    if len(table) != count or not 1 <= bits <= 16:
        raise ScanError("malformed", "a lookup table in the DICOM file is shorter than it states; export it again")
    return (first - 65536 if first > 32767 and dataset.get("PixelRepresentation") else first), bits, table.astype(np.uint16)


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a is b:
        return True
    tables = all(
        (a[key] is None) == (b[key] is None) and (a[key] is None or (a[key][:2] == b[key][:2] and np.array_equal(a[key][2], b[key][2])))
        for key in ("modality_lut", "voi_lut")
    )
    return tables and a["rescale"] == b["rescale"] and a["window"] == b["window"]


def _curve(settings: dict[str, Any], stored: Any, low: int, high: int, photometric: str) -> Curve | None:
    """The function from stored to displayed values, or None if they are the same."""
    steps: list[Curve] = []
    lowest, highest = float(low), float(high)
    out: Any = stored
    if settings["modality_lut"] is not None:
        steps.append(_lookup(settings["modality_lut"]))
        lowest, highest = 0.0, float((1 << settings["modality_lut"][1]) - 1)
        out = np.uint8 if highest <= 255 else np.uint16
    elif settings["rescale"] is not None:
        slope, intercept = settings["rescale"]
        steps.append(lambda x: x * slope + intercept)
        lowest, highest = sorted((low * slope + intercept, high * slope + intercept))
        whole = slope == int(slope) and intercept == int(intercept)
        fitting = [t for t in (stored, np.uint16, np.int16, np.int32) if np.iinfo(t).min <= lowest and highest <= np.iinfo(t).max]
        out = fitting[0] if whole and fitting else np.float32
    if settings["voi_lut"] is not None:
        steps.append(_lookup(settings["voi_lut"]))
        lowest, highest = 0.0, float((1 << settings["voi_lut"][1]) - 1)
        out = np.uint8 if highest <= 255 else np.uint16
    elif settings["window"] is not None:
        top = high - low
        centre, width, function = settings["window"]
        steps.append(_window(centre, width, function, top))
        lowest, highest = 0.0, float(top)
        out = np.uint8 if top <= 255 else np.uint16 if top <= 65535 else np.uint32
    if photometric == "MONOCHROME1":
        total = lowest + highest
        steps.append(lambda x: total - x)
    if not steps:
        return None

    def curve(values: Pixels) -> Pixels:
        x = values.astype(np.float64)
        for step in steps:
            x = step(x)
        return (x if out == np.float32 else np.rint(x)).astype(out)

    return curve


def _lookup(table: tuple[int, int, Pixels]) -> Curve:
    first, _, entries = table
    return lambda x: entries[np.clip(np.rint(x).astype(np.int64) - first, 0, len(entries) - 1)].astype(np.float64)


def _window(centre: float, width: float, function: str, top: int) -> Curve:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.2 (LINEAR_EXACT), C.11.2.1.3.1 (SIGMOID), onto 0..top."""
    if function == "SIGMOID":
        return lambda x: top / (1.0 + np.exp(np.clip(-4.0 * (x - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return lambda x: np.clip((x - centre) / width + 0.5, 0.0, 1.0) * top
    return lambda x: np.clip((x - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0) * top


def _through(curve: Curve, array: Pixels, low: int, high: int) -> Pixels:
    if high - low > 65535:
        return curve(array)
    table = curve(np.arange(low, high + 1))
    return table[array.astype(np.int32) - low]
