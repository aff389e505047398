"""One description of augmentation that moves image, mask, boxes and instance masks together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.datasets.geometric import Warp, cut, flip, quarter_turn
from pipeline.datasets.sample import Sample
from pipeline.registry import Strict
from pipeline.types import Modality

__all__ = ["Augment", "AugmentConfig", "Plan", "Sample"]


class AugmentConfig(Strict):
    """Random changes of a training sample; a probability of 0 turns one off."""

    horizontal_flip: float = Field(
        0.5, ge=0, le=1, description="probability; turns a right eye into a left one, and the laterality follows"
    )
    vertical_flip: float = Field(0.5, ge=0, le=1, description="probability; never done to OCT B-scans, whose layers have an up and a down")
    quarter_turns: bool = Field(True, description="random rotation by 0, 90, 180 or 270 degrees; never done to OCT B-scans")
    rotation_deg: float = Field(0.0, ge=0, le=180, description="random rotation within plus or minus this angle")
    scale: tuple[float, float] = Field((1.0, 1.0), description="random zoom between these factors")
    elastic: float = Field(0.0, ge=0, le=32, description="largest elastic displacement in pixels")
    gain: float = Field(0.1, ge=0, description="image times 1 plus or minus up to this, per channel")
    bias: float = Field(0.1, ge=0, description="image plus or minus up to this, in normalised units, per channel")
    gamma: float = Field(0.0, ge=0, lt=1, description="random gamma between 1 minus and 1 plus this, on the field of view's range")
    blur_sigma: float = Field(0.0, ge=0, description="largest Gaussian blur in pixels")
    noise: float = Field(0.0, ge=0, description="largest standard deviation of added Gaussian noise")

    @model_validator(mode="after")
    def _fits(self) -> AugmentConfig:
        low, high = self.scale
        if not 0.1 <= low <= high <= 10:
            raise ValueError(f"scale {low} to {high} must lie in order within 0.1 and 10")
        return self


@dataclass(frozen=True)
class Plan:
    """Everything random about one sample, drawn before a pixel is touched, so that only the pixels needed are read.

    ``region`` is (top, left, rows, columns) in the whole sample, and may reach past its edge; ``size`` is (rows, columns) of the
    result before the turns; ``seed`` draws what is random per pixel or channel.
    """

    region: tuple[int, int, int, int]
    size: tuple[int, int]
    angle_deg: float
    zoom: float
    mirrored: bool
    upside_down: bool
    turns: int
    seed: int


class Augment:
    """Callable ``(sample, generator) -> sample``: crop, warp, flips and turns, then intensities, in this order.

    Parameters
    ----------
    crop: (rows, columns) of the result, or None for the whole sample.
    modality: "oct" is neither turned nor stood on its head.
    """

    def __init__(self, config: AugmentConfig, crop: tuple[int, int] | None = None, modality: Modality = "fundus") -> None:
        self.config = config
        self.crop = crop
        self.upright = modality == "oct"
        self.warps = config.rotation_deg > 0 or config.scale != (1.0, 1.0) or config.elastic > 0

    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        rows, columns = sample.image.shape[-2:]
        plan = self.draw((rows, columns), generator)
        return self.apply(cut(sample, *plan.region), plan)

    def draw(self, size: tuple[int, int], generator: torch.Generator, centre: tuple[int, int] | None = None) -> Plan:
        """A plan for a sample of ``size`` (rows, columns); ``centre`` (row, column) is a pixel that the crop should hold in its middle."""
        u = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
        seed = int(torch.randint(2**62, (1,), generator=generator))
        config = self.config
        rows, columns = self.crop or size
        turns = 0
        if config.quarter_turns and not self.upright:
            # Without a crop, only half turns keep a non-square image's size, which a batch may rely on.
            turns = int(u[0] * 4) if self.crop is not None or rows == columns else 2 * int(u[0] * 2)
        if turns % 2:
            rows, columns = columns, rows
        top, left = (
            _start(extent, wanted, place, middle)
            for extent, wanted, place, middle in zip(size, (rows, columns), u[1:3], centre or (None, None), strict=True)
        )
        angle = (2 * u[3] - 1) * config.rotation_deg
        low, high = config.scale
        zoom = math.exp(math.log(low) + u[4] * (math.log(high) - math.log(low)))
        region = (top, left, rows, columns)
        if self.warps:
            region = Warp.region(region, angle, zoom, config.elastic)
        return Plan(
            region=region,
            size=(rows, columns),
            angle_deg=angle,
            zoom=zoom,
            mirrored=u[5] < config.horizontal_flip,
            upside_down=u[6] < config.vertical_flip and not self.upright,
            turns=turns,
            seed=seed,
        )

    def apply(self, region: Sample, plan: Plan) -> Sample:
        """Carry out a plan on the region that it asked for."""
        generator = torch.Generator().manual_seed(plan.seed)
        sample = region
        if self.warps:
            warp = Warp.make(plan.size, plan.region[2:], plan.angle_deg, plan.zoom, self.config.elastic, generator)
            sample = warp(sample)
        sample = quarter_turn(sample, plan.turns)
        sample = flip(sample, horizontal=plan.mirrored, vertical=plan.upside_down)
        return sample.with_image(self._intensities(sample.image, sample.valid, generator))

    def _intensities(self, image: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
        """Gain and bias, gamma, blur, noise; always 0 outside the field of view, as normalisation left it. The slices of a volume
        are changed alike, but for the noise."""
        config = self.config
        gain, bias, extra = (torch.rand(3, image.shape[0], generator=generator) * 2 - 1).view(3, -1, *(1,) * (image.ndim - 1)).unbind(0)
        image = image * (1 + config.gain * gain)
        if config.bias > 0:
            image.add_(config.bias * bias)
        if config.gamma > 0 and bool(valid.any()):
            inside = image[:, valid]
            low, high = inside.amin(), inside.amax()
            spread = (high - low).clamp(min=1e-6)
            image = ((image - low) / spread).clamp(0, 1).pow(1 + config.gamma * float(extra.flatten()[0])) * spread + low
        if config.blur_sigma > 0:
            image = _blur(image, float(torch.rand(1, generator=generator)) * config.blur_sigma)
        if config.noise > 0:
            sigma = float(torch.rand(1, generator=generator)) * config.noise
            image = image + sigma * torch.randn(image.shape, generator=generator)
        return image.mul_(valid)


def _start(extent: int, wanted: int, place: float, middle: int | None) -> int:
    """First row (column) of a window of ``wanted`` pixels; a window larger than the image holds the image in its middle."""
    if wanted >= extent:
        return -((wanted - extent) // 2)
    if middle is not None:
        return min(max(middle - wanted // 2, 0), extent - wanted)
    return min(int(place * (extent - wanted + 1)), extent - wanted)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each plane (..., H, W), edges repeated."""
    if sigma < 0.05:
        return image
    reach = max(math.ceil(3 * sigma), 1)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float32) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = torch.nn.functional.pad(image.flatten(0, -3)[None], (reach, reach, reach, reach), mode="replicate")[0][:, None]
    return torch.conv2d(torch.conv2d(padded, kernel[None, None, None, :]), kernel[None, None, :, None]).view(image.shape)
