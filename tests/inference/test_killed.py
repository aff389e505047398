"""kill -9, really: a prediction that dies at any step and is started again ends exactly like one that never died."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.config import parse_config
from pipeline.training.bundle import build_task, save_bundle
from tests.inference.conftest import VESSEL, write_folder

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def tiny_bundle(path: Path) -> Path:
    config = parse_config(
        "{name: tiny, data: {card: phantom}, task: {name: semantic}, model: {name: unet, widths: [4, 8], residual_units: 1}}"
    )
    torch.manual_seed(0)
    save_bundle(
        path,
        task=build_task(config, 3, VESSEL),
        config=config,
        label_map=VESSEL,
        card_sha256="c" * 64,
        metrics={},
        thresholds={"vessel": 0.5},
        input_channels=3,
        modality="fundus",
    )
    return path


def drive(tmp_path: Path, how: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.inference.crash_driver", *map(str, (tmp_path / "bundle", tmp_path / "scans", tmp_path)), how]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


def test_killed_at_every_single_step(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    paths = write_folder(tmp_path / "scans", 2)
    shutil.copy(paths[0], paths[1].with_name("copy.png"))
    paths[1].with_name("broken.png").write_bytes(paths[0].read_bytes()[:100])
    answer = drive(tmp_path, "moments")
    # Two cases of five files and two folders each, four journal entries, and the ledger: a death before each of these steps.
    assert answer["deaths"] >= 2 * 6 + 4 + 1
    assert answer["files"] == 2 * 5 + 2


def test_killed_at_any_time_again_and_again(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    write_folder(tmp_path / "scans", 12)
    answer = drive(tmp_path, "clock")
    assert answer["deaths"] >= 2
    assert answer["files"] == 12 * 5 + 2
