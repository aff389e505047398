"""How long a training has lasted and whether it is to stop, the same for all processes; and how often they ask."""

from __future__ import annotations

import time
from typing import Any

import torch

from pipeline.training.interrupt import Interrupt

LOOK_SECONDS = 1.0
"""About so often a loop looks up: a signal is obeyed after a second, and a thousand queued kernels cost one wait, not one each."""
LOOK_STEPS = 50
"""At least so often: what is kept of the steps between stays small, and an error names the cases while they are still known."""


class Pace:
    """Seconds of training and the wish to stop, as all processes have last agreed on them: they must leave the loop at one step.

    One process on a CPU looks at every step, where that costs nothing. A GPU would have to catch up with the host first, and several
    processes would have to wait for each other; these look once a second (:data:`LOOK_SECONDS`), at most :data:`LOOK_STEPS` steps
    later. How many steps that is follows from the agreed time, so it is the same for all.
    """

    def __init__(self, accelerator: Any, interrupt: Interrupt, seconds: float) -> None:
        self._accelerator, self._interrupt = accelerator, interrupt
        self._every_step = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
        self._began = time.monotonic() - seconds
        self._interval, self._at, self._since = 1, 0, seconds
        self.seconds, self.stop = seconds, False

    def due(self, step: int) -> bool:
        """Whether to look before the next step, after ``step`` of them in all."""
        return self._every_step or step - self._at >= self._interval

    def look(self, step: int) -> None:
        """Agree on ``seconds`` and ``stop``: the longest time, and whether anyone was asked to stop."""
        seconds, asked = time.monotonic() - self._began, self._interrupt.asked
        if self._accelerator.num_processes > 1:
            both = torch.tensor([seconds, float(asked)], dtype=torch.float64, device=self._accelerator.device)
            torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
            seconds, asked = float(both[0]), bool(both[1])
        if step > self._at and seconds > self._since:
            self._interval = max(1, min(LOOK_STEPS, int(LOOK_SECONDS * (step - self._at) / (seconds - self._since))))
        self.seconds, self.stop = seconds, self.stop or asked
        self.start(step)

    def start(self, step: int) -> None:
        """Measure the time of steps from here on, after ``step`` of them: what lies between two epochs is none."""
        self._at, self._since = step, self.seconds
