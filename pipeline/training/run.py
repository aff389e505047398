"""One training run from a config to a bundle: card, cases, split, guard, store, task, loop, thresholds, bundle, record."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import gc
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.atomic import write_text
from pipeline.bundles.bundle import build_task, save_bundle
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.models.base import to_channels_last
from pipeline.models.detector import DetectorConfig
from pipeline.models.precision import allow_tf32, choose_precision
from pipeline.tasks.base import Task
from pipeline.tasks.pixels import presence_sentences
from pipeline.tracking.provenance import environment
from pipeline.tracking.record import RecordedInputs, table_texts, with_card
from pipeline.tracking.tracker import Delivery, open_tracker
from pipeline.training.checkpoint import Progress, State, newest
from pipeline.training.interrupt import Interrupt
from pipeline.training.loop import Setup, fit, raise_if_interrupted, steps_per_epoch, stop_reason
from pipeline.training.optimise import AveragedWeights, make_optimizer
from pipeline.training.platform import channels_last_is_safe, enough_memory, prepare_machine
from pipeline.training.run_folder import Data, earlier_result, open_run_dir, prepare_data, record_result, record_run, without_names
from pipeline.training.timing import TimeSpent, validation_seconds
from pipeline.training.transfer import GradualUnfreezing, check_source, load_weights, rate_factors
from pipeline.training.validation import Predictions, overlay_picture, score_image, summary
from pipeline.types import ProgressCallback, no_progress

log = logging.getLogger(__name__)

TRAINING_REMEDY = "lower train.batch_size or data.crop (of volumes data.slices), or set task.tile (task.tile_slices)"
LONGEST_WAIT = datetime.timedelta(hours=12)  # of one process for another, such as for the first to write the bundle
EXAMPLES = 4  # validation cases of which a picture (of a volume, the middle slice) goes into the record


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves. ``metrics`` are of the bundle, on the validation cases (``validation/dice``)."""

    run_dir: Path
    bundle: Path
    bundle_id: str
    metrics: Mapping[str, float]
    mlflow_run_id: str | None
    message: str | None = None
    time: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run_dir),
            "bundle": str(self.bundle),
            "bundle_id": self.bundle_id,
            "metrics": dict(self.metrics),
            "mlflow_run_id": self.mlflow_run_id,
            "message": self.message,
            "time": self.time,
        }

    def lines(self) -> list[str]:
        """For a person; nothing in the other processes of a distributed run."""
        if not self.bundle_id:
            return []
        asked = ("validation/dice", "validation/ap50", "validation/mask_ap50")
        found = [f"{name.removeprefix('validation/')} {value:.4f}" for name, value in self.metrics.items() if name.startswith(asked)]
        return [
            f"validation: {', '.join(found)}" if found else "no validation cases: nothing is known of its quality",
            f"bundle {self.bundle_id}: {self.bundle}",
            *(f"warning: validation: {sentence}" for sentence in presence_sentences(self.metrics, "validation/")),
            *filter(None, (self.time, self.message)),
        ]


