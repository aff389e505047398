"""The training loop: one for every task family, plain and in one place.

An epoch is a function of the weights, the optimiser's state and the random state at its start: the sample stream depends on (seed,
epoch, position) alone. So a run that was killed goes on from its newest checkpoint and, on a CPU, ends with the same weights to
the bit as one that was not. (Not with a time budget, ``train.minutes``: its schedule follows the clock.)
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.atomic import write_text
from pipeline.config import RunConfig, TrainConfig
from pipeline.datasets.loader import CaseStore, TrainingLoader
from pipeline.datasets.splits import Split
from pipeline.errors import InterruptedRun, TrainingError
from pipeline.models.precision import Precision, autocast
from pipeline.tasks.base import Task
from pipeline.tracking.tracker import Tracker
from pipeline.training.checkpoint import Progress, State, load_checkpoint, newest, random_state, save_checkpoint
from pipeline.training.interrupt import Interrupt
from pipeline.training.optimise import average_buffers, learning_rate, run_share, set_rate
from pipeline.training.transfer import GradualUnfreezing
from pipeline.training.validation import Scored, score_images, summary
from pipeline.types import Batch, ProgressCallback

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a run works with. ``accelerator`` is accelerate.Accelerator: device and processes."""

    config: RunConfig
    store: CaseStore
    split: Split
    run_dir: Path
    accelerator: Any
    precision: Precision
    tracker: Tracker
    advance: ProgressCallback
    interrupt: Interrupt
    thaw: GradualUnfreezing

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"


def fit(setup: Setup, model: Callable[[Batch], dict[str, Tensor]], task: Task, state: State) -> None:
    """Train until the epochs, the time or the patience are used up; ``state`` holds the result.

    Parameters
    ----------
    model: ``task`` as Accelerate prepared it (DistributedDataParallel); calling it gives the named losses.
    state: the state to begin with; a checkpoint in the run's folder, where there is one, goes before it.

    Raises
    ------
    InterruptedRun: SIGTERM or Ctrl-C; a checkpoint of that very step is saved.
    TrainingError: a loss or gradient that is not finite, with its parts and the cases; a case that cannot be loaded.
    """
    config, train, accelerator, progress = setup.config, setup.config.train, setup.accelerator, state.progress
    rank, world = accelerator.process_index, accelerator.num_processes
    found = newest(setup.checkpoints)
    if found is not None:
        load_checkpoint(found, state, rank)
        # Settings may have changed: what had come to its end goes on where there is more to do now.
        progress.finished = progress.finished and bool(stop_reason(progress, train))
        log.info("resuming after %d epochs and %d batches", progress.epoch, progress.batch)
    if accelerator.is_main_process:
        cut_history(setup.run_dir / "history.jsonl", progress.epoch)
    began = time.monotonic() - progress.seconds
    seconds = progress.seconds

    while progress.epoch < train.epochs and not progress.finished:
        batches = TrainingLoader(
            setup.store, setup.split.train, config.data, train.batch_size, config.seed, progress.epoch, rank, world, accelerator.device
        )
        epoch_began, first_batch = time.monotonic(), progress.batch
        task.train()
        # Each group of `accumulate` batches is one step of the optimiser.
        for group in grouped(itertools.islice(batches, progress.batch, None), train.accumulate):
            seconds, stop = sync_time_and_stop(accelerator, time.monotonic() - began, setup.interrupt.asked)
            share = run_share((progress.epoch + progress.batch / len(batches)) / train.epochs, seconds, train.minutes)
            if stop or share >= 1:
                break
            set_rate(state.optimizer, learning_rate(share, train))
            setup.thaw.apply(share)
            for number, batch in enumerate(group, start=1):
                # Processes exchange gradients once a step, at its last batch.
                with contextlib.nullcontext() if number == len(group) else accelerator.no_sync(model):
                    with autocast(accelerator.device, setup.precision):
                        losses = model(batch.to(accelerator.device))
                    add_losses(progress.running, losses, batch, progress.epoch)
                    accelerator.backward(torch.stack(list(losses.values())).sum() / len(group))
            norm = torch.nn.utils.clip_grad_norm_(task.parameters(), train.clip_norm or math.inf)
            if not math.isfinite(norm.item()):
                raise TrainingError(f"the gradient is not finite in epoch {progress.epoch + 1} on cases {names(group)}; {REMEDY}")
            progress.running["gradient_norm"] = progress.running.get("gradient_norm", 0.0) + norm.item() * len(group)
            state.optimizer.step()
            state.optimizer.zero_grad()
            if state.average is not None:
                state.average.update(task)
            progress.batch += len(group)
            progress.step += 1
            done = progress.epoch * len(batches) + progress.batch
            # Where the time is used up first, it decides how many there will be.
            expected = round(done / run_share(done / (train.epochs * len(batches)), seconds, train.minutes))
            setup.advance(done, max(done, expected), note(progress, task.headline))
        else:
            seconds, stop = sync_time_and_stop(accelerator, time.monotonic() - began, setup.interrupt.asked)
        progress.seconds = seconds
        average_buffers(task)
        if state.average is not None:
            average_buffers(state.average.network)
        if stop:
            checkpoint_all_ranks(setup, state)
            raise interrupted(setup)

        spent = time.monotonic() - epoch_began
        images = (progress.batch - first_batch) * train.batch_size * (config.data.slices or 1) * world  # slices of a volume are images
        metrics = {name: total / max(progress.batch, 1) for name, total in progress.running.items()}
        metrics = {f"train/{name}": value for name, value in metrics.items()}
        metrics |= {"learning_rate": state.optimizer.param_groups[0]["lr"], "train/seconds": spent, "images_per_second": images / spent}
        share = run_share((progress.epoch + 1) / train.epochs, seconds, train.minutes)
        last = share >= 1
        if last or (progress.epoch + 1) % train.validate_every == 0:
            try:
                metrics |= validate(setup, task, state)
            except InterruptedRun:
                checkpoint_all_ranks(setup, state)
                raise
        progress.epoch, progress.batch, progress.running = progress.epoch + 1, 0, {}
        progress.seconds = sync_time_and_stop(accelerator, time.monotonic() - began, False)[0]
        progress.finished = last or bool(stop_reason(progress, train))
        if accelerator.is_main_process:
            append_history(setup.run_dir / "history.jsonl", progress.epoch, metrics)
        # Before the checkpoint: what an earlier process has recorded of a repeated epoch is left out, what it has not is not lost.
        setup.tracker.epoch(progress.epoch, metrics)
        checkpoint_all_ranks(setup, state)


