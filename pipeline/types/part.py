"""The parts of a data set."""

from __future__ import annotations

from typing import Literal

Part = Literal["train", "validation", "test"]
EvaluatedPart = Literal["train", "validation", "test", "all"]
"""Of a data set that is scored; ``all`` of one that no run has seen."""
PARTS: tuple[Part, ...] = ("train", "validation", "test")