def new_run_dir(out: Path, name: str) -> Path:
    """A folder of its own for a run: ``out``/NAME-DATE-TIME, made here so that nobody else takes it.

    Of several processes (torchrun) only the first makes one; :func:`train` tells the others which.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return out / name
    stamp = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = out / (stamp if number == 1 else f"{stamp}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as error:
        raise ConfigError(f"{str(out)!r}: no run folder can be made in it ({error.strerror}); give another --out") from error
    raise ConfigError(f"{str(out)!r}: is full of runs called {stamp}")


def train(
    config: RunConfig,
    root: Path,
    run_dir: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    key_path: Path | None = None,
    progress: ProgressCallback | None = None,
    given: RecordedInputs | None = None,
    plugins: Sequence[Path] = (),
    tags: Mapping[str, str] | None = None,
) -> TrainingResult:
    """Train as ``config`` says on the data set below ``root``, and leave everything in ``run_dir``.

    Parameters
    ----------
    run_dir: an empty or new folder, or with ``resume`` that of an earlier run, which goes on from its newest checkpoint. Several
        machines must share it.
    device: auto, cpu or cuda; under torchrun or `accelerate launch` each process takes its own GPU.
    key_path: the site key for pseudonyms of private data; None: the site's own.
    progress: called as ``progress(done, total, note)`` after each step.
    given: the card and the split of a recorded run, which is to be repeated (training/repeat.py).
    plugins: files of code that the caller has loaded; their hashes are recorded.
    tags: further tags of the MLflow run, such as its parent's id.

    Raises
    ------
    ConfigError, CardError, LeakError: what was asked for cannot be done.
    TrainingError: a loss that is not finite, a case that cannot be loaded, a full disk, too little GPU memory.
    InterruptedRun: SIGTERM or Ctrl-C; resume goes on from that step.
    """
    began = time.monotonic()
    chosen = prepare_machine(device)
    precision = choose_precision(config.train.precision, chosen)
    allow_tf32(chosen)
    accelerator = make_accelerator(config, chosen)
    main = accelerator.is_main_process
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        run_dir = broadcast_object_list([run_dir])[0]
    advance = progress if progress is not None and main else no_progress
    config = without_names(config, run_dir, key_path, given)
    with (
        Interrupt() as interrupt,
        open_run_dir(run_dir, config, resume) if main else contextlib.nullcontext(),
        enough_memory(TRAINING_REMEDY),
    ):
        accelerator.wait_for_everyone()
        new = newest(run_dir / "checkpoints") is None  # a run that goes on has its weights in its checkpoint
        if new:
            check_source(config)  # before the data are read, which takes a while
        data = prepare_data(config, root, run_dir, key_path, given, advance)
        card, store = data.card, data.store
        if given is not None:
            given.look(data.manifest)
        # What comes from the data (anchors) belongs to the bundle; the run's own config stays as it was asked for.
        config = with_fitted_anchors(with_card(config, card.name), data)
        torch.manual_seed(config.seed)
        task = build_task(config, store.channels, card.label_map)
        if config.train.batch_size < (least := task.network.min_batch_size):
            raise ConfigError(f"train.batch_size: {config.model.name} is trained on batches of at least {least}")  # type: ignore[attr-defined]
        loaded = load_weights(task, config) if new else None
        task.to(accelerator.device)
        if config.train.channels_last and channels_last_is_safe(task, accelerator.device.type):
            to_channels_last(task)
        state = State(Progress(), task, make_optimizer(task, config.train, rate_factors(task.network, config.train)))
        thaw = GradualUnfreezing(task.network, config.train.unfreeze_at)
        if config.train.ema is not None:
            state.average = AveragedWeights(task, config.train.ema)
        # From here on each process draws random numbers of its own (dropout); all began with the same weights.
        torch.manual_seed(config.seed * 1_000_003 + accelerator.process_index)
        if config.train.compile:
            task.compile()
        model = accelerator.prepare_model(task)
        about = environment(str(accelerator.device), plugins)
        if main:
            if loaded is not None:
                write_text(run_dir / "encoder_weights.csv", table_texts("encoder_weights", loaded.rows())["encoder_weights.csv"])
            record_run(run_dir, data, about)
        accelerator.wait_for_everyone()
        with open_tracker(config, run_dir, active=main, resume=resume) as tracker:
            parameters = {"parameters": sum(p.numel() for p in task.parameters()), "processes": accelerator.num_processes}
            if data.split.unreadable:
                parameters["unreadable_cases"] = len(data.split.unreadable)
            if loaded is not None:
                parameters |= {"weights_file": loaded.file, "weights_sha256": loaded.sha256, "weights_loaded": len(loaded.loaded)}
            tracker.start(
                card_name=card.name,
                card_text=data.text,
                split=data.split.to_json(),
                manifest=data.manifest,
                environment=about,
                extra=parameters,
                repeats=None if given is None else given.repeats,
            )
            if loaded is not None:
                tracker.table("encoder_weights", loaded.rows())
            if tags:
                tracker.tags(tags)
            setup = Setup(config, store, data.split, run_dir, accelerator, precision, tracker, advance, interrupt, thaw)
            start_up = time.monotonic() - began
            fit(setup, model, task, state)
            fitted_by = time.monotonic()
            bundle, metrics, delivery = run_dir / "bundle", {}, Delivery(0, 0, None)
            identity, message, spent_line = "", None, ""
            earlier = earlier_result(run_dir, state.progress.step) if main else None
            if earlier is not None:
                message = f"nothing was left to train: {stop_reason(state.progress, config.train)}; the bundle is the one that was there"
                identity, metrics = earlier.id, dict(earlier.metrics)
                delivery = tracker.finish("FINISHED")
            elif main:
                use_best(task, state)
                metrics = finish(setup, task, state)
                spent = time_spent(setup, state.progress, start_up, time.monotonic() - fitted_by)
                spent_line = spent.line()
                tracker.numbers(spent.metrics())
                if shortfall := spent.shortfall(config.train):
                    log.warning(shortfall)
                identity = save_bundle(
                    bundle,
                    task=task,
                    config=config,
                    label_map=card.label_map,
                    card_sha256=card.sha256,
                    metrics=metrics,
                    thresholds=task.thresholds,
                    input_channels=store.channels,
                    modality=card.modality,
                    spacing_mm=data.spacing_mm,
                    trained_on={name: (run_dir / name).read_text(encoding="utf-8") for name in ("split.json", "manifest.json")},
                )
                tracker.bundle(bundle, metrics)
                record_result(run_dir, state.progress.step, identity)
                delivery = tracker.finish("FINISHED")
        accelerator.wait_for_everyone()
    message = ". ".join(filter(None, (message, delivery.message))) or None
    return TrainingResult(run_dir, bundle, identity, metrics, delivery.run_id, message, spent_line)


def time_spent(setup: Setup, progress: Progress, start_up_s: float, final_s: float) -> TimeSpent:
    """Where the time of a run went that has just been finished."""
    validation_s = validation_seconds(setup.run_dir / "history.jsonl")
    return TimeSpent(start_up_s, progress.seconds, validation_s, final_s, progress.step, steps_per_epoch(setup))


def with_fitted_anchors(config: RunConfig, data: Data) -> RunConfig:
    """The config with everything in it that a detector takes from its training boxes."""
    if not isinstance(config.model, DetectorConfig):
        return config
    return config.model_copy(update={"model": config.model.with_fitted_anchors(data.store.box_sizes(data.split.train))})


def make_accelerator(config: RunConfig, device: str) -> Any:
    """Accelerate's device and processes (torchrun and `accelerate launch` say how many by the environment)."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    # A batch without any object leaves the parts of a detector without gradient that look at objects; so is what has yet to thaw.
    unused = config.task.family == "detection" or config.train.unfreeze_at is not None  # type: ignore[attr-defined]
    AcceleratorState._reset_state()  # one program may train several times, each with a precision of its own
    # Threads of a process group that still wait for others when the interpreter ends would abort it.
    atexit.unregister(leave_group)
    atexit.register(leave_group)
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",  # the loop's own autocast, which validation and prediction share (models/precision.py)
        # Statistics of BatchNorm are averaged at an epoch's end (optimise.average_buffers) instead of taken from the first process.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        ],
    )


