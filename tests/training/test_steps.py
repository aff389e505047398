"""Which steps are recorded; that they learn the same is for a GPU to show (tests/test_cuda.py)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.bundles.bundle import build_task
from pipeline.cards.card import load_card
from pipeline.training.steps import why_not_recorded
from tests.training.tiny import tiny_config, write_data


@pytest.mark.parametrize(
    ("changes", "device", "processes", "why"),
    [
        ({}, "cuda", 1, ""),
        ({}, "cpu", 1, "only a GPU"),
        ({"train__compile": "off"}, "cuda", 1, "train.compile is off"),
        ({"train__compile": "on"}, "cuda", 1, ""),
        ({"data__crop": "null"}, "cuda", 1, "many sizes"),
        ({"train__accumulate": 2}, "cuda", 1, "train.accumulate"),
        ({}, "cuda", 2, "several processes"),
        ({"train__optimizer": "sgd"}, "cuda", 1, "rate of this optimiser"),
        ({"model": "{name: mask_rcnn, backbone: resnet18}", "task": "{name: detection}"}, "cuda", 1, "more than pixels"),
    ],
)
def test_what_is_recorded(tmp_path: Path, changes: dict[str, Any], device: str, processes: int, why: str) -> None:
    root = write_data(tmp_path / "data", patients=1)
    config = tiny_config(root, **changes)
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes)
    setup: Any = SimpleNamespace(config=config, accelerator=accelerator)
    said = why_not_recorded(setup, build_task(config, 3, load_card(config.data.card).label_map))
    assert why in said
    assert bool(why) == bool(said)
