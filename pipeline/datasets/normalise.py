"""Field of view, intensity normalisation and working scale of a scan: one way for training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from pipeline.errors import ScanError
from pipeline.memory import fits_memory
from pipeline.registry import Strict
from pipeline.scans.field_of_view import detect_field_of_view, field_diameter
from pipeline.scans.files import MORE_MEMORY
from pipeline.types import Modality, Placement

if TYPE_CHECKING:
    from torch import Tensor

# A scale this close to 1 is left alone: resampling by a few per cent blurs thin vessels and gains nothing.
_NEAR_ONE = 0.05
# What `preprocess` holds at most for each value of its pixels, measured on photographs; filters work in floating point.
_REDUCING_BYTES, _FILTERING_BYTES = 8, 25

Detect = Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]]
"""Of a picture (C, H, W) its field of view (H, W)."""


class NormaliseConfig(Strict):
    """How raw pixels become a network's input. Statistics are always taken inside the field of view."""

    method: Literal["zscore", "percentile", "range"] = Field(
        "zscore",
        description="zscore: mean 0 and variance 1 of each channel in the field of view; percentile: 0..1 between two percentiles (OCT); "
        "range: -2..2 is the range that the file's numbers can have, so that brightness and contrast can be judged",
    )
    percentiles: tuple[float, float] = Field((1.0, 99.0), description="lower and upper percentile for method: percentile")
    channels: Literal["as_stored", "green", "grey"] = Field("as_stored", description="channels that are passed to the network")
    clahe: float | None = Field(
        None, gt=0, le=1, description="contrast-limited adaptive histogram equalisation: clip limit 0..1 (0.01 is mild), or null for none"
    )
    background_sigma: float | None = Field(
        None, gt=0, description="sigma, in working pixels, of a Gaussian background estimate that is subtracted; null: none"
    )
    field_of_view: Literal["detect", "card", "whole"] = Field(
        "card", description="detect: found in the image; card: the card's mask if there is one, else detect; whole: every pixel"
    )
    working_diameter_px: int | None = Field(
        None, ge=32, description="resize so that the field of view has this diameter (fundus); null: keep the source's scale"
    )
    working_size: tuple[int, int] | None = Field(
        None, description="resize to (rows, columns), padded to keep the aspect ratio; null: keep the source's size"
    )

    @property
    def clamps(self) -> bool:
        """Whether the network's input is clamped to 0..1."""
        return self.method == "percentile"

    @model_validator(mode="after")
    def _fits(self) -> NormaliseConfig:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles {low} and {high} must lie in order within 0..100")
        if self.working_diameter_px is not None and self.working_size is not None:
            raise ValueError("working_diameter_px and working_size exclude each other")
        if self.working_size is not None and min(self.working_size) < 32:
            raise ValueError(f"working_size {self.working_size} must be at least 32 x 32")
        return self


@dataclass(frozen=True, eq=False)
class CompactImage:
    """A normalised image before the last step, in few bytes: what a cache keeps.

    ``pixels`` (C, h, w) in the working frame, to which ``placement`` leads: integers as stored wherever no filter made fractions of
    them; ``valid`` bool (h, w) there, ``source_valid`` bool (H, W) in the source frame. The network's input is
    ((pixels - offset) * scale), clamped to 0..1 if ``clamp``, 0 outside ``valid``; ``offset`` and ``scale`` are float32 (C).
    """

    pixels: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    source_valid: npt.NDArray[np.bool_]
    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    clamp: bool
    placement: Placement

    def to_float(self, *, channels: int | None = None, device: Any = "cpu") -> tuple[Tensor, Tensor]:
        """The network's input float32 (C, h, w) and ``valid`` bool (h, w), both on ``device``.

        ``channels``: what the network takes; a grey image is repeated to it. Every step before treats channels alike, so that this
        is the same as repeating the stored pixels. Pixels travel to ``device`` as stored and become float32 there.
        """
        import torch

        pixels, valid = (torch.from_numpy(np.array(part)).to(device) for part in (self.pixels, self.valid))
        offset, scale = (torch.from_numpy(part)[:, None, None].to(device) for part in (self.offset, self.scale))
        image = normalise(pixels, offset, scale, self.clamp, valid)
        return image if channels is None or image.shape[0] != 1 else image.repeat(channels, 1, 1), valid


def normalise(pixels: Tensor, offset: Tensor, scale: Tensor, clamp: bool, valid: Tensor) -> Tensor:
    """The last step of normalisation, float32 of the shape of ``pixels``: everything else is broadcast to it."""
    import torch

    image = pixels.to(torch.float32, copy=True).sub_(offset).mul_(scale)
    return (image.clamp_(0, 1) if clamp else image).mul_(valid)


