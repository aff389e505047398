"""A run from config to bundle, and what stops it."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline.bundles.bundle import load_bundle
from pipeline.config import load_config
from pipeline.errors import ConfigError, InterruptedRun, TrainingError
from pipeline.tracking.record import with_card
from pipeline.training import run
from pipeline.training.checkpoint import newest
from pipeline.training.run import new_run_dir
from tests.datasets.test_feed import worker_ids
from tests.patience import LONG_S
from tests.training.tiny import last_state, tiny_config, train_tiny, weights, write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


def history(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    config = tiny_config(root, train__epochs=6, train__learning_rate=0.01)
    result = train_tiny(config, root, tmp_path / "run", progress=lambda done, total, note: seen.append((done, total)))
    run_dir = tmp_path / "run"
    assert load_config(run_dir / "config.yaml") == with_card(config, "tiny")
    split = json.loads((run_dir / "split.json").read_text())
    assert {name: len(split[name]) for name in ("train", "validation", "test")} == {"train": 8, "validation": 2, "test": 2}
    assert len(json.loads((run_dir / "manifest.json").read_text())) == 12
    assert json.loads((run_dir / "environment.json").read_text())["device"]["type"] == "cpu"
    rows = history(run_dir)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "loss/dice", "loss/cross_entropy", "gradient_norm"):
        assert all(row[f"train/{name}"] > 0 for row in rows)
    assert rows[0]["train/loss"] == pytest.approx(rows[0]["train/loss/dice"] + rows[0]["train/loss/cross_entropy"])
    assert {"learning_rate", "train/seconds", "images_per_second", "validation/dice/blob", "validation/iou_pooled/blob"} <= set(rows[0])
    assert seen == [(done, 12) for done in range(1, 13)] + [(done, 36) for done in range(1, 37)]  # cases read, then steps
    bundle = load_bundle(run_dir / "bundle")
    assert (bundle.id, bundle.input_channels, bundle.modality) == (result.bundle_id, 3, "fundus")
    assert 0 < bundle.thresholds["blob"] < 1
    assert bundle.metrics["validation/dice"] == result.metrics["validation/dice"] > 0.7
    # At the threshold that validation chose the best epoch is at least as good as at one half.
    assert result.metrics["validation/dice"] >= max(row["validation/dice"] for row in rows) - 1e-9
    assert result.to_json()["bundle_id"] in result.lines()[1]


def test_the_bundle_holds_the_best_epoch_not_the_last(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tasks.semantic import SemanticTask

    summarise, calls = SemanticTask.summarise, []

    def worse_every_time(self: SemanticTask, scores: Any, evidence: Any) -> dict[str, float]:
        calls.append(1)
        return {**summarise(self, scores), "dice": 1 / len(calls)}

    monkeypatch.setattr(SemanticTask, "summarise", worse_every_time)
    train_tiny(tiny_config(root, train__patience=2, train__epochs=9), root, tmp_path / "run")
    assert len(history(tmp_path / "run")) == 3  # the best is the first; two more were no better
    train_tiny(tiny_config(root, train__epochs=9, train__validate_every=99, train__patience=9), root, tmp_path / "other")
    found = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    progress = json.loads((found / "state.json").read_text())["progress"]
    assert (progress["best_epoch"], progress["epoch"], progress["finished"]) == (1, 3, True)
    assert [("validation/dice" in row) for row in history(tmp_path / "other")] == [False] * 8 + [True]


def test_the_same_config_gives_the_same_weights_whatever_the_cache(root: Path, tmp_path: Path) -> None:
    first = train_tiny(tiny_config(root, train__epochs=1), root, tmp_path / "a")
    second = train_tiny(tiny_config(root, train__epochs=1, data__cache="disk"), root, tmp_path / "b")
    other = train_tiny(tiny_config(root, train__epochs=1, seed=1), root, tmp_path / "c")
    one, two, three = (weights(result.run_dir) for result in (first, second, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"train__accumulate": 4, "train__schedule": "cosine"},
        {"train__optimizer": "sgd", "train__schedule": "constant", "train__clip_norm": "null"},
        {"train__ema": 0.9, "train__channels_last": "false"},
        {"data__split__validation": 0.0},
        {"train__precision": "bfloat16"},
    ],
)
def test_every_setting_trains(root: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    result = train_tiny(tiny_config(root, train__epochs=2, **changes), root, tmp_path / "run")
    assert len(history(tmp_path / "run")) == 2
    assert bool(result.metrics) == ("data__split__validation" not in changes)
    load_bundle(result.bundle)


def test_loader_processes_end_with_the_last_step(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the program: the final validation needs their memory, and a program may train several times."""
    fit, conclude, workers = run.fit, run.conclude, []

    def fitted(setup: Any, *arguments: Any) -> None:
        fit(setup, *arguments)
        (feed,) = setup.store.feeds.values()
        workers.extend(psutil.Process(pid) for pid in worker_ids(feed))

    def concluded(setup: Any, *arguments: Any) -> Any:
        assert not setup.store.feeds
        assert psutil.wait_procs(workers, timeout=LONG_S)[1] == []
        return conclude(setup, *arguments)

    monkeypatch.setattr(run, "fit", fitted)
    monkeypatch.setattr(run, "conclude", concluded)
    train_tiny(tiny_config(root, train__epochs=1, data__workers=1), root, tmp_path / "run")
    assert len(workers) == 1


