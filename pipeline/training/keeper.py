"""What a run leaves on the disk and in its record as it goes, so that the two always tell the same."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from pipeline.training.background import CheckpointWriter
from pipeline.training.checkpoint import State, random_state
from pipeline.training.history import append_history
from pipeline.training.setup import Setup


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
