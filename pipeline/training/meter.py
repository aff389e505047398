"""Losses and gradient norms of the latest steps, left on the device until somebody looks at them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.training.checkpoint import Progress
from pipeline.types import CaseKey

REMEDY = "lower train.learning_rate, set train.clip_norm, or look at these cases"


@dataclass
class _Step:
    names: list[str] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    cases: list[Sequence[CaseKey]] = field(default_factory=list)


class LossMeter:
    """Sums over an epoch, by name, in ``progress.running``: the losses, their sum ``loss`` and ``gradient_norm``, each as often as batches.

    To ask a GPU for a number is to wait until it has done everything before; so what a step gives stays there, a few numbers each, and
    :meth:`read` fetches all of it at once. A state that is to be kept must be read before: only then is it known to be sound.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps = [_Step()]
        self.batches = progress.batch
        """Of the epoch, how many have been looked at."""

    def add_losses(self, names: Sequence[str], values: Tensor, cases: Sequence[CaseKey]) -> None:
        """Note a batch's losses, float32 (N) without gradients."""
        step = self._steps[-1]
        step.names += names
        step.values.append(values)
        step.cases.append(cases)

    def end_step(self, norm: Tensor) -> None:
        """Note the norm of the step's gradient, a scalar."""
        self._steps[-1].values.append(norm.detach().float()[None])
        self._steps.append(_Step())

    def read(self) -> None:
        """Add what was noted to the sums; waits for the device.

        Raises
        ------
        TrainingError: a loss or a gradient that is not finite, with its parts and the cases of that step.
        """
        *steps, unfinished = self._steps
        self._steps, self.batches = [unfinished], self._progress.batch
        if not steps:
            return
        numbers = iter(torch.cat([value for step in steps for value in step.values]).tolist())
        for step in steps:
            _add(self._progress.running, step, numbers, self._progress.epoch)


def _add(running: dict[str, float], step: _Step, numbers: Iterator[float], epoch: int) -> None:
    """Take a step's numbers off ``numbers``, and stop at the first that is not finite."""
    *batches, _ = step.values
    names = iter(step.names)
    for batch, cases in zip(batches, step.cases, strict=True):
        losses = {next(names): next(numbers) for _ in range(len(batch))}
        if not all(math.isfinite(value) for value in losses.values()):
            parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            raise TrainingError(f"the loss is not finite in epoch {epoch + 1} ({parts}) on cases {_listed([cases])}; {REMEDY}")
        for name, value in losses.items():
            running[f"loss/{name}"] = running.get(f"loss/{name}", 0.0) + value
        running["loss"] = running.get("loss", 0.0) + sum(losses.values())
    norm = next(numbers)
    if not math.isfinite(norm):
        raise TrainingError(f"the gradient is not finite in epoch {epoch + 1} on cases {_listed(step.cases)}; {REMEDY}")
    running["gradient_norm"] = running.get("gradient_norm", 0.0) + norm * len(batches)


def _listed(batches: Iterable[Sequence[CaseKey]]) -> str:
    return ", ".join(sorted({str(case) for cases in batches for case in cases}))