def steps_per_epoch(setup: Setup) -> int:
    """Steps of the optimiser in an epoch of a process."""
    config, accelerator = setup.config, setup.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = TrainingLoader(setup.store, setup.split.train, config.data, config.train.batch_size, config.seed, 0, rank, world)
    return math.ceil(len(batches) / config.train.accumulate)


def interrupted(setup: Setup) -> InterruptedRun:
    """What to raise when the run was asked to stop, once its state is saved."""
    command = f"ocuseg train --resume {shlex.quote(str(setup.run_dir))} --root FOLDER"
    return InterruptedRun(f"interrupted; everything is saved; go on with: {command}")


REMEDY = "lower train.learning_rate, set train.clip_norm, or look at these cases"


def stop_reason(progress: Progress, train: TrainConfig) -> str:
    """Why a run that has come to the end of an epoch is over, or "" where it goes on."""
    if progress.epoch >= train.epochs:
        return f"all of train.epochs ({train.epochs}) are done"
    if train.minutes is not None and progress.seconds >= 60 * train.minutes:
        return f"all of train.minutes ({train.minutes:g}) have passed"
    if train.patience is not None and progress.stale >= train.patience:
        return f"as many validations as train.patience ({train.patience}) were no better than the best"
    return ""


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def sync_time_and_stop(accelerator: Any, seconds: float, stop: bool) -> tuple[float, bool]:
    """The longest time and whether anyone was asked to stop, over all processes: they must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return seconds, stop
    both = torch.tensor([seconds, float(stop)], dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
    longest, asked = both.tolist()
    return longest, bool(asked)


def add_losses(running: dict[str, float], losses: dict[str, Tensor], batch: Batch, epoch: int) -> None:
    """Add a batch's losses to the epoch's sums, and stop at the first that is not finite."""
    values = dict(zip(losses, torch.stack(list(losses.values())).detach().tolist(), strict=True))
    if not all(math.isfinite(value) for value in values.values()):
        parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise TrainingError(f"the loss is not finite in epoch {epoch + 1} ({parts}) on cases {names([batch])}; {REMEDY}")
    for name, value in values.items():
        running[f"loss/{name}"] = running.get(f"loss/{name}", 0.0) + value
    running["loss"] = running.get("loss", 0.0) + sum(values.values())


def names(batches: Iterable[Batch]) -> str:
    return ", ".join(sorted({str(case) for batch in batches for case in batch.cases}))


def note(progress: Progress, headline: str) -> str:
    best = "" if progress.best is None else f", best {headline} {progress.best:.4f}"
    return f"epoch {progress.epoch + 1}, loss {progress.running['loss'] / max(progress.batch, 1):.3f}{best}"


def validate(setup: Setup, task: Task, state: State) -> dict[str, float]:
    """Score the validation cases (shared out among the processes) and checkpoint_all_ranks the weights when they are the best so far."""
    if not setup.split.validation:
        state.best_weights = None  # nothing to choose by: the last weights are the result
        return {}
    accelerator, progress = setup.accelerator, state.progress
    scored_task = task if state.average is None else averaged_task(state)
    began = time.monotonic()
    mine = setup.split.validation[accelerator.process_index :: accelerator.num_processes]
    stop, losses = (lambda: raise_if_interrupted(setup)), setup.config.train.validation_loss
    scored = gather(accelerator, score_images(scored_task, setup.store, mine, accelerator.device, stop, losses=losses))
    metrics = {f"validation/{name}": value for name, value in summary(task, scored).items()}
    metrics["validation/seconds"] = time.monotonic() - began
    score = metrics[f"validation/{task.headline}"]
    if progress.best is None or score > progress.best:
        progress.best, progress.best_epoch, progress.stale = score, progress.epoch + 1, 0
        state.best_weights = {name: value.detach().cpu().clone() for name, value in scored_task.state_dict().items()}
    else:
        progress.stale += 1
    return metrics


def raise_if_interrupted(setup: Setup) -> None:
    """Leave a long validation early; several processes only stop between steps, where all of them do."""
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


def checkpoint_all_ranks(setup: Setup, state: State) -> None:
    """Save a checkpoint; returns when it is complete in the eyes of every process."""
    states = [random_state()]
    if setup.accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        states = gather_object(states)
    if setup.accelerator.is_main_process:
        save_checkpoint(setup.checkpoints, state, states)
    setup.accelerator.wait_for_everyone()


def append_history(path: Path, epoch: int, metrics: dict[str, float]) -> None:
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
