"""A run's state on disk: whole or not at all, tensors as safetensors and the rest as JSON; nothing is ever unpickled.

A checkpoint is a folder ``checkpoints/EPOCH-BATCH``: that many epochs and batches of the next one are done. The new folder gets its
name, complete and flushed to the disk, before the older one goes; so at any moment the newest folder is a complete checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.atomic import new_folder, remove_leftovers
from pipeline.errors import TrainingError
from pipeline.training.optimise import AveragedWeights

_NAME = re.compile(r"\d{6}-\d{8}")


@dataclass
class Progress:
    """How far a run has come; all of it is in state.json.

    ``epoch`` epochs are complete and ``batch`` batches of the next are done, whose loss sums so far are ``running``. ``seconds`` of
    training have passed, ``validated`` of them when the last validation ended. ``best`` is the highest validation score, reached
    (last) after ``best_epoch`` epochs; ``stale`` validations since it was first reached were no better.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    validated: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0
    finished: bool = False
    running: dict[str, float] = field(default_factory=dict)


@dataclass
class State:
    """Everything that a run changes as it goes. ``average`` and ``best_weights`` may be None."""

    progress: Progress
    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedWeights | None = None
    best_weights: dict[str, Tensor] | None = None


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in ``folder``, or None."""
    found = sorted(p for p in folder.glob("*") if _NAME.fullmatch(p.name)) if folder.is_dir() else []
    return found[-1] if found else None


@dataclass(frozen=True)
class Snapshot:
    """A run's state in host memory that nobody changes any more: ``files`` of tensors by name, and what state.json will hold."""

    name: str
    files: dict[str, dict[str, Tensor]]
    best_weights: dict[str, Tensor] | None
    record: dict[str, Any]


class Snapshots:
    """Takes snapshots, each into the memory of the one before, which must be written by then. For a GPU that memory is pinned, so that
    it is filled several times as fast.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, state: State, random_states: list[dict[str, Any]]) -> Snapshot:
        """``random_states``: :func:`random_state` of each process, by rank."""
        progress = state.progress
        slots, groups = _optimizer_state(state.optimizer)
        files = {"network": self._copied("network", state.network.state_dict()), "optimizer": self._copied("optimizer", slots)}
        if state.average is not None:
            files["average"] = self._copied("average", state.average.network.state_dict())
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        record = {
            "progress": asdict(progress),
            "average_steps": state.average.steps if state.average is not None else 0,
            "optimizer_groups": groups,
            "random": random_states,
        }
        # The best weights are on the host already, and are exchanged as a whole.
        return Snapshot(f"{progress.epoch:06d}-{progress.batch:08d}", files, state.best_weights, record)

    def _copied(self, file: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        copies = {}
        for name, value in tensors.items():
            key = f"{file}/{name}"
            copy = self._memory.get(key)
            if copy is None or copy.shape != value.shape or copy.dtype != value.dtype:
                copy = self._memory[key] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            copies[name] = copy.copy_(value.detach(), non_blocking=True)
        return copies


def write_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    """Write a run's state; older checkpoints go once the new one is complete. Call it in one process only.

    Raises
    ------
    TrainingError: it cannot be written; the one before is still there.
    """
    try:
        return _write_snapshot(folder, snapshot)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
        raise TrainingError(
            f"the checkpoint cannot be written ({why}); make room there, then resume the run with: "
            f"ocuseg train --resume {shlex.quote(str(folder.parent))} --root FOLDER"
        ) from error


def _write_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    remove_leftovers(folder)
    before = newest(folder)
    path = folder / snapshot.name
    if path.exists():
        return path  # nothing has happened since; writing it anew would leave a moment without it
    with new_folder(path) as staged:
        for name, tensors in snapshot.files.items():
            save_file(tensors, staged / f"{name}.safetensors")
        if snapshot.best_weights is not None:
            # The best of an earlier epoch is a second name for the same file, not a second copy.
            _link_or_save(snapshot.best_weights, staged / "best.safetensors", before, snapshot.record["progress"])
        (staged / "state.json").write_text(json.dumps(snapshot.record), encoding="utf-8")
    for older in folder.glob("*"):
        if _NAME.fullmatch(older.name) and older.name != path.name:
            shutil.rmtree(older)
    return path


def load_checkpoint(path: Path, state: State, rank: int) -> None:
    """Put the run back to where ``path`` left it, this process's random numbers included.

    Raises
    ------
    TrainingError: the checkpoint does not fit the network or cannot be read.
    """
    try:
        record = json.loads((path / "state.json").read_text(encoding="utf-8"))
        vars(state.progress).update(vars(Progress(**record["progress"])))
        state.network.load_state_dict(load_file(path / "network.safetensors"))
        _restore_optimizer(state.optimizer, load_file(path / "optimizer.safetensors"), record["optimizer_groups"])
        if state.average is not None:
            state.average.network.load_state_dict(load_file(path / "average.safetensors"))
            state.average.steps = record["average_steps"]
        best = path / "best.safetensors"
        state.best_weights = load_file(best) if best.exists() else None
        if rank < len(record["random"]):  # with more processes than before, the new ones keep the seed they started with
            restore_random_state(record["random"][rank])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        why = (str(error).splitlines() or [""])[0][:200]
        raise TrainingError(
            f"checkpoint {path.name}: is damaged or does not fit this run ({error.__class__.__name__}: {why}); "
            "resume with the config it was started with, or start a new run"
        ) from error


def random_state() -> dict[str, Any]:
    """The state of every random generator of this process, as a JSON value."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (a plugin may draw from the global one)
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.random.get_rng_state().numpy().tobytes().hex(),
        "cuda": torch.cuda.get_rng_state().numpy().tobytes().hex() if torch.cuda.is_available() else None,
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "python": [version, list(numbers), gauss],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    torch.random.set_rng_state(_bytes(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _link_or_save(weights: Mapping[str, Tensor], path: Path, before: Path | None, progress: Mapping[str, Any]) -> None:
    if before is not None and (before / path.name).exists() and _best_of(before) == (progress["best"], progress["best_epoch"]):
        try:
            os.link(before / path.name, path)
        except OSError:
            shutil.copyfile(before / path.name, path)
    else:
        save_file({name: value.contiguous() for name, value in weights.items()}, path)


def _best_of(checkpoint: Path) -> tuple[Any, Any]:
    """The best score of a checkpoint, and its epoch."""
    progress = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["progress"]
    return progress["best"], progress["best_epoch"]


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors by "PARAMETER.NAME", and the groups' settings as JSON values."""
    state = optimizer.state_dict()
    slots = {f"{index}.{name}": value for index, slot in state["state"].items() for name, value in slot.items() if torch.is_tensor(value)}
    return slots, [group | {"lr": group.get("rate", group["lr"])} for group in state["param_groups"]]


def _restore_optimizer(optimizer: torch.optim.Optimizer, slots: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """The inverse, with each tensor in the memory format of its parameter: another order of the same numbers rounds differently.

    Settings (weight decay, factors of the rate) are the run's own, which may have changed; only the parameters must be grouped alike.
    """
    now = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in now] != [group["params"] for group in groups]:
        raise ValueError("its parameters are grouped otherwise")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in slots.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": [own | {"lr": old["lr"]} for own, old in zip(now, groups, strict=True)]})
