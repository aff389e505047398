"""One training run from a config to a bundle: card, cases, split, guard, store, task, loop, thresholds, bundle, record."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config import RunConfig, dump_config, parse_config
from pipeline.datasets.card import CardCase, DataCard, card_folders, load_card, parse_card, read_scan
from pipeline.datasets.loader import CaseStore
from pipeline.datasets.splits import Split, guard, make_split
from pipeline.errors import ConfigError, NothingUsableError
from pipeline.tasks.base import Task
from pipeline.training.atomic import remove_leftovers
from pipeline.training.bundle import build_task, save_bundle
from pipeline.training.checkpoint import Progress, State
from pipeline.training.interrupt import Interrupt
from pipeline.training.loop import Advance, Setup, fit, stop_if_asked
from pipeline.training.optimise import AveragedWeights, make_optimizer
from pipeline.training.platform import channels_last_is_safe, prepare_machine
from pipeline.training.provenance import compare_manifests, environment, text_digest
from pipeline.training.record import Given
from pipeline.training.spool import write_atomic
from pipeline.training.tracking import Delivery, open_tracker
from pipeline.training.validation import overlay_picture, predictions, score_images

log = logging.getLogger(__name__)

EXAMPLES = 4  # overlay pictures of validation images that go into the record


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run leaves. ``metrics`` are of the bundle, on the validation cases (``validation/dice``)."""

    run_dir: Path
    bundle: Path
    bundle_id: str
    metrics: Mapping[str, float]
    mlflow_run_id: str | None
    message: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run_dir),
            "bundle": str(self.bundle),
            "bundle_id": self.bundle_id,
            "metrics": dict(self.metrics),
            "mlflow_run_id": self.mlflow_run_id,
            "message": self.message,
        }

    def lines(self) -> list[str]:
        """For a person; nothing in the other processes of a distributed run."""
        if not self.bundle_id:
            return []
        dice = [f"{name.removeprefix('validation/')} {value:.4f}" for name, value in self.metrics.items() if "/dice" in name]
        return [
            f"validation: {', '.join(dice)}" if dice else "no validation cases: nothing is known of its quality",
            f"bundle {self.bundle_id}: {self.bundle}",
            *([self.message] if self.message else []),
        ]


def new_run_dir(out: Path, name: str) -> Path:
    """A folder of its own for a run: ``out``/NAME-DATE-TIME, made here so that nobody else takes it.

    Of several processes (torchrun) only the first makes one; :func:`train` tells the others which.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return out / name
    stamp = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        path = out / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
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
    progress: Advance | None = None,
    given: Given | None = None,
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

    Raises
    ------
    ConfigError, CardError, LeakError: what was asked for cannot be done.
    TrainingError: a loss that is not finite, a case that cannot be loaded.
    InterruptedRun: SIGTERM or Ctrl-C; resume goes on from that step.
    """
    chosen = prepare_machine(device)
    accelerator = make_accelerator(config, chosen)
    main = accelerator.is_main_process
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        run_dir = broadcast_object_list([run_dir])[0]
    with Interrupt() as interrupt:
        if main:
            claim(run_dir, config, resume)
        accelerator.wait_for_everyone()
        card, text, store, split, spacing_mm = prepare_data(config, root, run_dir, key_path, given)
        if given is not None:
            given.look(store.manifest())
        torch.manual_seed(config.seed)
        task = build_task(config, store.channels, card.label_map)
        task.to(accelerator.device)
        if config.train.channels_last and channels_last_is_safe(task, accelerator.device.type):
            task.to(memory_format=torch.channels_last)
        state = State(Progress(), task, make_optimizer(task, config.train))
        if config.train.ema is not None:
            state.average = AveragedWeights(task, config.train.ema)
        # From here on each process draws random numbers of its own (dropout); all began with the same weights.
        torch.manual_seed(config.seed * 1_000_003 + accelerator.process_index)
        if config.train.compile:
            task.compile()
        model = accelerator.prepare_model(task)
        about = environment(str(accelerator.device))
        if main:
            record_run(run_dir, text, store, split, about)
        accelerator.wait_for_everyone()
        with open_tracker(config, run_dir, active=main, resume=resume) as tracker:
            parameters = {"parameters": sum(p.numel() for p in task.parameters()), "processes": accelerator.num_processes}
            tracker.start(
                card_name=card.name,
                card_text=text,
                split=split.to_json(),
                manifest=store.manifest(),
                environment=about,
                extra=parameters,
                repeats=None if given is None else given.repeats,
            )
            advance = progress if progress is not None and main else silent
            setup = Setup(config, store, split, run_dir, accelerator, tracker, advance, interrupt)
            fit(setup, model, task, state)
            bundle, metrics, delivery = run_dir / "bundle", {}, Delivery(0, 0, None)
            identity = ""
            if main:
                use_best(task, state)
                metrics = finish(setup, task, state)
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
                    spacing_mm=spacing_mm,
                )
                tracker.bundle(bundle, metrics)
                delivery = tracker.finish("FINISHED")
        accelerator.wait_for_everyone()
    return TrainingResult(run_dir, bundle, identity, metrics, delivery.run_id, delivery.message)


