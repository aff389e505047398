"""A real, small training, its folder and card deleted, trained again from MLflow."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import parse_config
from pipeline.scans.raster import write_png
from pipeline.training.repeat import repeat_run
from pipeline.training.run import new_run_dir, train

CARD = """---
name: squares
title: Bright squares
modality: fundus
identifiers: public
device: none
licence: CC0-1.0
citation: none
source: drawn by this test
how_to_get: run this test
classes:
  - {name: square, colour: [213, 94, 0]}
images:
  file: "images/{patient:[^/_]+}_{eye:[LR]}_{visit:[^/_]+}.png"
labels:
  - {kind: threshold, file: "squares/{patient}_{eye}_{visit}.png", means: square, at_least: 1}
---
Squares.
"""

CONFIG = """
name: squares
data:
  card: CARD
  split: {source: random, validation: 0.25, test: 0.25}
  normalise: {field_of_view: whole}
  crop: [32, 32]
  crops_per_image: 1
task: {name: semantic}
model: {name: unet, widths: [4, 8], residual_units: 1}
train: {epochs: 5, batch_size: 2, validate_every: {minutes: 0.1}}
"""


def draw_squares(root: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(8):
        image = random.integers(0, 90, (40, 56), dtype=np.uint8)
        top, left = random.integers(4, 24, 2)
        mask = np.zeros_like(image)
        mask[top : top + 12, left : left + 9] = 255
        image[mask > 0] += 120
        for folder, pixels in (("images", image), ("squares", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            write_png(root / folder / f"P{number}_{'RL'[number % 2]}_V1.png", pixels)


def validated(run_dir: Path) -> list[int]:
    """The epochs after which a run was validated."""
    rows = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    return [row["epoch"] for row in rows if "validation/dice" in row]


@pytest.mark.slow
def test_weights_come_out_identical_from_the_record_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "data", tmp_path / "runs"
    draw_squares(root)
    card = tmp_path / "squares.md"
    card.write_text(CARD)
    config = parse_config(CONFIG.replace("CARD", str(card)))
    # Every synchronisation takes a second, four of them an epoch; the repetition, with a true clock, is much faster.
    seconds = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.clock.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
        first = train(config, root, new_run_dir(out, config.name), device="cpu")
    assert validated(first.run_dir) == [2, 4, 5]
    assert first.mlflow_run_id is not None
    assert first.message is None
    shutil.rmtree(first.run_dir)
    card.unlink()
    comparison = repeat_run(first.mlflow_run_id, root, out, device="cpu")
    assert validated(comparison.run_dir) == [2, 4, 5]
    assert not comparison.data
    assert comparison.result == "identical", comparison.lines()
    assert set(comparison.numbers) == set(first.metrics)
    assert "validation/dice" in comparison.lines()[0]
    assert comparison.lines()[0].endswith("(weights identical)")
    assert str(tmp_path) not in (comparison.run_dir / "config.yaml").read_text()
