"""What a run leaves, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.tasks.pixels import presence_sentences


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
        asked = ("validation/dice", "validation/ap50", "validation/mask_ap50")
        found = [f"{name.removeprefix('validation/')} {value:.4f}" for name, value in self.metrics.items() if name.startswith(asked)]
        return [
            f"validation: {', '.join(found)}" if found else "no validation cases: nothing is known of its quality",
            f"bundle {self.bundle_id}: {self.bundle}",
            *(f"warning: validation: {sentence}" for sentence in presence_sentences(self.metrics, "validation/")),
            *filter(None, (self.time, self.message)),
        ]