def make_accelerator(config: RunConfig, device: str) -> Any:
    """Accelerate's device, precision and processes (torchrun and `accelerate launch` say how many by the environment)."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    wanted = config.train.precision
    bfloat16 = wanted == "bfloat16" or (wanted == "auto" and device == "cuda" and torch.cuda.is_bf16_supported())
    AcceleratorState._reset_state()  # one program may train several times, each with a precision of its own
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if bfloat16 else "no",
        # Statistics of BatchNorm are averaged at an epoch's end (optimise.average_buffers) instead of taken from the first process.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def claim(run_dir: Path, config: RunConfig, resume: bool) -> None:
    """Make the run's folder, or see that it is one to resume, with a config that trains the same thing."""
    record = run_dir / "config.yaml"
    if not resume:
        run_dir.mkdir(parents=True, exist_ok=True)
        if any(run_dir.iterdir()):
            raise ConfigError(f"{run_dir.name}: the run folder is not empty; resume that run, or give a new folder")
        write_atomic(record, dump_config(config))
        return
    if not record.exists():
        raise ConfigError(f"{run_dir.name}: is not the folder of a run (no config.yaml in it); give that folder, or start a new run")
    before = parse_config(record.read_text(encoding="utf-8"), where="config.yaml")
    for part in ("seed", "data", "task", "model"):
        if getattr(before, part) != getattr(config, part):
            raise ConfigError(f"{run_dir.name}: {part} differs from what the run was started with; only train.* may change on resuming")
    remove_leftovers(run_dir)
    remove_leftovers(run_dir / "checkpoints")
    write_atomic(record, dump_config(config))


def prepare_data(
    config: RunConfig, root: Path, run_dir: Path, key_path: Path | None, given: Given | None
) -> tuple[DataCard, str, CaseStore, Split, tuple[float, ...] | None]:
    """Card and its text, decoded cases, guarded split (or the run's own), and the spacing of its images where it is known."""
    frozen = run_dir / "split.json"
    begun = frozen.exists()
    card, text = read_card(config, run_dir, given)
    cases = card.cases(root, pseudonyms=site_pseudonyms(card, key_path))
    fixed = Split.load(frozen) if begun else None if given is None else given.split
    split = make_split(card, cases, config.data.split, config.seed) if fixed is None else fixed
    if not split.train:
        raise NothingUsableError(f"card {card.name}: no case is left to train on; look at data.split and the card's parts")
    used = {key for _, keys in split for key in keys}
    missing = used - {case.key for case in cases}
    if missing:
        raise ConfigError(
            f"{len(missing)} cases of the run's split are not in the data set (the first: {min(missing)}); give the same --root, "
            "and for private data the same --site-key"
        )
    cases = [case for case in cases if case.key in used]
    # Every part is read: the test part for the leakage guard alone.
    store = CaseStore(card, cases, root, config.data.normalise, config.data.cache, run_dir.parent / "cache")
    if begun:
        difference = compare_manifests(json.loads((run_dir / "manifest.json").read_text(encoding="utf-8")), store.manifest())
        if difference:
            raise ConfigError(
                f"{run_dir.name}: the data has changed since the run was started: {difference}; restore it, or start a new run"
            )
    else:
        split = guard(split, store.fingerprints(), store.hashes(), config.data.split.near_duplicates)
    return card, text, store, split, spacing(card, [case for case in cases if case.key in split.train])


