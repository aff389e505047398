"""The outcome of a run: its bundle and scores, where its time went, and whether a time budget sufficed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import TrainConfig
from pipeline.metrics.useless import useless_sentence, validation_dice
from pipeline.tasks.pixels import presence_sentences
from pipeline.types import duration

FEW_STEPS = 200
"""After so few a network has hardly learnt, whatever the set."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves. ``metrics`` are of the bundle, on the validation cases (``validation/dice``)."""

    run_dir: Path
    bundle: Path
    bundle_id: str
    metrics: Mapping[str, float]
    mlflow_run_id: str | None
    message: str | None = None
    time: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run_dir),
            "bundle": str(self.bundle),
            "bundle_id": self.bundle_id,
            "metrics": dict(self.metrics),
            "mlflow_run_id": self.mlflow_run_id,
            "message": self.message,
            "time": self.time,
        }

    def lines(self) -> list[str]:
        """For a person; nothing in the other processes of a distributed run."""
        if not self.bundle_id:
            return []
        asked = tuple(
            f"validation/{name}" for name in ("dice", "ap50", "mask_ap50", "accuracy", "balanced_accuracy", "auroc", "quadratic_kappa")
        )
        found = [f"{name.removeprefix('validation/')} {value:.4f}" for name, value in self.metrics.items() if name.startswith(asked)]
        useless = useless_sentence(validation_dice(self.metrics), "validation")
        return [
            f"validation: {', '.join(found)}" if found else "no validation cases: nothing is known of its quality",
            f"bundle {self.bundle_id}: {self.bundle}",
            *(f"warning: validation: {sentence}" for sentence in presence_sentences(self.metrics, "validation/")),
            *([f"warning: {useless}"] if useless else ()),
            *filter(None, (self.time, self.message)),
        ]


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of a run's parts. ``training_s`` is what ``train.minutes`` limits; ``validation_s`` is a part of it."""

    start_up_s: float
    training_s: float
    validation_s: float
    final_s: float
    steps: int
    steps_per_epoch: int

    def line(self) -> str:
        """One sentence for a person."""
        validating = self.validation_s / self.training_s if self.training_s > 0 else 0.0
        return (
            f"time: {duration(self.start_up_s)} to start and read the cases, {duration(self.training_s)} for {self.steps} steps "
            f"({self.steps / self.steps_per_epoch:.1f} epochs), {validating:.0%} of it validation, "
            f"{duration(self.final_s)} for the final validation"
        )

    def shortfall(self, train: TrainConfig) -> str:
        """What a time budget was too short for, or "" where it was not or there is none."""
        if train.minutes is None:
            return ""
        # Where train.epochs is as good as endless, a tenth of it says nothing: the schedule follows the time.
        few = min(math.ceil(train.warmup * train.epochs * self.steps_per_epoch), FEW_STEPS)
        if self.steps < self.steps_per_epoch:
            missed = f"an epoch ({self.steps_per_epoch} steps)"
        elif self.steps < few and self.training_s >= 60 * train.minutes:
            missed = f"{few} steps"
        else:
            return ""
        return (
            f"train.minutes: only {self.steps} steps fitted into {train.minutes:g} minutes, fewer than {missed}: the network has hardly "
            "learnt; give more minutes, or leave them out and set train.epochs"
        )

    def metrics(self) -> dict[str, float]:
        """For the record."""
        parts = {"start_up": self.start_up_s, "training": self.training_s, "validations": self.validation_s, "final": self.final_s}
        return {"values/time/steps": float(self.steps)} | {f"values/time/{name}_seconds": seconds for name, seconds in parts.items()}


def validation_seconds(history: Path) -> float:
    """Seconds of all validations that ``history.jsonl`` holds; earlier processes of a resumed run included."""
    if not history.exists():
        return 0.0
    rows = (json.loads(line) for line in history.read_text(encoding="utf-8").splitlines())
    return float(sum(row.get("validation/seconds", 0.0) for row in rows))
