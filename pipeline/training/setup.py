"""What a training run works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.datasets.loader import CaseStore
from pipeline.datasets.splits import Split
from pipeline.models.precision import Precision
from pipeline.tracking.tracker import Tracker
from pipeline.training.clock import Interrupt
from pipeline.training.transfer import GradualUnfreezing
from pipeline.types import ProgressCallback


@dataclass(frozen=True)
class Setup:
    """What a run works with. ``accelerator`` is accelerate.Accelerator: device and processes."""

    config: RunConfig
    store: CaseStore
    split: Split
    run_dir: Path
    accelerator: Any
    precision: Precision
    tracker: Tracker
    advance: ProgressCallback
    interrupt: Interrupt
    unfreezing: GradualUnfreezing

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"