def site_pseudonyms(card: DataCard, key_path: Path | None) -> Any:
    """Pseudonyms by the given site key; None (for public data) lets the card decide."""
    if key_path is None or card.identifiers == "public":
        return None
    from pipeline.scans.identity import Pseudonyms

    return Pseudonyms.load_or_create(key_path)


def spacing(card: DataCard, cases: list[CardCase]) -> tuple[float, ...] | None:
    """(rows, columns) in mm of the first training image, for a warning about very different scans later."""
    known = card.spacing_mm or read_scan(card, cases[0]).geometry.spacing_mm
    return None if known is None else tuple(known[-2:])


def read_card(config: RunConfig, run_dir: Path, given: Given | None) -> tuple[DataCard, str]:
    """The card and its whole text: the one that the run was started with, the recorded one, or the one that the config names."""
    own = run_dir / "card.md"
    if own.exists():
        text = own.read_text(encoding="utf-8")
    elif given is not None:
        text = given.card_text
    else:
        card = load_card(config.data.card)
        name = Path(config.data.card)
        places = [name] if name.suffix == ".md" else [folder / f"{name}.md" for folder in card_folders()]
        for path in places:
            if path.is_file() and text_digest(text := path.read_text(encoding="utf-8")) == card.sha256:
                return card, text
        raise ConfigError(f"card {card.name}: changed while the run was starting; start it again")
    return parse_card(text, where="card.md"), text


def record_run(run_dir: Path, text: str, store: CaseStore, split: Split, about: Mapping[str, Any]) -> None:
    """environment.json, card.md, manifest.json and, last, split.json: from then on the run is bound to this data."""
    write_atomic(run_dir / "environment.json", json.dumps(dict(about), indent=1))
    if not (run_dir / "split.json").exists():
        write_atomic(run_dir / "card.md", text)
        write_atomic(run_dir / "manifest.json", json.dumps(store.manifest(), indent=1))
        split.save(run_dir / "split.json")


def use_best(task: Task, state: State) -> None:
    """Give the task the weights of the best validation, or the last ones (averaged, if so configured) without any."""
    if state.best_weights is not None:
        task.load_state_dict(state.best_weights)
    elif state.average is not None:
        task.load_state_dict(state.average.network.state_dict())


def finish(setup: Setup, task: Task, state: State) -> dict[str, float]:
    """Thresholds, a table of the validation images and example pictures; gives the bundle's metrics."""
    keys, device = setup.split.validation, setup.accelerator.device
    if not keys:
        return {}

    def labelled() -> Any:
        for _, parts in predictions(task, setup.store, keys, device):
            stop_if_asked(setup)
            yield parts

    task.thresholds = task.tune(labelled)
    scored = score_images(task, setup.store, keys, device, lambda: stop_if_asked(setup))
    setup.tracker.table("validation_per_image", [image.row() for image in scored])
    for number, (index, (prediction, _, _)) in enumerate(predictions(task, setup.store, keys[:EXAMPLES], device)):
        picture = overlay_picture(setup.store, index, task, prediction)
        if picture is not None and number < EXAMPLES:
            setup.tracker.picture(f"validation_{setup.store.case_of(index)}", picture)
    summary = task.summarise([image.measures for image in scored])
    log.info("best epoch %d; validation %s %.4f", state.progress.best_epoch, task.headline, summary[task.headline])
    return {f"validation/{name}": value for name, value in summary.items()}


def silent(done: int, total: int | None = None, note: str = "") -> None:
    """Progress that nobody watches."""
