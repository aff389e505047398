"""Each pixel gets its classes: the semantic family."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from pipeline.registry import Strict
from pipeline.tasks.base import TASKS, Task
from pipeline.types import LabelMap


class SemanticConfig(Strict):
    name: Literal["semantic"] = "semantic"
    losses: dict[str, float] = Field(
        {"dice": 1.0, "cross_entropy": 1.0}, min_length=1, description="weight of each loss: dice, cross_entropy, focal, cldice, tversky"
    )
    tile: int | None = Field(None, ge=32, description="predict by overlapping tiles of this many pixels a side, or null for whole images")
    tile_overlap: float = Field(0.25, ge=0, lt=1, description="overlap of neighbouring tiles")
    flips: bool = Field(False, description="average the prediction over flips (test-time augmentation)")


@TASKS.add(SemanticConfig)
def build(config: SemanticConfig, network: nn.Module, label_map: LabelMap) -> Task:
    raise NotImplementedError
