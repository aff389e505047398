"""Checkpoints, history and record of a run while it trains, which always agree."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.atomic import write_text
from pipeline.training.checkpoint import Snapshots, State, random_state, write_snapshot
from pipeline.training.setup import Setup

log = logging.getLogger(__name__)


class Keeper:
    """Checkpoints, history and tracker of a run; every process has one, the first one writes.

    The history has each epoch at once, and loses on resuming what its checkpoint does not know. The tracker, which takes nothing
    back, is told of an epoch when a checkpoint of it is about to be written, or the run ends: what an earlier process has recorded
    of a repeated epoch is left out there, and what it has not is not lost.
    """

    def __init__(self, setup: Setup, state: State) -> None:
        self._setup, self.state = setup, state
        self._writer = CheckpointWriter(setup.checkpoints)
        self._saved = state.progress.seconds
        self._untold: list[tuple[int, Mapping[str, float]]] = []

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Record an epoch that has just been completed, and save the run's state where that is due."""
        setup, progress = self._setup, self.state.progress
        if setup.accelerator.is_main_process:
            append_history(setup.run_dir / "history.jsonl", progress.epoch, metrics)
            self._untold.append((progress.epoch, metrics))
        old = progress.seconds - self._saved >= 60 * setup.config.train.checkpoint_minutes
        if old or progress.finished or progress.best_epoch == progress.epoch:
            self.checkpoint()

    def checkpoint(self, *, wait: bool = False) -> None:
        """Begin to save a checkpoint; ``wait``: return when it is complete in the eyes of every process.

        Raises
        ------
        TrainingError: this one or the one before cannot be written.
        """
        states = [random_state()]
        if self._setup.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            states = gather_object(states)
        if self._setup.accelerator.is_main_process:
            self._writer.wait()
            self._tell()
            self._writer.save(self.state, states)
        self._saved = self.state.progress.seconds
        if wait:
            self._writer.wait()
            self._setup.accelerator.wait_for_everyone()

    def _tell(self) -> None:
        for epoch, metrics in self._untold:
            self._setup.tracker.epoch(epoch, metrics)
        self._untold.clear()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Of a run that ends with an error, too, the record has what the history has.
        try:
            self._tell()
        finally:
            self._writer.__exit__(kind, error, trace)


class CheckpointWriter:
    """Writes into ``folder``, one checkpoint at a time; on leaving the context the last one is complete.

    The training waits while its state is copied, which takes milliseconds, and goes on while that reaches the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._snapshots = Snapshots()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, state: State, random_states: list[dict[str, Any]]) -> None:
        """Begin to write the state as it is now, once the checkpoint before is complete.

        Raises
        ------
        TrainingError: the one before could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(write_snapshot, self._folder, self._snapshots.take(state, random_states))

    def wait(self) -> None:
        """Return when what was begun is complete.

        Raises
        ------
        TrainingError: it could not be written; the one before is still there.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        try:
            self.wait()
        except Exception as failure:
            if error is None:
                raise
            log.warning("%s", failure)


def append_history(path: Path, epoch: int, metrics: Mapping[str, float]) -> None:
    """Add a line to history.jsonl."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")


def cut_history(path: Path, epochs: int) -> None:
    """Drop lines of epochs that will be repeated, and a half-written last one."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            if json.loads(line)["epoch"] <= epochs:
                lines.append(line)
    write_text(path, "".join(f"{line}\n" for line in lines))
