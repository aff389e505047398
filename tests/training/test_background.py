"""Checkpoints that are written while the training goes on."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Progress, State, load_checkpoint, newest, random_state
from pipeline.training.keeper import CheckpointWriter
from tests.patience import LONG_S, joined
from tests.training.tiny import last_state, start, tiny_config, train_in_process, train_tiny, weights, write_data


def a_state(epoch: int, value: float) -> State:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.nn.init.constant_(network.weight, value)
    return State(Progress(epoch=epoch), network, optimizer)


def saved_value(folder: Path) -> float:
    found = newest(folder)
    assert found is not None
    state = a_state(9, 9.0)
    load_checkpoint(found, state, 0)
    return state.network.weight[0, 0].item()


def test_what_is_written_is_the_state_at_that_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = threading.Event()
    save_file = checkpoint.save_file

    def late(tensors: Any, path: Path) -> None:
        assert changed.wait(LONG_S)
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", late)
    state = a_state(1, 1.0)
    with CheckpointWriter(tmp_path) as writer:
        writer.save(state, [random_state()])
        torch.nn.init.constant_(state.network.weight, 2.0)
        state.progress.epoch = 2
        changed.set()
        writer.wait()
        assert saved_value(tmp_path) == 1.0
        writer.save(state, [random_state()])
        torch.nn.init.constant_(state.network.weight, 3.0)
    assert saved_value(tmp_path) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["000002-00000000"]


@pytest.mark.parametrize("when", ["next", "end"])
def test_a_full_disk_is_said_at_the_next_checkpoint_or_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def full(tensors: Any, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)

    def run() -> None:
        with CheckpointWriter(tmp_path) as writer:
            writer.save(a_state(1, 1.0), [random_state()])
            if when == "next":
                writer.save(a_state(2, 2.0), [random_state()])
                pytest.fail("the second was begun though the first had failed")

    with pytest.raises(TrainingError, match="the checkpoint cannot be written"):
        run()
    assert newest(tmp_path) is None


def _killed_while_writing(*arguments: Any) -> None:
    """A training that SIGKILL meets in the middle of its third checkpoint, in the thread that writes it."""
    save_file, written = checkpoint.save_file, []

    def save(tensors: Any, path: Path) -> None:
        written.append(path.parent)
        if len(set(written)) == 3 and path.name == "optimizer.safetensors":
            os.kill(os.getpid(), signal.SIGKILL)
        save_file(tensors, path)

    checkpoint.save_file = save  # type: ignore[assignment]
    train_in_process(*arguments)


def test_killed_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    config = tiny_config(root, train__epochs=5, train__ema=0.9, train__checkpoint_minutes=0)
    assert joined([start(config, root, tmp_path / "run", target=_killed_while_writing)]) == [-signal.SIGKILL]
    found = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.name == "000002-00000000"
    train_tiny(config, root, tmp_path / "run", resume=True)
    train_tiny(config, root, tmp_path / "whole")
    for part in (weights, last_state):
        whole, resumed = part(tmp_path / "whole"), part(tmp_path / "run")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 5