def preprocess(
    pixels: npt.NDArray[Any],
    config: NormaliseConfig,
    modality: Modality,
    valid: npt.NDArray[np.bool_] | None = None,
    detect: Detect = detect_field_of_view,
) -> CompactImage:
    """One image (C, H, W) as stored -> its working frame, up to the last step. Integer pixels stay integers of the same kind, also when
    resized (rounded to a whole level, as an image file of that size would be), so that a cache is a quarter of the float32 input and
    yet exact.

    Parameters
    ----------
    valid: the card's or the user's field of view, bool (H, W), or None.
    detect: finds the field of view of the pixels where the settings say so; of a scan that knows it already, by that.

    Raises
    ------
    ScanError: ``too_large`` for the memory that is free.
    """
    filtered = config.clahe is not None or config.background_sigma is not None
    if not fits_memory(pixels.size * (_FILTERING_BYTES if filtered else _REDUCING_BYTES)):
        size = " x ".join(map(str, pixels.shape[-2:]))
        raise ScanError("too_large", f"to normalise {size} pixels takes more memory than there is; {MORE_MEMORY}")
    return preprocess_within(pixels, config, choose_field_of_view(pixels, config, modality, valid, detect))


def preprocess_within(
    pixels: npt.NDArray[Any], config: NormaliseConfig, source_valid: npt.NDArray[np.bool_], detail: float = 1.0
) -> CompactImage:
    """:func:`preprocess` in a field of view bool (H, W) that is known already, as of a video's frame before; ``detail`` below 1 makes the
    working frame coarser than the config says, by that factor of its sides."""
    chosen = _channels(pixels, config.channels)
    placement = coarser(working_placement(source_valid, config), detail)
    inside = to_working(source_valid, placement)
    working: npt.NDArray[Any] = to_working(chosen, placement)
    if config.clahe is not None:
        working = _clahe(working, inside, config.clahe)
    if config.background_sigma is not None:
        working = _without_background(working, inside, config.background_sigma)
    if working.dtype not in (np.uint8, np.uint16, np.int16):
        working = working.astype(np.float32)
    offset, scale = _statistics(working, inside, config, _least_contrast(chosen))
    return CompactImage(np.ascontiguousarray(working), inside, source_valid, offset, scale, config.clamps, placement)


def choose_field_of_view(
    pixels: npt.NDArray[Any],
    config: NormaliseConfig,
    modality: Modality,
    valid: npt.NDArray[np.bool_] | None,
    detect: Detect = detect_field_of_view,
) -> npt.NDArray[np.bool_]:
    """bool (H, W). Only a fundus photograph has a field of view to detect: in OCT dark is signal, and other kinds fill their frame."""
    shape = pixels.shape[-2:]
    if config.field_of_view == "whole":
        return np.ones(shape, dtype=bool)
    if config.field_of_view == "card" and valid is not None:
        if valid.shape != shape:
            raise ValueError(f"the field of view is {valid.shape}, but the image is {shape}")
        return np.asarray(valid, dtype=bool) if valid.any() else np.ones(shape, dtype=bool)
    if modality != "fundus":
        return np.ones(shape, dtype=bool)
    return detect(pixels)


def working_placement(valid: npt.NDArray[np.bool_], config: NormaliseConfig) -> Placement:
    """Where a source image goes in the working frame."""
    rows, columns = valid.shape
    if config.working_diameter_px is not None:
        scale = config.working_diameter_px / field_diameter(valid)
        if abs(scale - 1) <= _NEAR_ONE:
            return Placement.identity(rows, columns)
        return Placement((rows, columns), (0, 0, rows, columns), (max(round(rows * scale), 1), max(round(columns * scale), 1)))
    if config.working_size is not None:
        height, width = config.working_size
        scale = min(height / rows, width / columns)
        resized = (rows, columns)
        if not 1 <= scale <= 1 + _NEAR_ONE:
            resized = (min(max(round(rows * scale), 1), height), min(max(round(columns * scale), 1), width))
        top, left = (height - resized[0]) // 2, (width - resized[1]) // 2
        pad = (top, left, height - resized[0] - top, width - resized[1] - left)
        return replace(Placement.identity(rows, columns), resized=resized, pad=pad)
    return Placement.identity(rows, columns)


def coarser(placement: Placement, detail: float) -> Placement:
    """The same with rows and columns of the working frame times ``detail``, in 0..1."""
    if detail == 1:
        return placement
    rows, columns = (max(round(side * detail), 1) for side in placement.resized)
    top, left, bottom, right = (round(side * detail) for side in placement.pad)
    return replace(placement, resized=(rows, columns), pad=(top, left, bottom, right))


