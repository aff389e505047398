"""A run that is taken up again: the same data, more to do, nothing to do, somebody else at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.atomic import write_text
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.datasets.splits import Split, make_split
from pipeline.errors import ConfigError, InterruptedRun
from pipeline.evaluation.evaluate import evaluate
from pipeline.lock import locked
from pipeline.tracking.record import RecordedInputs
from pipeline.training import run
from pipeline.training.checkpoint import newest
from pipeline.training.keeper import cut_history
from pipeline.training.result import TrainingResult
from tests.training.test_recording import Recorder
from tests.training.tiny import tiny_config, train_tiny, write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


def epochs(run_dir: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (run_dir / "history.jsonl").read_text().splitlines()]


def test_a_run_that_left_a_copy_out_is_resumed_repeated_and_evaluated(tmp_path: Path) -> None:
    root, run_dir = write_data(tmp_path / "data"), tmp_path / "run"
    settings: dict[str, Any] = {"data__split__near_duplicates": "drop_from_train"}
    config = tiny_config(root, train__epochs=1, **settings)
    card = load_card(str(root / "card.md"))
    split = make_split(card, find_cases(card, root), config.data.split, config.seed)
    copy, tested = max(split.train), min(split.test)
    assert copy > tested  # so that of the two it is the copy that stands last among cases with one hash
    for folder in ("images", "masks"):
        shutil.copy(root / folder / f"{tested.patient}_{tested.eye}.png", root / folder / f"{copy.patient}_{copy.eye}.png")

    train_tiny(config, root, run_dir)
    kept = Split.load(run_dir / "split.json")
    assert set(split.train) - set(kept.train) == {copy}
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert {row["case"] for row in manifest} == {str(key) for _, keys in kept for key in keys}

    train_tiny(tiny_config(root, train__epochs=2, **settings), root, run_dir, resume=True)
    assert epochs(run_dir) == [1, 2]

    seen: list[Any] = []
    given = RecordedInputs("an-mlflow-run", kept, (run_dir / "card.md").read_text(), seen.extend)
    train_tiny(config, root, tmp_path / "again", given=given)
    assert seen == manifest

    summary = evaluate(run_dir / "bundle", str(root / "card.md"), root, out=tmp_path / "out", device="cpu")
    assert summary["images"] == 2


def test_a_finished_run_goes_on_when_it_is_given_more_and_says_when_nothing_is_left(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path / "run")
    monkeypatch.setattr(run, "open_tracker", lambda *_, **__: recorder)

    def train(count: int, resume: bool = True) -> TrainingResult:
        return run.train(tiny_config(root, train__epochs=count), root, tmp_path / "run", device="cpu", resume=resume)

    first = train(1, resume=False)
    more = train(3)
    assert epochs(tmp_path / "run") == [1, 2, 3]
    assert (more.message, len(recorder.bundles)) == (None, 2)
    assert more.bundle_id != first.bundle_id

    record = tmp_path / "run" / "bundle" / "bundle.json"
    before = record.stat()
    nothing = train(3)
    assert nothing.message == "nothing was left to train: all epochs are done (train.epochs: 3); the existing bundle is kept"
    assert nothing.message in nothing.lines()
    assert (nothing.bundle_id, nothing.metrics) == (more.bundle_id, more.metrics)
    assert (record.stat().st_mtime_ns, record.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert len(recorder.bundles) == 2

    shutil.rmtree(tmp_path / "run" / "bundle")
    anew = train(3)
    assert (anew.message, anew.bundle_id, len(recorder.bundles)) == (None, more.bundle_id, 3)
    assert epochs(tmp_path / "run") == [1, 2, 3]


def test_a_run_that_was_stopped_after_an_epochs_last_step_goes_on(root: Path, tmp_path: Path) -> None:
    """No step of that epoch is left, and the epoch is yet to be recorded; a GPU is asked so late that this is the usual case."""

    def stopping(done: int, total: int | None = None, note: str = "") -> None:
        if done == 6 and note.startswith("epoch"):
            os.kill(os.getpid(), signal.SIGTERM)

    config = tiny_config(root, train__epochs=2)
    whole = train_tiny(config, root, tmp_path / "whole")
    with pytest.raises(InterruptedRun):
        train_tiny(config, root, tmp_path / "run", progress=stopping)
    path = newest(tmp_path / "run" / "checkpoints")
    assert path is not None
    assert path.name == "000000-00000006"
    resumed = train_tiny(config, root, tmp_path / "run", resume=True)
    assert resumed.metrics["validation/dice"] == whole.metrics["validation/dice"]
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("whole", "run")]
    assert [json.loads(line)["learning_rate"] for line in lines[0]] == [json.loads(line)["learning_rate"] for line in lines[1]]


def test_a_run_without_patience_left_goes_on_with_more(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tasks.semantic import SemanticTask

    summarise = SemanticTask.summarise
    monkeypatch.setattr(SemanticTask, "summarise", lambda self, scores, evidence: {**summarise(self, scores), "dice": 0.5})
    train_tiny(tiny_config(root, train__epochs=6, train__patience=1), root, tmp_path / "run")
    assert epochs(tmp_path / "run") == [1, 2]
    train_tiny(tiny_config(root, train__epochs=6, train__patience=3), root, tmp_path / "run", resume=True)
    assert epochs(tmp_path / "run") == [1, 2, 3, 4]
    # Of equally good epochs the last is kept, across a resumption, too; patience counts from the first of them.
    found = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    progress = json.loads((found / "state.json").read_text())["progress"]
    assert (progress["best_epoch"], progress["stale"]) == (4, 3)
    last, best = load_file(found / "network.safetensors"), load_file(found / "best.safetensors")
    assert all(torch.equal(last[name], value) for name, value in best.items())


def test_a_run_that_somebody_is_at_is_left_alone(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, train__epochs=1)
    (tmp_path / "run").mkdir()
    for resume in (False, True):
        with (
            locked(tmp_path / "run" / ".lock", ConfigError("the test")),
            pytest.raises(ConfigError, match="run: another process is at this run"),
        ):
            train_tiny(config, root, tmp_path / "run", resume=resume)
        if not resume:
            train_tiny(config, root, tmp_path / "run")


def test_a_full_disk_does_not_take_the_history_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.jsonl"
    write_text(path, "".join(f'{{"epoch": {epoch}}}\n' for epoch in (1, 2, 3)))

    def half(self: Path, text: str, **_: Any) -> None:
        self.write_bytes(text.encode()[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="No space"):
            cut_history(path, 2)
    assert epochs(tmp_path) == [1, 2, 3]
    cut_history(path, 2)
    assert epochs(tmp_path) == [1, 2]
