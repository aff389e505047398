"""Checkpoints that are written beside the training."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.training.checkpoint import Snapshots, State, write_snapshot

log = logging.getLogger(__name__)


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
