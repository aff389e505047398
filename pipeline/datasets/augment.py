"""What is random about a training sample, drawn before a pixel is touched.

Plans are drawn on the CPU, so that a sample is the same on every device; windows.py cuts what they ask for, transform.py carries them
out, a whole batch at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from pipeline.datasets.geometric import Matrix, Turn, elastic_control, warp_canvas, warp_margin, warp_matrix
from pipeline.registry import Strict
from pipeline.types import Modality

Numbers = dict[str, npt.NDArray[np.float32]]

NOISE_PLACES = 2**20
"""Noise of a plane begins at one of so many places of a table of random numbers (transform.py)."""


class AugmentConfig(Strict):
    """Random changes of a training sample; a probability of 0 turns one off."""

    horizontal_flip: float = Field(
        0.5, ge=0, le=1, description="probability of a left-right flip, which makes a right eye look like a left one"
    )
    vertical_flip: float = Field(
        0.5, ge=0, le=1, description="probability of a top-bottom flip; not applied to OCT B-scans, where depth has a direction"
    )
    quarter_turns: bool = Field(True, description="random rotation by 0, 90, 180 or 270 degrees; not applied to OCT B-scans")
    rotation_deg: float = Field(0.0, ge=0, le=180, description="random rotation by up to this angle in either direction")
    scale: tuple[float, float] = Field((1.0, 1.0), description="range of random zoom factors")
    elastic: float = Field(0.0, ge=0, le=32, description="maximum elastic displacement in pixels")
    gain: float = Field(0.1, ge=0, description="each channel is multiplied by a random factor of 1 plus or minus up to this value")
    bias: float = Field(0.1, ge=0, description="a random offset of up to this value, in normalised units, is added to each channel")
    gamma: float = Field(
        0.0, ge=0, lt=1, description="random gamma between 1 - this and 1 + this, applied to the value range of the field of view"
    )
    blur_sigma: float = Field(0.0, ge=0, description="maximum sigma of a random Gaussian blur, in pixels")
    noise: float = Field(0.0, ge=0, description="maximum standard deviation of added Gaussian noise")

    @property
    def warps(self) -> bool:
        """Whether pixels come to lie between pixels; flips and quarter turns alone are exact."""
        return self.rotation_deg > 0 or self.scale != (1.0, 1.0) or self.elastic > 0

    @model_validator(mode="after")
    def _fits(self) -> AugmentConfig:
        low, high = self.scale
        if not 0.1 <= low <= high <= 10:
            raise ValueError(f"scale {low} to {high} must lie in order within 0.1 and 10")
        return self


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything random about one sample.

    ``region`` is (top, left, rows, columns) in the whole sample, and may reach past its edge; it is turned by ``turn``, and warped by
    ``matrix`` (None: not at all) and the elastic displacement to a result of ``size`` (rows, columns). ``numbers``: small float32 arrays
    of what happens then, by name: ``matrix`` (4), ``control`` (2, gy, gx), ``gain`` and ``bias`` (C), ``gamma``, ``blur`` (a standard
    deviation), ``noise`` (a standard deviation) and ``places`` (C, D), each there only where the configuration has it.
    ``canvas``: (rows, columns), one for all results of a size, that hold every region once it is turned; None: the region's own.
    ``whole``: nothing is changed, so that the result's placement is the sample's own. ``seed``: what a network draws from for this sample.
    """

    region: tuple[int, int, int, int]
    size: tuple[int, int]
    turn: Turn = field(default_factory=Turn)
    matrix: Matrix | None = None
    numbers: Numbers = field(default_factory=dict)
    canvas: tuple[int, int] | None = None
    whole: bool = False
    seed: int = 0

    @classmethod
    def unchanged(cls, rows: int, columns: int) -> Plan:
        """The whole sample as it is."""
        return cls((0, 0, rows, columns), (rows, columns), whole=True)


