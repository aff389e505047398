"""The steps of a training: loss, gradient, optimiser and averaged weights, as written or, on a GPU, recorded once and replayed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.models.precision import autocast
from pipeline.tasks.base import Task
from pipeline.tasks.semantic import stack
from pipeline.training.checkpoint import State
from pipeline.training.compiling import first_line
from pipeline.training.meter import LossMeter
from pipeline.training.optimise import clip_gradient, read_rates_from
from pipeline.training.replay import Replayed
from pipeline.training.setup import Setup
from pipeline.types import Batch

log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps as written before one is recorded: they make the optimiser's state, and cuDNN chooses its algorithms."""
MEMORY_FRACTION = 0.5
"""Of a GPU's memory: recorded work keeps what it needs for itself, and validation needs some, too."""


class Steps:
    """Takes the steps of a run. Nothing in a step waits for the device.

    On a GPU the fourth step is recorded, where all batches are alike and nothing but images, valid and masks goes into the losses: the
    network's hundreds of kernels, their gradients and the optimiser are one launch from then on. Numbers are those of the steps as
    written, up to the order of a GPU's sums.
    """

    def __init__(self, setup: Setup, model: Callable[[Batch], dict[str, Tensor]], task: Task, state: State) -> None:
        self._setup, self._model, self._task, self._state = setup, model, task, state
        self._taken = 0
        self._names: list[str] = []
        self._recorded: Replayed | None = None
        # Each group's rate, and the share of the averaged weights: what differs from step to step.
        self._schedule = torch.zeros(len(state.optimizer.param_groups) + 1, device=setup.accelerator.device)
        why = why_not_recorded(setup, task)
        self._recordable = not why
        if why:
            log.debug("steps are not recorded: %s", why)
        else:
            torch.cuda.reset_peak_memory_stats(setup.accelerator.device)  # of a run before this one

    def take(self, group: Sequence[Batch], meter: LossMeter) -> None:
        """One step of the optimiser over a group of batches."""
        if self._recordable and self._taken == WARM_UP:
            self._recorded = self._record(group[0])
        self._taken += 1
        if self._recorded is not None:
            self._replay(group[0], self._recorded, meter)
        elif self._recordable and self._taken == WARM_UP:
            self._as_a_trial(group, meter)
        else:
            self._as_written(group, meter)

    def _as_written(self, group: Sequence[Batch], meter: LossMeter) -> None:
        accelerator, state, losses = self._setup.accelerator, self._state, []
        for number, batch in enumerate(group, start=1):
            # Processes exchange gradients once a step, at its last batch.
            with contextlib.nullcontext() if number == len(group) else accelerator.no_sync(self._model):
                with autocast(accelerator.device, self._setup.precision):
                    named = self._model(batch)
                values = _in_float32(named)
                accelerator.backward(values.sum() / len(group))
            losses.append((list(named), values.detach(), batch.cases))
        norm = self._change_weights()
        state.optimizer.zero_grad()
        if state.average is not None:
            state.average.update(self._task)
        for of_batch in losses:
            meter.add_losses(*of_batch)
        meter.end_step(norm)

    def _change_weights(self) -> Tensor:
        """By the gradient, which is clipped; gives its norm before."""
        norm = clip_gradient(self._task.parameters(), self._setup.config.train.clip_norm)
        self._state.optimizer.step()
        return norm

    def _as_a_trial(self, group: Sequence[Batch], meter: LossMeter) -> None:
        """A step that ends, before weights change, where something would wait for the device, which cannot be recorded."""
        try:
            with _no_waiting():
                self._as_written(group, meter)
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            log.debug("steps are not recorded: the losses of this network ask the device for values")
            self._recordable = False
            self._state.optimizer.zero_grad()
            self._as_written(group, meter)

    def _record(self, batch: Batch) -> Replayed | None:
        """The work of a step from here on; None where it would keep too much of the device's memory."""
        device, state = self._setup.accelerator.device, self._state
        if torch.cuda.max_memory_allocated(device) > MEMORY_FRACTION * torch.cuda.get_device_properties(device).total_memory:
            self._recordable = False
            return None
        *rates, share = self._schedule.unbind()
        read_rates_from(state.optimizer, rates)

        def work(*pixels: Tensor) -> Tensor:
            with autocast(device, self._setup.precision):
                losses = self._model(_with_pixels(batch, pixels))
            self._names = list(losses)
            values = _in_float32(losses)
            values.sum().backward()
            norm = self._change_weights()
            if state.average is not None:
                state.average.follow(self._task, share)
            return torch.cat([values.detach(), norm.detach().float()[None]])

        try:
            return Replayed(work, _pixels(batch))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            remedy = "set train.compile: off, with which each kernel is launched by itself"
            raise TrainingError(f"a step of this network cannot be recorded as a CUDA graph ({first_line(error)}); {remedy}") from error

    def _replay(self, batch: Batch, recorded: Replayed, meter: LossMeter) -> None:
        average, groups = self._state.average, self._state.optimizer.param_groups
        schedule = [*(group["rate"] for group in groups), 0.0 if average is None else average.next_share()]
        self._schedule.copy_(torch.tensor(schedule).pin_memory(), non_blocking=True)
        numbers = recorded(*_pixels(batch)).clone()
        meter.add_losses(self._names, numbers[:-1], batch.cases)
        meter.end_step(numbers[-1])


def why_not_recorded(setup: Setup, task: Task) -> str:
    """Why the steps of a run are taken as written, or "" where one is to be recorded."""
    config, accelerator = setup.config, setup.accelerator
    if accelerator.device.type != "cuda":
        return "only a GPU records work"
    if config.train.compile == "off":
        return "train.compile is off"
    if not (task.reads_pixels_alone and task.network.compilable):
        return "what is computed depends on more than pixels"
    if config.data.crop is None:
        return "whole images (data.crop: null) have many sizes"
    if not steps_are_alike(setup):
        return "steps differ (train.unfreeze_at, train.accumulate), or several processes exchange gradients"
    if config.train.optimizer != "adamw":
        return "the rate of this optimiser is a number of the host"
    return ""


def steps_are_alike(setup: Setup) -> bool:
    """Whether each step computes the same gradients from nothing: recorded ones are overwritten, so that none can be kept from batch to
    batch, or exchanged with other processes."""
    train = setup.config.train
    return train.accumulate == 1 and train.unfreeze_at is None and setup.accelerator.num_processes == 1


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """Inside, torch raises RuntimeError for what would wait for a GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype, and may miss something
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _pixels(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the losses of a batch of crops read."""
    assert batch.masks is not None
    return stack(batch.images), stack(batch.valid), batch.masks


def _with_pixels(batch: Batch, pixels: Sequence[Tensor]) -> Batch:
    images, valid, masks = pixels
    return replace(batch, images=cast("Sequence[Tensor]", images), valid=cast("Sequence[Tensor]", valid), masks=masks)


def _in_float32(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()])
