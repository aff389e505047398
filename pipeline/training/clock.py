"""How long a training has lasted and whether it is to stop, the same for all processes."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch

from pipeline.training.checkpoint import Progress

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SYNC_SECONDS = 1.0
"""About so often processes and device are synchronised: a signal is obeyed after a second, and a thousand queued kernels cost one wait."""
SYNC_STEPS = 50
"""At least so often: few losses wait to be read, and an error names the cases while they are still known."""


class Interrupt:
    """SIGTERM and Ctrl-C as a request that the loop reads between two steps.

    While this context is open, the first SIGTERM or SIGINT sets ``asked``; a second one acts as it did before.

    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}


class Clock:
    """Keeps ``progress.seconds`` and ``stop_requested``, which are the same in all processes: they must leave the loop at the same step.

    A single process on a CPU synchronises at every step, where that costs nothing. A GPU would first have to work off its queue, and
    several processes would have to wait for each other; these do so about once a second (:data:`SYNC_SECONDS`), after at most
    :data:`SYNC_STEPS` steps. How many steps that is follows from the common time, so it is the same in all processes.
    """

    def __init__(self, accelerator: Any, interrupt: Interrupt, progress: Progress) -> None:
        self._accelerator, self._interrupt, self._progress = accelerator, interrupt, progress
        self._every_step = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
        self._began = time.monotonic() - progress.seconds
        self._interval, self._synced_step = 1, progress.step
        self.stop_requested = False

    def is_due(self) -> bool:
        """Whether to synchronise before the next step."""
        return self._every_step or self._progress.step - self._synced_step >= self._interval

    def sync(self) -> None:
        """Take the longest time of all processes, and stop if any of them was asked to."""
        seconds, stop = time.monotonic() - self._began, self._interrupt.asked
        if self._accelerator.num_processes > 1:
            both = torch.tensor([seconds, float(stop)], dtype=torch.float64, device=self._accelerator.device)
            torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
            seconds, stop = float(both[0]), bool(both[1])
        progress = self._progress
        steps, passed = progress.step - self._synced_step, seconds - progress.seconds
        if steps > 0 and passed > 0:
            self._interval = max(1, min(SYNC_STEPS, int(SYNC_SECONDS * steps / passed)))
        self._synced_step = progress.step
        progress.seconds, self.stop_requested = seconds, self.stop_requested or stop