class Augment:
    """Draws plans: crop, flips and turns, warp, then intensities, in this order.

    Parameters
    ----------
    crop: (rows, columns) of the result, or None for the whole sample.
    modality: "oct" is neither turned nor stood on its head.
    channels: of the images. slices: of a volume, 1 of pictures.
    """

    def __init__(
        self, config: AugmentConfig, crop: tuple[int, int] | None = None, modality: Modality = "fundus", channels: int = 3, slices: int = 1
    ) -> None:
        self.config = config
        self.crop = crop
        self.upright = modality == "oct"
        self.channels, self.slices = channels, slices

    def draw(self, size: tuple[int, int], generator: torch.Generator, centre: tuple[int, int] | None = None) -> Plan:
        """A plan for a sample of ``size`` (rows, columns); ``centre`` (row, column) is a pixel that the crop should hold in its middle."""
        # One call for all: each costs more than a crop takes to cut on a GPU.
        u = torch.rand(10 + 2 * self.channels, generator=generator, dtype=torch.float64).tolist()
        config = self.config
        result = self.crop or size
        quarters = 0
        if config.quarter_turns and not self.upright:
            # Without a crop, only half turns keep a non-square image's size, which a batch may rely on.
            quarters = int(u[0] * 4) if self.crop is not None or size[0] == size[1] else 2 * int(u[0] * 2)
        upside_down = u[6] < config.vertical_flip and not self.upright
        turn = Turn.of(quarters, mirrored=u[5] < config.horizontal_flip, upside_down=upside_down)
        window = turn.size(*result)
        top, left = (
            _start(extent, wanted, place, middle)
            for extent, wanted, place, middle in zip(size, window, u[1:3], centre or (None, None), strict=True)
        )
        if not config.warps:
            return Plan((top, left, *window), result, turn, None, self._intensities(u[7:], generator))
        low, high = config.scale
        zoom = math.exp(math.log(low) + u[4] * (math.log(high) - math.log(low)))
        matrix = warp_matrix((2 * u[3] - 1) * config.rotation_deg, zoom)
        above, aside = turn.size(*warp_margin(result, matrix, config.elastic))
        region = (top - above, left - aside, window[0] + 2 * above, window[1] + 2 * aside)
        numbers = {"matrix": np.array(matrix, dtype=np.float32)}
        if config.elastic > 0:
            numbers["control"] = elastic_control(result, config.elastic, generator).numpy()
        canvas = warp_canvas(result, config.rotation_deg, low, config.elastic)
        return Plan(region, result, turn, matrix, numbers | self._intensities(u[7:], generator), canvas)

    def _intensities(self, u: Sequence[float], generator: torch.Generator) -> Numbers:
        """``u``: three numbers and two a channel, each even in 0..1."""
        config, numbers = self.config, Numbers()
        gamma, blur, noise = u[:3]
        gain, bias = np.array(u[3:], dtype=np.float32).reshape(2, self.channels) * 2 - 1
        if config.gain > 0:
            numbers["gain"] = 1 + config.gain * gain
        if config.bias > 0:
            numbers["bias"] = config.bias * bias
        if config.gamma > 0:
            numbers["gamma"] = np.array(1 + config.gamma * (2 * gamma - 1), dtype=np.float32)
        if config.blur_sigma > 0:
            numbers["blur"] = np.array(config.blur_sigma * blur, dtype=np.float32)
        if config.noise > 0:
            numbers["noise"] = np.array(config.noise * noise, dtype=np.float32)
            # Below 2 ** 24 float32 holds every integer.
            numbers["places"] = torch.randint(NOISE_PLACES, (self.channels, self.slices), generator=generator).float().numpy()
        return numbers


def _start(extent: int, wanted: int, place: float, middle: int | None) -> int:
    """First row (column) of a window of ``wanted`` pixels; a window larger than the image holds the image in its middle."""
    if wanted >= extent:
        return -((wanted - extent) // 2)
    if middle is not None:
        return min(max(middle - wanted // 2, 0), extent - wanted)
    return min(int(place * (extent - wanted + 1)), extent - wanted)
