"""What steps leave on the device is all of it read, and the step that went wrong is named however late that is."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.training.checkpoint import Progress
from pipeline.training.clock import SYNC_STEPS, Clock
from pipeline.training.meter import LossMeter
from pipeline.types import Batch, CaseKey
from tests.training.tiny import tiny_config, train_tiny, weights, write_data


def noted(steps: list[tuple[list[dict[str, float]], float]]) -> tuple[LossMeter, Progress]:
    """A meter that has seen these steps: losses of each batch, gradient norm."""
    progress = Progress(epoch=4)
    meter = LossMeter(progress)
    for number, (batches, norm) in enumerate(steps):
        for place, losses in enumerate(batches):
            meter.add_losses(list(losses), torch.tensor(list(losses.values())), [CaseKey(f"P{number}{place}", "L", "1", "i")])
            progress.batch += 1
        meter.end_step(torch.tensor(norm))
    return meter, progress


def test_sums_are_those_of_all_batches() -> None:
    meter, progress = noted([([{"a": 1.0, "b": 2.0}, {"a": 0.5, "b": 0.25}], 3.0), ([{"a": 4.0, "b": 8.0}], 1.0)])
    assert progress.running == {}
    meter.read()
    assert progress.running == {"loss/a": 5.5, "loss/b": 10.25, "loss": 15.75, "gradient_norm": 7.0}
    assert meter.batches == 3
    meter.read()
    assert progress.running["loss"] == 15.75


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            ([{"a": 1.0, "b": 2.0}, {"a": math.nan, "b": 2.0}], math.nan),
            r"loss is not finite in epoch 5 \(a nan, b 2\) on cases P11_L_\S+;",
        ),
        (([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}], math.inf), r"gradient is not finite in epoch 5 on cases P10_L_\S+, P11_L_\S+;"),
    ],
)
def test_the_first_step_that_was_not_finite_is_named(bad: Any, said: str) -> None:
    good = ([{"a": 1.0, "b": 2.0}], 1.0)
    meter, _ = noted([good, bad, ([{"a": math.nan, "b": math.nan}], math.nan)])
    with pytest.raises(TrainingError, match=said):
        meter.read()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


def history(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def test_a_loop_that_synchronises_seldom_trains_the_same_and_keeps_nothing_bad(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tasks.semantic import SemanticTask

    config = tiny_config(root, train__epochs=2, train__ema=0.9)
    train_tiny(config, root, tmp_path / "often")
    monkeypatch.setattr(Clock, "is_due", lambda self: False)
    train_tiny(config, root, tmp_path / "seldom")
    often, seldom = weights(tmp_path / "often"), weights(tmp_path / "seldom")
    assert all(torch.equal(often[name], seldom[name]) for name in often)
    assert history(tmp_path / "often") == history(tmp_path / "seldom")

    forward, seen = SemanticTask.forward, []

    def broken_once(self: SemanticTask, batch: Batch) -> dict[str, torch.Tensor]:
        losses = forward(self, batch)
        seen.append({str(case) for case in batch.cases})
        return {**losses, "dice": losses["dice"] * math.nan} if len(seen) == 8 else losses

    monkeypatch.setattr(SemanticTask, "forward", broken_once)
    with pytest.raises(TrainingError, match=r"loss is not finite in epoch 2 \(dice nan, ") as caught:
        train_tiny(config, root, tmp_path / "bad")
    assert len(seen) == 12, "the epoch went on to its end"
    assert ", ".join(sorted(seen[7])) in str(caught.value)
    assert [path.name for path in (tmp_path / "bad" / "checkpoints").iterdir()] == ["000001-00000000"]
    assert not (tmp_path / "bad" / "bundle").exists()
    monkeypatch.setattr(SemanticTask, "forward", forward)
    train_tiny(config, root, tmp_path / "bad", resume=True)
    resumed = weights(tmp_path / "bad")
    assert all(torch.equal(often[name], resumed[name]) for name in often)


class Machine:
    """A device, and how many processes share the work."""

    device = torch.device("cuda")
    num_processes = 1


class Unasked:
    asked = False


@pytest.mark.parametrize(("seconds_a_step", "interval"), [(0.01, SYNC_STEPS), (0.1, 10), (3.0, 1)])
def test_a_device_is_waited_for_about_once_a_second(monkeypatch: pytest.MonkeyPatch, seconds_a_step: float, interval: int) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.training.clock.time.monotonic", lambda: now)
    progress = Progress()
    clock = Clock(Machine(), Unasked(), progress)  # type: ignore[arg-type]
    synced = []
    for progress.step in range(1, 200):
        now += seconds_a_step
        if clock.is_due():
            clock.sync()
            synced.append(progress.step)
            assert progress.seconds == now
    assert synced[0] == 1
    assert all(b - a == pytest.approx(interval, abs=1) for a, b in itertools.pairwise(synced))