def test_the_last_epoch_is_annealed_when_time_runs_out(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(
        "pipeline.training.clock.time", SimpleNamespace(monotonic=lambda: float(next(clock)))
    )  # every synchronisation takes a second
    config = tiny_config(root, train__epochs=100_000, train__minutes=1)
    train_tiny(config, root, tmp_path / "run")
    rates = [row["learning_rate"] for row in history(tmp_path / "run")]
    assert 3 < len(rates) < 10  # an epoch synchronises at least six times
    assert rates[-1] < 0.2 * max(rates)
    # Resumed, a run whose time is up stays as it is.
    before = weights(tmp_path / "run")
    result = train_tiny(config, root, tmp_path / "run", resume=True)
    assert "the time limit is reached (train.minutes: 1)" in result.message
    assert len(history(tmp_path / "run")) == len(rates)
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run").items())


def test_validations_by_time_come_at_the_first_epochs_end_after_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("pipeline.training.clock.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    train_tiny(tiny_config(root, train__epochs=12, train__validate_every="{minutes: 0.5}"), root, tmp_path / "run")
    validated = [row["epoch"] for row in history(tmp_path / "run") if "validation/dice" in row]
    # An epoch synchronises after each of its six steps and twice more: four of them make half a minute.
    assert validated == [4, 8, 12]


def test_a_loss_that_is_not_finite_stops_with_its_parts_and_cases(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tasks.semantic import SemanticTask

    forward = SemanticTask.forward

    def broken(self: SemanticTask, batch: Any) -> dict[str, torch.Tensor]:
        losses = forward(self, batch)
        return {**losses, "cross_entropy": losses["cross_entropy"] * float("nan")}

    monkeypatch.setattr(SemanticTask, "forward", broken)
    with pytest.raises(
        TrainingError, match=r"not finite in epoch 1 \(dice 0\.\d+, cross_entropy nan\) on cases P\d_[LR]_.*train.learning_rate"
    ):
        train_tiny(tiny_config(root), root, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step_and_resuming_ends_as_if_there_had_been_none(
    root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = tiny_config(root, train__ema=0.9, model="{name: unet, widths: [4, 8], residual_units: 1, dropout: 0.2}")
    train_tiny(config, root, tmp_path / "whole")

    def at_step_nine(done: int, total: int | None, note: str) -> None:
        if (done, total) == (9, 18):
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(InterruptedRun, match="resume") as caught:
        train_tiny(config, root, tmp_path / "run", progress=at_step_nine)
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is before
    found = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.name == "000001-00000003"
    assert not (tmp_path / "run" / "bundle").exists()
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(77)
    train_tiny(config, root, tmp_path / "run", resume=True)
    for part in (weights, last_state):
        whole, resumed = part(tmp_path / "whole"), part(tmp_path / "run")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for name in ("train/loss", "train/gradient_norm", "validation/dice"):
        assert [row[name] for row in history(tmp_path / "whole")] == [row[name] for row in history(tmp_path / "run")]


def test_resuming_something_else_is_refused(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, train__epochs=1)
    with pytest.raises(ConfigError, match="not the folder of a run"):
        train_tiny(config, root, tmp_path / "run", resume=True)
    train_tiny(config, root, tmp_path / "run")
    with pytest.raises(ConfigError, match="not empty; resume that run"):
        train_tiny(config, root, tmp_path / "run")
    with pytest.raises(ConfigError, match="model differs"):
        train_tiny(tiny_config(root, "{name: unet, widths: [4, 16]}"), root, tmp_path / "run", resume=True)
    (tmp_path / "run" / "manifest.json").write_text(
        json.dumps([{**row, "sha256": "0" * 64} for row in json.loads((tmp_path / "run" / "manifest.json").read_text())])
    )
    with pytest.raises(ConfigError, match="data has changed since"):
        train_tiny(config, root, tmp_path / "run", resume=True)


def test_runs_that_start_in_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    assert len({new_run_dir(tmp_path, "tiny") for _ in range(5)}) == 5
