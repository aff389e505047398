"""One training run from a config to a bundle: card, cases, split, guard, store, task, loop, thresholds, bundle, record."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import gc
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.atomic import write_text
from pipeline.bundles.bundle import build_task
from pipeline.bundles.leakage import INHERITED
from pipeline.config import RunConfig
from pipeline.datasets.sharing import ALONE, Team
from pipeline.errors import ConfigError
from pipeline.models.base import Network, memory_format, to_channels_last
from pipeline.models.detector import DetectorConfig
from pipeline.models.precision import allow_tf32, choose_precision
from pipeline.models.weights import Loaded
from pipeline.tasks.base import Task
from pipeline.tracking.provenance import environment
from pipeline.tracking.record import RecordedInputs, table_texts, with_card
from pipeline.tracking.tracker import open_tracker
from pipeline.training.checkpoint import Progress, State, newest
from pipeline.training.clock import Interrupt
from pipeline.training.compiling import compile_network, record_dense_parts, why_not_compiled
from pipeline.training.finish import conclude
from pipeline.training.loop import fit, steps_per_epoch
from pipeline.training.optimise import AveragedWeights, make_optimizer
from pipeline.training.platform import channels_last_suits, choose_device, enough_memory, fast_convolutions, prepare_machine
from pipeline.training.result import TrainingResult
from pipeline.training.run_folder import PLAN, Data, open_run_dir, prepare_data, record_run, without_names
from pipeline.training.setup import Setup
from pipeline.training.steps import steps_are_alike, why_not_recorded
from pipeline.training.transfer import GradualUnfreezing, check_source, inherited_images, load_weights, rate_factors
from pipeline.types import ProgressCallback, no_progress

log = logging.getLogger(__name__)

TRAINING_REMEDY = "lower train.batch_size or data.crop (of volumes data.slices), or set task.tile (task.tile_slices)"
LONGEST_WAIT = datetime.timedelta(hours=12)  # of one process for another, such as for the first to write the bundle


def new_run_dir(out: Path, name: str) -> Path:
    """A folder of its own for a run: ``out``/NAME-DATE-TIME, made here so that nobody else takes it.

    Of several processes (torchrun) only the first makes one, which :func:`train` passes on to the others.
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
    texts: Mapping[str, str] | None = None,
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
    texts: what a new run keeps beside its config, by file name: plan.yaml (as planned, reasons included), finetune.json.

    Raises
    ------
    ConfigError, CardError, LeakError: what was asked for cannot be done.
    TrainingError: a loss that is not finite, a case that cannot be loaded, a full disk, too little GPU memory.
    InterruptedRun: SIGTERM or Ctrl-C; resume goes on from that step.
    """
    began = time.monotonic()
    chosen = prepare_machine(choose_device(device))
    precision = choose_precision(config.train.precision, chosen)
    allow_tf32(chosen)
    accelerator = make_accelerator(config, chosen)
    main = accelerator.is_main_process
    run_dir = broadcast_run_dir(accelerator, run_dir)
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
        data = prepare_data(config, root, run_dir, key_path, given, advance, team_of(accelerator))
        if given is not None:
            given.look(data.manifest)
        # What comes from the data (anchors) belongs to the bundle; the run's own config stays as it was asked for.
        config = with_fitted_anchors(with_card(config, data.card.name), data)
        task, loaded = make_task(config, data, accelerator.device, new)
        task.precision = precision  # in which validation predicts, too
        state = make_state(config, task)
        unfreezing = GradualUnfreezing(task.network, config.train.unfreeze_at)
        # From here on each process draws random numbers of its own (dropout); all began with the same weights.
        torch.manual_seed(config.seed * 1_000_003 + accelerator.process_index)
        about = environment(str(accelerator.device), plugins)
        if main:
            if loaded is not None:
                write_text(run_dir / "encoder_weights.csv", table_texts("encoder_weights", loaded.rows())["encoder_weights.csv"])
                if (inherited := inherited_images(config)) is not None:
                    write_text(run_dir / INHERITED, json.dumps(inherited, indent=1))
            for name, text in (texts or {}).items():
                write_text(run_dir / name, text)
            record_run(run_dir, data, about)
        accelerator.wait_for_everyone()
        with open_tracker(config, run_dir, active=main, resume=resume) as tracker:
            setup = Setup(config, data.store, data.split, run_dir, accelerator, precision, tracker, advance, interrupt, unfreezing)
            start_record(setup, data, task, about, loaded, given, tags or {})
            prepare_network(setup, task)
            model = accelerator.prepare_model(task)
            start_up = time.monotonic() - began
            try:
                fit(setup, model, task, state)
            finally:
                data.store.feeds.clear()  # loader processes, their copy of the cases, what lies on the GPU
            result = conclude(setup, data, task, state, start_up)
        accelerator.wait_for_everyone()
    return result


def broadcast_run_dir(accelerator: Any, run_dir: Path) -> Path:
    """The run folder of the first process, which alone has made one (:func:`new_run_dir`), in every process."""
    if accelerator.num_processes == 1:
        return run_dir
    from accelerate.utils import broadcast_object_list

    folder: Path = broadcast_object_list([run_dir])[0]
    return folder


def team_of(accelerator: Any) -> Team:
    """The processes that read the data set together."""
    if accelerator.num_processes == 1:
        return ALONE
    from accelerate.utils import gather_object

    return Team(accelerator.process_index, accelerator.num_processes, gather_object)


def make_task(config: RunConfig, data: Data, device: torch.device, new: bool) -> tuple[Task, Loaded | None]:
    """The task with its network on ``device``, and what a ``new`` run has loaded into it."""
    torch.manual_seed(config.seed)
    task = build_task(config, data.store.channels, data.card.label_map)
    if config.train.batch_size < (least := task.network.min_batch_size):
        raise ConfigError(f"train.batch_size: {config.model.name} is trained on batches of at least {least}")  # type: ignore[attr-defined]
    loaded = load_weights(task, config) if new else None
    task.to(device)
    if config.train.channels_last and channels_last_suits(task, device.type):
        to_channels_last(task)
    return task, loaded


def make_state(config: RunConfig, task: Task) -> State:
    """What the training will change, at its beginning."""
    optimizer = make_optimizer(task, config.train, rate_factors(task.network, config.train))
    return State(Progress(), task, optimizer, None if config.train.ema is None else AveragedWeights(task, config.train.ema))


def start_record(
    setup: Setup,
    data: Data,
    task: Task,
    about: Mapping[str, Any],
    loaded: Loaded | None,
    given: RecordedInputs | None,
    tags: Mapping[str, str],
) -> None:
    """Tell the tracker what the run is made of."""
    parameters: dict[str, Any] = {
        "parameters": sum(p.numel() for p in task.parameters()),
        "processes": setup.accelerator.num_processes,
    }
    if data.split.unreadable:
        parameters["unreadable_cases"] = len(data.split.unreadable)
    if loaded is not None:
        parameters |= {"weights_file": loaded.file, "weights_sha256": loaded.sha256, "weights_loaded": len(loaded.loaded)}
    setup.tracker.start(
        card_name=data.card.name,
        card_text=data.text,
        split=data.split.to_json(),
        manifest=data.manifest,
        environment=about,
        extra=parameters,
        repeats=None if given is None else given.repeats,
    )
    if (plan := setup.run_dir / PLAN).is_file():
        setup.tracker.files("", {PLAN: plan})
    if loaded is not None:
        setup.tracker.table("encoder_weights", loaded.rows())
    if tags:
        setup.tracker.tags(tags)


def prepare_network(setup: Setup, task: Task) -> None:
    """Compile the network, where ``train.compile`` asks for it or it pays, or record its dense parts, and each only where that works."""
    config, accelerator, network = setup.config, setup.accelerator, task.network
    task.train()
    if config.train.compile == "auto" and not why_not_recorded(setup, task):
        return  # nothing is left that a compiler would save
    if (why := why_not_compiled(config, network, accelerator.device.type, steps_per_epoch(setup) * config.train.epochs)) == "":
        assert config.data.crop is not None
        with fast_convolutions(one_size=True):
            compile_network(network, blank_images(setup, network, config.data.crop), setup.precision)
        return
    asked = config.train.compile == "on"
    log.log(logging.WARNING if asked else logging.DEBUG, "train.compile: the network is not compiled, because %s", why)
    rows, columns = config.data.crop or config.data.normalise.working_size or (0, 0)
    on_gpu = accelerator.device.type == "cuda" and config.train.compile != "off"
    if network.dense_parts and on_gpu and rows and steps_are_alike(setup):
        assert isinstance(network.multiple, int)
        size = (-(-rows // network.multiple) * network.multiple, -(-columns // network.multiple) * network.multiple)
        record_dense_parts(network, blank_images(setup, network, size), setup.precision)


def blank_images(setup: Setup, network: Network, size: tuple[int, int]) -> torch.Tensor:
    """A batch as training has them."""
    config = setup.config
    shape = (config.train.batch_size, setup.store.channels, *([config.data.slices] if config.data.slices else []), *size)
    return torch.zeros(shape, device=setup.accelerator.device).contiguous(memory_format=memory_format(network))


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

    # Parts of a detector that look at objects get no gradient from a batch without any; nor do frozen stages.
    unused = config.task.need == "objects" or config.train.unfreeze_at is not None  # type: ignore[attr-defined]
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
