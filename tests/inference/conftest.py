"""A bundle whose answer is known: it calls bright green "vessel", so every expected mask can be worked out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.bundles.bundle import Bundle
from pipeline.config import RunConfig, parse_config
from pipeline.metrics.threshold import decide
from pipeline.scans.raster import write_png
from pipeline.tasks.base import Task
from pipeline.types import Batch, LabelClass, LabelMap, Prediction

VESSEL = LabelMap((LabelClass(1, "vessel", (0, 114, 178), "SCT:59820001"),))
DISC_CUP = LabelMap((LabelClass(1, "disc", (0, 158, 115)), LabelClass(2, "cup", (230, 159, 0))), overlapping=True)


class BrightTask(Task):
    """Probability = value of the last channel in 0..1; class k of several needs k times as much."""

    def __init__(self, label_map: LabelMap) -> None:
        super().__init__()
        self.label_map = label_map
        self.thresholds: dict[str, float] = {}
        self.seen: list[str] = []

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Prediction]:
        out = []
        for image, placement, case in zip(batch.images, batch.placements, batch.cases, strict=True):
            self.seen.append(str(case))
            layers = torch.stack([image[-1].clamp(0, 1) / k for k in range(1, len(self.label_map) + 1)])
            out.append(Prediction(probabilities=placement.to_source(layers).numpy()))
        return out

    def layers(self, prediction: Prediction) -> npt.NDArray[np.bool_]:
        assert prediction.probabilities is not None
        return decide(prediction.probabilities, self.label_map, self.thresholds)


def run_config(**normalise: Any) -> RunConfig:
    settings = {"method": "percentile", "percentiles": [0, 100], "field_of_view": "whole"} | normalise
    return parse_config(
        f"{{name: tiny, data: {{card: tiny_card, normalise: {settings}}}, task: {{name: semantic}}, model: {{name: unet}}}}"
    )


def run_config_of(task: Task) -> RunConfig:
    """With the task's own settings, where it has any."""
    settings = getattr(task, "config", None)
    return run_config() if settings is None else run_config().model_copy(update={"task": settings})


def make_bundle(path: Path, **changes: Any) -> Bundle:
    label_map = changes.pop("label_map", VESSEL)
    task = changes.pop("task", None) or BrightTask(label_map)
    values = {
        "path": path,
        "id": "0123456789ab",
        "config": changes.pop("config", None) or run_config_of(task),
        "label_map": label_map,
        "thresholds": dict.fromkeys(label_map.names, 0.5),
        "metrics": {"validation/dice/vessel": 0.8},
        "modality": "fundus",
        "input_channels": 3,
        "card_sha256": "c" * 64,
        "spacing_mm": None,
        "build": lambda: task,
    }
    made = Bundle(**(values | changes))
    task.thresholds = made.thresholds
    return made


def picture(seed: int, rows: int = 24, columns: int = 37) -> npt.NDArray[np.uint8]:
    """A colour picture with values 0 and 255 in green, so that percentile normalisation leaves it as it is."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(rows, columns, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    return pixels


def write_folder(root: Path, patients: int, per_patient: int = 1) -> list[Path]:
    """An untagged hospital tree: root/P0001/V1/scan_0_OD.png ..."""
    paths = []
    for patient in range(patients):
        for number in range(per_patient):
            path = root / f"P{patient:04d}" / "V1" / f"scan_{number}_OD.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, picture(patient * 100 + number))
            paths.append(path)
    return paths


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    made = make_bundle(tmp_path / "bundle")
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": made)
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": made)
    return made
