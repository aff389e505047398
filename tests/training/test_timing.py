"""A run says where its time went, and that a time budget was too short."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline.config import TrainConfig
from pipeline.training.result import TimeSpent, validation_seconds
from tests.training.tiny import tiny_config, train_tiny, write_data


def spent(steps: int, seconds: float = 120.0) -> TimeSpent:
    return TimeSpent(5, seconds, 30, 10, steps, steps_per_epoch=20)


def test_the_parts_are_told() -> None:
    line = spent(50).line()
    assert line == (
        "time: 5 s to start and read the cases, 2 min for 50 steps (2.5 epochs), 25% of it validation, 10 s for the final validation"
    )


@pytest.mark.parametrize(
    ("steps", "seconds", "said"),
    [
        (19, 120, "fewer than an epoch (20 steps)"),
        (20, 120, "fewer than 200 steps"),
        (199, 120, "fewer than 200 steps"),
        (200, 120, ""),
        (40, 100, ""),  # it ended for another reason, such as train.patience
    ],
)
def test_a_budget_that_was_too_short_is_said(steps: int, seconds: float, said: str) -> None:
    train = TrainConfig(minutes=2, epochs=100, warmup=0.1)
    found = spent(steps, seconds).shortfall(train)
    assert (said in found) if said else found == ""
    assert spent(steps, seconds).shortfall(train.model_copy(update={"minutes": None})) == ""
    endless = train.model_copy(update={"epochs": 1_000_000})  # as of a study with a budget
    assert spent(steps, seconds).shortfall(endless) == found


def test_a_run_tells_its_time_and_a_budget_of_less_than_an_epoch_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_data(tmp_path / "data")
    with caplog.at_level(logging.WARNING, "pipeline"):
        result = train_tiny(tiny_config(root, train__minutes=1e-4, train__epochs=1000), root, tmp_path / "run")
    assert "steps fitted into 0.0001 minutes, fewer than an epoch (6 steps)" in caplog.text
    assert result.time in result.lines()
    assert result.time.startswith("time: ")
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert validation_seconds(tmp_path / "run" / "history.jsonl") == sum(row.get("validation/seconds", 0) for row in rows) > 0