def leave_group() -> None:
    """Leave torch.distributed, and wait for its threads.

    A thread of the group that asks for the interpreter while that ends would abort the process. They are joined when the group goes,
    which trained models, in circles of references, may still hold.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()
        gc.collect()


def use_best(task: Task, state: State) -> None:
    """Give the task the weights of the best validation, or the last ones (averaged, if so configured) without any."""
    if state.best_weights is not None:
        task.load_state_dict(state.best_weights)
    elif state.average is not None:
        task.load_state_dict(state.average.network.state_dict())


def finish(setup: Setup, task: Task, state: State) -> dict[str, float]:
    """Thresholds, a table of the validation images, curves and example pictures; gives the bundle's metrics."""
    keys, device = setup.split.validation, setup.accelerator.device
    if not keys:
        return {}

    found = Predictions(task, setup.store, keys, device)

    def labelled() -> Any:
        for _, parts in found:
            raise_if_interrupted(setup)
            yield parts

    task.thresholds = task.tune(labelled)
    examples = {(indices := setup.store.indices([key]))[len(indices) // 2] for key in keys[:EXAMPLES]}
    scored = []
    for index, parts in found:
        raise_if_interrupted(setup)
        scored.append(score_image(task, setup.store, index, parts))
        picture = overlay_picture(setup.store, index, task, parts[0]) if index in examples else None
        if picture is not None:
            setup.tracker.picture(f"validation_{setup.store.case_of(index)}", picture)
    setup.tracker.table("validation_per_image", [image.row() for image in scored])
    for name, figure in task.figures([image.evidence for image in scored]).items():
        setup.tracker.picture(f"validation_{name}", figure)
    numbers = summary(task, scored)
    log.info("best epoch %d; validation %s %.4f", state.progress.best_epoch, task.headline, numbers[task.headline])
    return {f"validation/{name}": value for name, value in numbers.items()}
