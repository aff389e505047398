"""A picture in memory becomes a Scan, checked as a file is (scans/open.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, ScanError
from pipeline.scans.files import check_finite
from pipeline.scans.open import nothing_to_see
from pipeline.types import CaseKey, Geometry, Modality, Scan, known_spacing

_STACKED = ("oct", "octa")
"""Modalities of which an array with three axes is a volume, where its last axis is no colour."""


def scan_of_array(picture: npt.NDArray[Any], modality: Modality = "fundus", spacing_mm: Sequence[float | None] | None = None) -> Scan:
    """A Scan without patient or eye, of a picture (H, W), (H, W, 1) or (H, W, 3) or of an OCT volume (D, H, W).

    Parameters
    ----------
    picture: of any boolean, integer or float dtype and any range; colours in the order red, green, blue.
    modality: the kind of scan.
    spacing_mm: ([slices,] rows, columns) in mm, None where it is unknown.

    Raises
    ------
    ScanError: ``not_an_image`` (another shape), ``unsupported`` (another dtype), ``no_pixels``, ``malformed`` (NaN or infinite values).
    ConfigError: no such modality, or a spacing that does not fit the picture.
    """
    if modality not in get_args(Modality):
        raise ConfigError(f"modality {modality!r}: must be one of {', '.join(get_args(Modality))}")
    if picture.dtype.kind not in "biuf":
        raise ScanError("unsupported", f"an array of dtype {picture.dtype} is no picture; convert it to integers or floats")
    if not picture.size:
        raise ScanError("no_pixels", f"an array of shape {picture.shape} holds no pixel")
    check_finite(picture, "the array")
    # A copy: what is done with the picture afterwards, or while it is segmented, changes nothing here.
    pixels = np.array(_channels_first(picture, modality), dtype=picture.dtype.newbyteorder("="), order="C")
    return Scan(
        pixels,
        _geometry(pixels.shape[1:], spacing_mm),
        modality,
        CaseKey("array", "U", "0", "0"),
        hashlib.sha256(pixels.data).hexdigest(),
        warnings=nothing_to_see(pixels),
    )


def _channels_first(picture: npt.NDArray[Any], modality: Modality) -> npt.NDArray[Any]:
    shape = picture.shape
    if picture.ndim == 2:
        return picture[None]
    if picture.ndim == 3 and shape[2] in (1, 3):
        return np.moveaxis(picture, -1, 0)
    if picture.ndim == 3 and modality in _STACKED:
        return picture[None]
    raise ScanError("not_an_image", f"an array of shape {shape} is no picture (H, W) or (H, W, 3); {_what_to_do(shape)}")


def _what_to_do(shape: tuple[int, ...]) -> str:
    if shape[-1:] == (4,) and len(shape) == 3:
        return "leave out its transparency: array[..., :3]"
    if len(shape) == 3 and shape[0] in (1, 3):
        return "let colours come last: numpy.moveaxis(array, 0, -1)"
    if len(shape) == 4:
        return "give one picture at a time"
    return "an OCT volume (D, H, W) needs modality='oct'"


def _geometry(shape: tuple[int, ...], spacing_mm: Sequence[float | None] | None) -> Geometry:
    if spacing_mm is None:
        return Geometry(shape)
    axes = "(rows, columns)" if len(shape) == 2 else "(slices, rows, columns)"
    try:
        spacing = known_spacing(None if size is None else float(size) for size in spacing_mm)
        return Geometry(shape, spacing_mm=spacing, spacing_source="unknown" if spacing is None else "user")
    except (TypeError, ValueError):
        raise ConfigError(f"spacing_mm {spacing_mm!r}: must be {axes} in mm, each positive, or None where it is unknown") from None
