"""Field of view, intensity normalisation and working scale of a scan."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.registry import Strict


class NormaliseConfig(Strict):
    """How raw pixels become a network's input. Statistics are always taken inside the field of view."""

    method: Literal["zscore", "percentile"] = Field(
        "zscore", description="zscore: per channel, inside the field of view; percentile: to 0..1 between two percentiles (OCT)"
    )
    percentiles: tuple[float, float] = Field((1.0, 99.0), description="lower and upper percentile of method percentile")
    channels: Literal["as_stored", "green", "grey"] = Field("as_stored", description="which channels the network sees")
    clahe: float | None = Field(None, gt=0, description="contrast-limited adaptive histogram equalisation: clip limit, or null for none")
    background_sigma: float | None = Field(
        None, gt=0, description="subtract a Gaussian background of this many working pixels, or null for none"
    )
    field_of_view: Literal["detect", "card", "whole"] = Field(
        "card", description="detect: from the picture; card: the card's mask where there is one, else detect; whole: every pixel"
    )
    working_diameter_px: int | None = Field(
        None, ge=32, description="resize so that the field of view is this wide (fundus), or null for the source's own scale"
    )
    working_size: tuple[int, int] | None = Field(None, description="resize to (rows, columns) at the same aspect by letterboxing, or null")
