"""What a run tells its tracker, and when."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import TrainingError
from pipeline.scans.raster import read_image
from pipeline.tasks.semantic import SemanticTask
from pipeline.tracking.tracker import Delivery
from pipeline.training import run
from pipeline.training.checkpoint import newest
from pipeline.training.run_folder import Data, prepare_data
from tests.training.tiny import COLUMNS, ROWS, tiny_config, write_data

CAPTION = 16
"""Rows of the strip above a small picture that says what it is."""


class Recorder:
    """Takes the place of the tracker and notes what it is told."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.started: dict[str, Any] = {}
        self.epochs: list[tuple[int, dict[str, float], str | None]] = []
        self.tables: dict[str, Any] = {}
        self.pictures: dict[str, np.ndarray] = {}
        self.bundles: list[dict[str, float]] = []
        self.other: dict[str, float] = {}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, **what: Any) -> None:
        self.started = what

    def epoch(self, step: int, metrics: dict[str, float]) -> None:
        saved = newest(self.run_dir / "checkpoints")
        self.epochs.append((step, metrics, saved.name if saved else None))

    def numbers(self, metrics: dict[str, float]) -> None:
        self.other |= metrics

    def table(self, name: str, rows: Any) -> None:
        self.tables[name] = rows

    def picture(self, name: str, image: np.ndarray) -> None:
        self.pictures[name] = image

    def bundle(self, path: Path, metrics: dict[str, float]) -> None:
        assert load_file(path / "weights.safetensors")
        self.bundles.append(metrics)

    def finish(self, status: str) -> Delivery:
        assert status == "FINISHED"
        return Delivery(1, 0, "an-mlflow-run")


@pytest.mark.parametrize("data__workers", [0, 1])
def test_a_run_that_fails_has_recorded_what_its_history_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data__workers: int) -> None:
    """Of epochs without a checkpoint, too; and what fed it is gone."""
    root = write_data(tmp_path / "data")
    recorder, forward, steps, stores = Recorder(tmp_path / "run"), SemanticTask.forward, itertools.count(), []

    def broken(self: SemanticTask, batch: Any) -> dict[str, torch.Tensor]:
        factor = 1 if next(steps) < 14 else float("nan")
        return {name: factor * loss for name, loss in forward(self, batch).items()}

    def prepared(*arguments: Any) -> Data:
        data = prepare_data(*arguments)
        stores.append(data.store)
        return data

    monkeypatch.setattr(run, "open_tracker", lambda *_, **__: recorder)
    monkeypatch.setattr(run, "prepare_data", prepared)
    monkeypatch.setattr(SemanticTask, "forward", broken)
    config = tiny_config(root, train__validate_every=99, data__workers=data__workers)
    with pytest.raises(TrainingError, match="not finite in epoch 3"):
        run.train(config, root, tmp_path / "run", device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [{"epoch": step, **metrics} for step, metrics, _ in recorder.epochs] == rows
    assert newest(tmp_path / "run" / "checkpoints") is None
    assert [store.feeds for store in stores] == [{}]


def test_everything_is_recorded_and_epochs_before_their_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_data(tmp_path / "data")
    recorder = Recorder(tmp_path / "run")
    monkeypatch.setattr(run, "open_tracker", lambda *_, **__: recorder)
    config = tiny_config(root, data__normalise="{field_of_view: whole, working_size: [40, 50]}", train__epochs=2)
    result = run.train(config, root, tmp_path / "run", device="cpu")
    assert result.mlflow_run_id == "an-mlflow-run"
    assert recorder.other["values/time/steps"] == 12
    assert recorder.other["values/time/training_seconds"] > recorder.other["values/time/validations_seconds"] > 0
    assert recorder.started["card_name"] == "tiny"
    assert recorder.started["extra"] == {"parameters": recorder.started["extra"]["parameters"], "processes": 1}
    assert len(recorder.started["manifest"]) == 12
    assert [(step, saved) for step, _, saved in recorder.epochs] == [(1, None), (2, "000001-00000000")]
    assert all(isinstance(value, float) for _, metrics, _ in recorder.epochs for value in metrics.values())
    (rows,) = recorder.tables.values()
    assert len(rows) == 2
    assert {"case", "slice", "dice/blob", "iou/blob", "tp/blob"} <= rows[0].keys()
    mean = sum(row["dice/blob"] for row in rows) / 2
    assert mean == pytest.approx(result.metrics["validation/dice/blob"])
    assert sorted(recorder.pictures) == sorted(f"validation_{row['case']}" for row in rows)
    for picture in recorder.pictures.values():
        assert (picture.dtype, picture.shape) == (np.uint8, (ROWS + CAPTION, 2 * COLUMNS, 3))
        # The reference's contour stands on the right in the class's colour, below a caption on each side.
        assert (picture[:, COLUMNS:] == (213, 94, 0)).all(axis=-1).any()
        assert picture[:CAPTION, :COLUMNS].max() > 100 < picture[:CAPTION, COLUMNS:].max()
    key = rows[0]["case"].split("_")
    source = read_image(root / "images" / f"{key[0]}_{key[1]}.png")
    ours = recorder.pictures[f"validation_{rows[0]['case']}"][CAPTION:, COLUMNS:]
    same = (ours == source).all(axis=-1)
    assert same.mean() > 0.5, "the photograph's own colours, not what normalisation made of them"
    assert recorder.bundles == [dict(result.metrics)]
