"""Which engine runs a bundle's network: the one that was asked for, or the fastest on the first images (``auto``)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.errors import OcusegError
from pipeline.inference.engines.base import ENGINES
from pipeline.tasks.base import Engine, Task
from pipeline.training.precision_gate import LEAST_AGREEMENT
from pipeline.types import Prediction
from pipeline.types.run_record import EngineRecord

log = logging.getLogger(__name__)

AUTO, TORCH = "auto", "torch"
WORTH = 0.9
"""Another engine than torch is chosen where it takes at most this fraction of torch's time: less is noise."""
_ROUNDS = 2

Tell = Callable[[EngineRecord], None]


class EngineChoice:
    """Sets ``task.engine``, now or, with ``auto``, before the first prediction.

    Raises
    ------
    ConfigError, BundleError: the engine that was asked for is unknown, not installed, or cannot run this network.
    """

    def __init__(self, wanted: str, task: Task, channels: int, device: str) -> None:
        self._task, self._wanted = task, wanted
        self._refused: list[str] = []
        self._started: dict[str, Engine | None] = {}
        self._tell: Tell = lambda record: None
        self.record: EngineRecord | None = None
        if wanted != AUTO:
            self._choose(wanted, ENGINES[wanted].build(task, channels, device))
            return
        for entry in ENGINES:
            try:
                self._started[entry.name] = entry.build(task, channels, device)
            except OcusegError as error:
                self._refused.append(f"{entry.name}: {error}")
        if len(self._started) == 1:
            self._choose(TORCH, None, "; ".join(self._refused))

    @property
    def name(self) -> str:
        return TORCH if self.record is None else self.record.name

    def tell(self, of_choice: Tell) -> None:
        """Have ``of_choice`` called with the choice, as soon as there is one."""
        self._tell = of_choice
        if self.record is not None:
            of_choice(self.record)

    def decide(self, predict: Callable[[], Sequence[Prediction]]) -> None:
        """Where the choice is still open, make it by letting each engine ``predict`` a few times, in turns."""
        if self.record is not None:
            return
        found, seconds = self._measured(predict)
        for name in [name for name in found if name != TORCH]:
            agreed = _agreement(self._task, found[TORCH], found[name])
            if agreed < LEAST_AGREEMENT:
                self._refused.append(f"{name}: only {agreed:.2%} of the first images' pixels are as torch finds them")
                del seconds[name]
        fastest = min(seconds, key=lambda name: seconds[name])
        chosen = fastest if seconds[fastest] <= WORTH * seconds[TORCH] else TORCH
        times = ", ".join(f"{name} {spent:.3g} s" for name, spent in seconds.items())
        why = "; ".join([f"measured on the first images: {times}", *self._refused])
        self._choose(chosen, self._started[chosen], why, {name: round(spent, 4) for name, spent in seconds.items()})
        self._started.clear()

    def _measured(self, predict: Callable[[], Sequence[Prediction]]) -> tuple[dict[str, Sequence[Prediction]], dict[str, float]]:
        """What each engine finds, and the least seconds it takes; the first round only warms up."""
        found: dict[str, Sequence[Prediction]] = {}
        seconds: dict[str, float] = {}
        for turn in range(1 + _ROUNDS):
            for name, engine in list(self._started.items()):
                self._task.engine = engine
                began = time.perf_counter()
                try:
                    found[name] = predict()
                except Exception as error:
                    if name == TORCH:
                        raise
                    self._refused.append(f"{name}: failed on the first images ({type(error).__name__})")
                    del self._started[name]
                    for kept in (found, seconds):
                        kept.pop(name, None)
                    continue
                finally:
                    self._task.engine = None
                if turn:
                    seconds[name] = min(time.perf_counter() - began, seconds.get(name, float("inf")))
        return found, seconds

    def _choose(self, name: str, engine: Engine | None, why: str = "", seconds: dict[str, float] | None = None) -> None:
        self._task.engine = engine
        measured = {} if seconds is None else {"seconds": seconds}
        self.record = EngineRecord(name=name, wanted=self._wanted, why=why, **measured)
        if self._wanted == AUTO:
            log.info("engine: %s (%s)", name, why)
        self._tell(self.record)


def _agreement(task: Task, one: Sequence[Prediction], other: Sequence[Prediction]) -> float:
    """The fraction of pixels that belong to the same classes in both."""
    same = total = 0
    for a, b in zip(one, other, strict=True):
        ours, theirs = task.layers(a), task.layers(b)
        if ours is not None and theirs is not None:
            same += int(np.count_nonzero((ours == theirs).all(axis=0)))
            total += ours[0].size
    return same / total if total else 1.0