def to_working(array: npt.NDArray[Any], placement: Placement, fill: int = 0) -> npt.NDArray[Any]:
    """(..., H, W) source -> working frame of the same dtype: nearest for masks ((H, W)), antialiased for images ((C, H, W)).

    Only for placements that crop nothing, as :func:`working_placement` makes.
    """
    import torch
    import torch.nn.functional as nn_functional

    if placement.resized != array.shape[-2:]:
        is_mask = array.ndim == 2
        # float64 carries every label and every 16-bit level exactly.
        wide = torch.from_numpy(array.astype(np.float32 if array.dtype != np.int64 else np.float64))
        wide = wide[None, None] if is_mask else wide[None]
        if is_mask:
            moved = nn_functional.interpolate(wide, size=placement.resized, mode="nearest-exact")[0, 0]
        else:
            moved = nn_functional.interpolate(wide, size=placement.resized, mode="bilinear", antialias=True)[0]
        if np.issubdtype(array.dtype, np.integer):
            moved = moved.round()
        array = moved.numpy().astype(array.dtype)
    if any(placement.pad):
        top, left, bottom, right = placement.pad
        array = np.pad(array, [(0, 0)] * (array.ndim - 2) + [(top, bottom), (left, right)], constant_values=fill)
    return array


def _channels(pixels: npt.NDArray[Any], channels: str) -> npt.NDArray[Any]:
    if channels == "as_stored" or pixels.shape[0] == 1:
        return pixels
    if channels == "green":
        return pixels[1:2]
    # ITU-R BT.601 luma, as in JPEG.
    grey = np.tensordot(np.array([0.299, 0.587, 0.114], dtype=np.float32), pixels.astype(np.float32), axes=1)[None]
    return np.rint(grey).astype(pixels.dtype) if np.issubdtype(pixels.dtype, np.integer) else grey


def _clahe(pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_], clip_limit: float) -> npt.NDArray[np.uint16]:
    """Zuiderveld, Graphics Gems IV, 1994, VIII.5, on each channel; the field of view's range becomes 0..65535."""
    from skimage.exposure import equalize_adapthist

    out = np.zeros(pixels.shape, dtype=np.uint16)
    for channel, plane in enumerate(pixels):
        inside = plane[valid]
        low, high = float(inside.min()), float(inside.max())
        if high > low:
            # Outside lies the mean, so that the dark surround does not bend the tiles at the rim.
            filled = np.where(valid, plane, inside.mean())
            out[channel] = np.rint(equalize_adapthist((filled - low) / (high - low), clip_limit=clip_limit) * 65535)
    return out


def _without_background(pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_], sigma: float) -> npt.NDArray[np.float32]:
    """Each channel minus its Gaussian mean over the field of view alone (normalised convolution), so that the rim is no edge."""
    import torch
    import torch.nn.functional as nn_functional
    from scipy.ndimage import gaussian_filter

    wide = pixels.astype(np.float32)
    # A broad Gaussian is smooth: it is computed on a coarser grid where it is still four pixels broad.
    step = max(int(sigma // 4), 1)
    stacked = torch.from_numpy(np.concatenate([wide * valid, valid[None].astype(np.float32)]))[None]
    rows, columns = valid.shape
    coarse = nn_functional.interpolate(stacked, size=(-(-rows // step), -(-columns // step)), mode="area")[0].numpy()
    smooth = np.stack([gaussian_filter(plane, sigma / step, mode="constant") for plane in coarse])
    full = nn_functional.interpolate(torch.from_numpy(smooth)[None], size=(rows, columns), mode="bilinear")[0].numpy()
    return np.asarray((wide - full[:-1] / np.maximum(full[-1], 1e-6)) * valid, dtype=np.float32)


def _least_contrast(stored: npt.NDArray[Any]) -> float:
    """The range of grey levels up to which there is only noise of rounding, whatever filters make of it later.

    Two levels of integers, as a dark plane that wavers between 0 and 1 or 2 has; of fractions, which float32 keeps to seven digits,
    a millionth of the largest magnitude.
    """
    return 2.0 if np.issubdtype(stored.dtype, np.integer) else 1e-6 * float(np.abs(stored).max())


def _statistics(
    pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_], config: NormaliseConfig, least: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(offset, scale), each float32 (C). A channel whose contrast is not above ``least`` levels becomes 0 everywhere."""
    offsets, scales = [], []
    everything = bool(valid.all())
    for plane in pixels:
        if config.method == "range":
            whole = float(np.iinfo(plane.dtype).max) if np.issubdtype(plane.dtype, np.integer) else 1.0
            offsets.append(whole / 2)
            scales.append(4 / whole)
            continue
        if config.method == "percentile":
            offset, high = np.percentile(plane.reshape(-1) if everything else plane[valid], config.percentiles)
            spread = contrast = float(high - offset)
        else:
            offset, spread = _mean_and_deviation(plane, valid)
            contrast = 4 * spread  # two standard deviations to either side hold most levels
        offsets.append(float(offset))
        scales.append(1 / spread if contrast > least else 0.0)
    return np.array(offsets, dtype=np.float32), np.array(scales, dtype=np.float32)


def _mean_and_deviation(plane: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Of the values of ``plane`` (H, W) in ``valid``; of bytes by how many there are of each, which is exact and five times as fast."""
    if plane.dtype != np.uint8:
        inside = plane[valid]
        return float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
    from PIL import Image

    counts = np.array(Image.fromarray(plane).histogram(Image.fromarray(valid.view(np.uint8))), dtype=np.float64)
    values = np.arange(256)
    mean = counts @ values / counts.sum()
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
