"""torch, which every network runs in, on CPU and GPU."""

from __future__ import annotations

from pipeline.inference.engines.base import ENGINES
from pipeline.tasks.base import Task


@ENGINES.add("torch")
def start(task: Task, channels: int, device: str) -> None:
    """Nothing is to be made: a task without an engine runs its network."""
