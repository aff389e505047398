"""One description of augmentation that moves image, mask, boxes and instance masks together."""

from __future__ import annotations

from pydantic import Field

from pipeline.registry import Strict


class AugmentConfig(Strict):
    """Random changes of a training sample; a probability of 0 turns one off."""

    horizontal_flip: float = Field(
        0.5, ge=0, le=1, description="probability; turns a right eye into a left one, and the laterality follows"
    )
    vertical_flip: float = Field(0.5, ge=0, le=1, description="probability; off for OCT B-scans")
    quarter_turns: bool = Field(True, description="random rotation by 0, 90, 180 or 270 degrees")
    rotation_deg: float = Field(0.0, ge=0, le=180, description="random rotation within plus or minus this angle")
    scale: tuple[float, float] = Field((1.0, 1.0), description="random zoom between these factors")
    elastic: float = Field(0.0, ge=0, description="largest elastic displacement in pixels")
    gain: float = Field(0.1, ge=0, description="image times 1 plus or minus up to this, per channel")
    bias: float = Field(0.1, ge=0, description="image plus or minus up to this, in normalised units, per channel")
    gamma: float = Field(0.0, ge=0, lt=1, description="random gamma between 1 minus and 1 plus this, on the field of view's range")
    blur_sigma: float = Field(0.0, ge=0, description="largest Gaussian blur in pixels")
    noise: float = Field(0.0, ge=0, description="largest standard deviation of added Gaussian noise")
