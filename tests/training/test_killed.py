"""kill -9 at any moment: what is on the disk is whole, and the resumed run ends with the same weights to the bit."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.checkpoint import newest
from tests.patience import ended, joined, wait_until
from tests.training.tiny import last_state, start, tiny_config, train_tiny, weights, write_data


class NotTooFar:
    """Progress that holds a training on after so many steps, so that it cannot end before it is killed, however busy the machine."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        self.left -= note != "reading cases"
        while self.left <= 0:
            time.sleep(1)


def epochs_of(run_dir: Path) -> int:
    history = run_dir / "history.jsonl"
    return history.read_bytes().count(b"\n") if history.exists() else 0


def test_killed_again_and_again_it_ends_like_a_run_that_never_was(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    model = "{name: unet, widths: [4, 8], residual_units: 1, dropout: 0.1}"
    config = tiny_config(root, model, train__epochs=17, train__ema=0.95, train__checkpoint_minutes=0)
    dice = random.Random(5)
    for kill in range(4):
        goal = epochs_of(tmp_path / "run") + dice.randrange(1, 3)
        process = start(config, root, tmp_path / "run", resume=kill > 0, progress=NotTooFar(4 * 6))
        with ended([process]):
            wait_until(lambda process=process, goal=goal: not process.is_alive() or epochs_of(tmp_path / "run") >= goal)
            process.join(dice.uniform(0, 0.1))  # somewhere in the epochs that follow, or in saving them
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
    assert joined([start(config, root, tmp_path / "run", resume=True)]) == [0]
    train_tiny(config, root, tmp_path / "whole")
    for part in (weights, last_state):
        whole, killed = part(tmp_path / "whole"), part(tmp_path / "run")
        assert whole.keys() == killed.keys()
        assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert len(lines) == 17


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done, not even what a `finally` would do on the disk."""


def test_at_every_single_step_of_saving_a_complete_checkpoint_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation on the disk is once the last one: the newest checkpoint must load, and be the old or the new one."""
    from pipeline import atomic
    from pipeline.training import checkpoint
    from pipeline.training.checkpoint import Progress, Snapshots, State, load_checkpoint, random_state, write_snapshot

    def state(epoch: int) -> State:
        torch.manual_seed(epoch)
        network = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(network.parameters())
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return State(Progress(epoch=epoch), network, optimizer, best_weights=network.state_dict())

    def save(folder: Path, epoch: int) -> None:
        write_snapshot(folder, Snapshots().take(state(epoch), [random_state()]))

    stop_at, done = 0, 0

    def counted(function: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done == stop_at:
                raise Killed
            return function(*arguments, **options)

        return run

    for stop_at in range(1, 60):
        folder = tmp_path / str(stop_at)
        save(folder, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", counted(Path.mkdir))
            patch.setattr(Path, "rename", counted(Path.rename))
            patch.setattr(Path, "write_text", counted(Path.write_text))
            patch.setattr(os, "fsync", counted(os.fsync))
            patch.setattr(checkpoint, "save_file", counted(checkpoint.save_file))
            patch.setattr(checkpoint.shutil, "rmtree", counted(checkpoint.shutil.rmtree))
            patch.setattr(atomic.shutil, "rmtree", counted(atomic.shutil.rmtree))
            done = 0
            try:
                save(folder, 2)
                completed = True
            except Killed:
                completed = False
        found = newest(folder)
        assert found is not None
        loaded = state(3)
        load_checkpoint(found, loaded, 0)
        epoch = loaded.progress.epoch
        assert epoch in ((2,) if completed else (1, 2))
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.network.state_dict().values(), state(epoch).network.state_dict().values(), strict=True)
        )
        save(folder, 4)
        assert [path.name for path in folder.iterdir()] == ["000004-00000000"]
        if completed:
            break
    assert completed
    assert stop_at > 12
