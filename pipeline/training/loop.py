"""The training loop: one for every task family, plain and in one place.

An epoch is a function of the weights, the optimiser's state and the random state at its start: the sample stream depends on (seed,
epoch, position) alone. So a run that was killed goes on from its newest checkpoint and, on a CPU, ends with the same weights to
the bit as one that was not. (Not with a time limit, ``train.minutes``, whose schedule follows the clock; and where validations follow it,
``train.validate_every: {minutes: ...}``, another epoch may be the best.)
"""

from __future__ import annotations

import itertools
import logging
import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.datasets.loader import TrainingLoader
from pipeline.errors import InterruptedRun
from pipeline.tasks.base import Task
from pipeline.training.checkpoint import Progress, State, load_checkpoint, newest
from pipeline.training.clock import Clock
from pipeline.training.compiling import eager, is_long
from pipeline.training.keeper import Keeper, cut_history
from pipeline.training.meter import LossMeter
from pipeline.training.optimise import average_buffers, learning_rate, run_fraction, set_rate
from pipeline.training.platform import fast_convolutions
from pipeline.training.setup import Setup
from pipeline.training.steps import Steps
from pipeline.training.validation import Scored, score_images, summary
from pipeline.types import Batch

log = logging.getLogger(__name__)


def fit(setup: Setup, model: Callable[[Batch], dict[str, Tensor]], task: Task, state: State) -> None:
    """Train until the epochs are done, the time is up or the patience is exhausted; ``state`` holds the result.

    Parameters
    ----------
    model: ``task`` as Accelerate prepared it (DistributedDataParallel); calling it gives the named losses.
    state: the state to begin with; an existing checkpoint in the run's folder overrides it.

    Raises
    ------
    InterruptedRun: SIGTERM or Ctrl-C; a checkpoint of that very step is saved.
    TrainingError: a loss or gradient that is not finite, with its parts and the cases; a case that cannot be loaded.
    """
    progress, train = state.progress, setup.config.train
    resume(setup, state)
    clock = Clock(setup.accelerator, setup.interrupt, progress)
    steps = Steps(setup, model, task, state)
    with Keeper(setup, state) as keeper:
        while progress.epoch < train.epochs and not progress.finished:
            metrics = train_epoch(setup, steps, task, state, clock)
            if clock.stop_requested:
                keeper.checkpoint(wait=True)
                raise interrupted(setup)
            if validation_is_due(progress, train):
                try:
                    metrics |= validate(setup, task, state)
                except InterruptedRun:
                    keeper.checkpoint(wait=True)
                    raise
                clock.sync()
                progress.validated = progress.seconds
            progress.epoch, progress.batch, progress.running = progress.epoch + 1, 0, {}
            progress.finished = bool(stop_reason(progress, train))
            keeper.end_epoch(metrics)


def resume(setup: Setup, state: State) -> None:
    """Continue from the newest checkpoint, where there is one."""
    progress, accelerator = state.progress, setup.accelerator
    found = newest(setup.checkpoints)
    if found is not None:
        load_checkpoint(found, state, accelerator.process_index)
        # Settings may have changed: a finished run continues where there is more to do now.
        progress.finished = progress.finished and bool(stop_reason(progress, setup.config.train))
        log.info("resuming after %d epochs and %d batches", progress.epoch, progress.batch)
    if accelerator.is_main_process:
        cut_history(setup.run_dir / "history.jsonl", progress.epoch)


def train_epoch(setup: Setup, steps: Steps, task: Task, state: State, clock: Clock) -> dict[str, float]:
    """Train the rest of an epoch, or until the time is up or the run is asked to stop; returns its numbers, all of them finite."""
    config, train, progress = setup.config, setup.config.train, state.progress
    batches = epoch_batches(setup, progress.epoch)
    meter, began, first_batch = LossMeter(progress), time.monotonic(), progress.batch
    clock.sync()
    task.train()
    # On an H200 cuDNN took half a minute to try its algorithms on a U-Net with a MobileNetV2 encoder.
    tries_pay = is_long(train, steps_per_epoch(setup) * train.epochs)
    with fast_convolutions(config.data.crop is not None and tries_pay):
        # Each group of `accumulate` batches is one step of the optimiser.
        for group in grouped(batches.batches(progress.batch), train.accumulate):
            done = run_fraction((progress.epoch + progress.batch / len(batches)) / train.epochs, progress.seconds, train.minutes)
            if clock.stop_requested or done >= 1:
                break
            set_rate(state.optimizer, learning_rate(done, train))
            setup.unfreezing.apply(done)
            steps.take(group, meter)
            progress.batch += len(group)
            progress.step += 1
            if due := clock.is_due():
                meter.read()
            show_progress(setup, task, progress, meter, len(batches))
            if due:
                clock.sync()
    meter.read()
    clock.sync()
    average_buffers(task)
    if state.average is not None:
        average_buffers(state.average.network)
    seconds = time.monotonic() - began
    images = (progress.batch - first_batch) * train.batch_size * (config.data.slices or 1) * setup.accelerator.num_processes
    metrics = {f"train/{name}": total / max(progress.batch, 1) for name, total in progress.running.items()}
    first = state.optimizer.param_groups[0]
    rate = first.get("rate", first["lr"])  # as it was where the run was stopped after an epoch's last step
    # Slices of a volume are images.
    return metrics | {"learning_rate": rate, "train/seconds": seconds, "images_per_second": images / seconds}


