"""What a review is for: predicted, reviewed, exported, taught further, and better on pictures that nobody has reviewed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import parse_config
from pipeline.evaluation.evaluate import evaluate
from pipeline.scans.raster import read_image
from pipeline.training import run as training
from pipeline.types.case_record import CaseRecord
from tests.planning import drawn
from tests.review.reading import edit, read
from tests.training.tiny import train_tiny

CONFIG = """
name: first
data: {{card: {card}, split: {{source: random, validation: 0.2, test: 0}}, normalise: {{working_diameter_px: 64}}, crop: null}}
task: {{name: semantic}}
model: {{name: unet, widths: [4, 8], residual_units: 1, norm: batch, head_width: 4}}
train: {{epochs: 1, batch_size: 3, learning_rate: 1.0e-4, precision: float32}}
"""


def dice(bundle: Path, sets: Path, out: Path) -> float:
    """Of the pictures that nobody reviewed."""
    summary = evaluate(bundle, sets / "never" / "card.md", sets / "never", part="all", out=out, device="cpu")
    return float(summary["classes"]["disc"]["mean_per_image"]["dice"]["value"])


def test_corrections_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = training.open_tracker
    monkeypatch.setattr(training, "open_tracker", lambda config, run_dir, **_: record(config, run_dir, active=False))

    def command(*arguments: Any) -> Any:
        done = CliRunner().invoke(app, [*map(str, arguments)], env={"OCUSEG_SITE_KEY": str(tmp_path / "key")})
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    for number, name in enumerate(("first", "reviewed", "never")):
        drawn.round_(tmp_path / name, first=100 * number)
    config = parse_config(CONFIG.format(card=tmp_path / "first" / "card.md"))
    bundle = train_tiny(config, tmp_path / "first", tmp_path / "run").bundle
    out, images = tmp_path / "out", tmp_path / "reviewed" / "images"
    command("predict", bundle, images, "--out", out, "--device", "cpu", "--workers", 1, "--json")
    labels = {hashlib.sha256(path.read_bytes()).hexdigest(): path.parents[1] / "labels" / path.name for path in images.iterdir()}
    cases = sorted((out / "cases").iterdir())
    for folder in cases[:6]:
        true = read_image(labels[CaseRecord.read(folder).sha256]) > 0
        edit(out, folder.name, [true.astype(np.uint8)])
    read(out, cases[6].name, "rejected", reasons=("quality",))
    made = command("review", "export", out, tmp_path / "set", "--test", 0, "--json")
    assert (len(made["added"]), made["rejected"], made["unreviewed"]) == (6, 1, 1)
    card = ("--card", tmp_path / "set" / "card.md", "--root", tmp_path / "set")
    assert command("card", "check", card[1], "--root", card[3], "--json")["problems"] == []
    taught = command(
        "finetune",
        bundle,
        *card,
        "--steps",
        40,
        "--set",
        "train.learning_rate=6e-3",
        "--out",
        tmp_path / "runs",
        "--device",
        "cpu",
        "--json",
    )
    before, after = dice(bundle, tmp_path, tmp_path / "before"), dice(Path(taught["bundle"]), tmp_path, tmp_path / "after")
    assert after > before + 0.1