def show_progress(setup: Setup, task: Task, progress: Progress, meter: LossMeter, batches: int) -> None:
    """Report how many batches are done, and how many to expect: those of all epochs, or as many as the time limit allows."""
    train = setup.config.train
    done = progress.epoch * batches + progress.batch
    expected = round(done / run_fraction(done / (train.epochs * batches), progress.seconds, train.minutes))
    setup.advance(done, max(done, expected), note(progress, meter, task.headline))


def validation_is_due(progress: Progress, train: TrainConfig) -> bool:
    """Whether to validate after the epoch that has just been trained: as configured, and always after the last one."""
    epoch, every = progress.epoch + 1, train.validate_every
    if run_fraction(epoch / train.epochs, progress.seconds, train.minutes) >= 1:
        return True
    if isinstance(every, int):
        return epoch % every == 0
    if isinstance(every, tuple):
        return epoch in every
    return progress.seconds - progress.validated >= 60 * every.minutes


def epoch_batches(setup: Setup, epoch: int) -> TrainingLoader:
    """This process's batches of an epoch."""
    config, accelerator = setup.config, setup.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    return TrainingLoader(
        setup.store, setup.split.train, config.data, config.train.batch_size, config.seed, epoch, rank, world, accelerator.device
    )


def steps_per_epoch(setup: Setup) -> int:
    """Steps of the optimiser in an epoch of a process."""
    return math.ceil(len(epoch_batches(setup, 0)) / setup.config.train.accumulate)


def interrupted(setup: Setup) -> InterruptedRun:
    """What to raise when the run was asked to stop, once its state is saved."""
    command = f"ocuseg train --resume {shlex.quote(str(setup.run_dir))} --root FOLDER"
    return InterruptedRun(f"interrupted; everything is saved; go on with: {command}")


def stop_reason(progress: Progress, train: TrainConfig) -> str:
    """Why a run ends after the epochs that are complete, or "" where it continues."""
    if progress.epoch >= train.epochs:
        return f"all epochs are done (train.epochs: {train.epochs})"
    if train.minutes is not None and progress.seconds >= 60 * train.minutes:
        return f"the time limit is reached (train.minutes: {train.minutes:g})"
    if train.patience is not None and progress.stale >= train.patience:
        return f"the score has stopped improving (train.patience: {train.patience})"
    return ""


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def note(progress: Progress, meter: LossMeter, headline: str) -> str:
    """Where a run is, for a person; the loss is the mean over the batches whose losses have been read."""
    loss = f", loss {progress.running['loss'] / meter.batches:.3f}" if meter.batches else ""
    best = "" if progress.best is None else f", best {headline} {progress.best:.4f}"
    return f"epoch {progress.epoch + 1}{loss}{best}"


def validate(setup: Setup, task: Task, state: State) -> dict[str, float]:
    """Score the validation cases (divided among the processes) and keep the weights when they are the best so far.

    Of equally good epochs the last is kept: where few validation cases are soon all right, training goes on teaching all the same.
    """
    if not setup.split.validation:
        state.best_weights = None  # nothing to choose by: the last weights are the result
        return {}
    accelerator, progress = setup.accelerator, state.progress
    scored_task = task if state.average is None else averaged_task(state)
    began = time.monotonic()
    mine = setup.split.validation[accelerator.process_index :: accelerator.num_processes]
    stop, losses = (lambda: raise_if_interrupted(setup)), setup.config.train.validation_loss
    with eager(task.network):
        scored = gather(accelerator, score_images(scored_task, setup.store, mine, accelerator.device, stop, losses=losses))
    metrics = {f"validation/{name}": value for name, value in summary(task, scored).items()}
    metrics["validation/seconds"] = time.monotonic() - began
    score = metrics[f"validation/{task.headline}"]
    progress.stale = 0 if progress.best is None or score > progress.best else progress.stale + 1
    if progress.best is None or score >= progress.best:
        progress.best, progress.best_epoch = score, progress.epoch + 1
        state.best_weights = {name: value.detach().cpu().clone() for name, value in scored_task.state_dict().items()}
    return metrics


def raise_if_interrupted(setup: Setup) -> None:
    """Leave a long validation early; several processes stop only between steps, where all of them do so together."""
    if setup.interrupt.asked and setup.accelerator.num_processes == 1:
        raise interrupted(setup)


def averaged_task(state: State) -> Task:
    assert state.average is not None
    assert isinstance(state.average.network, Task)
    return state.average.network


def gather(accelerator: Any, scored: list[Scored]) -> list[Scored]:
    """All processes' scores in every process, sorted, so that their mean is the same everywhere and with any number of processes."""
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        scored = gather_object(scored)
    return sorted(scored, key=lambda image: (image.case, image.slice_index))
