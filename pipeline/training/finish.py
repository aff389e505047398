"""What comes after the last step: the best weights, thresholds, validation pictures, the bundle."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.bundles.bundle import save_bundle
from pipeline.bundles.leakage import INHERITED
from pipeline.datasets.loader import evaluation_batches
from pipeline.doubt.model import DoubtModel
from pipeline.tasks.base import Task
from pipeline.training.checkpoint import Progress, State
from pipeline.training.compiling import eager
from pipeline.training.loop import raise_if_interrupted, steps_per_epoch, stop_reason
from pipeline.training.precision_gate import gated_precision
from pipeline.training.result import TimeSpent, TrainingResult, validation_seconds
from pipeline.training.run_folder import Data, earlier_result, record_result
from pipeline.training.setup import Setup
from pipeline.training.validation import Predictions, overlay_picture, score_image, summary
from pipeline.types import Batch, CaseKey

log = logging.getLogger(__name__)

EXAMPLES = 4  # validation cases of which a picture (of a volume, the middle slice) goes into the record

GATE_CASES = 16  # validation cases on which the number format of prediction is compared with float32


def conclude(setup: Setup, data: Data, task: Task, state: State, start_up_s: float) -> TrainingResult:
    """The bundle, its record and the result, made by the first process; the others return a result without a bundle's identity."""
    bundle, progress = setup.run_dir / "bundle", state.progress
    if not setup.accelerator.is_main_process:
        return TrainingResult(setup.run_dir, bundle, "", {}, None)
    earlier = earlier_result(setup.run_dir, progress.step)
    if earlier is not None:
        message = f"nothing was left to train: {stop_reason(progress, setup.config.train)}; the existing bundle is kept"
        return result_of(setup, earlier.id, earlier.metrics, message)
    fitted = time.monotonic()
    use_best(task, state)
    with eager(task.network):
        task.complete(lambda: whole_batches(setup, setup.split.train, task.volumes))
        task.precision = gated_precision(task, whole_batches(setup, setup.split.validation[:GATE_CASES], task.volumes), setup.precision)
        metrics = final_validation(setup, task, state)
    spent = time_spent(setup, progress, start_up_s, time.monotonic() - fitted)
    setup.tracker.numbers(spent.metrics())
    if shortfall := spent.shortfall(setup.config.train):
        log.warning(shortfall)
    identity = save_bundle(
        bundle,
        task=task,
        config=setup.config,
        label_map=data.card.label_map,
        card_sha256=data.card.sha256,
        metrics=metrics,
        thresholds=task.thresholds,
        input_channels=setup.store.channels,
        modality=data.card.modality,
        spacing_mm=data.spacing_mm,
        trained_on={
            name: (setup.run_dir / name).read_text(encoding="utf-8")
            for name in ("split.json", "manifest.json", INHERITED)
            if name != INHERITED or (setup.run_dir / name).is_file()
        },
        doubt=DoubtModel(temperatures=dict(task.temperatures)) if task.temperatures else None,
    )
    setup.tracker.bundle(bundle, metrics)
    record_result(setup.run_dir, progress.step, identity)
    return result_of(setup, identity, metrics, time=spent.line())


def result_of(setup: Setup, identity: str, metrics: Mapping[str, float], message: str | None = None, time: str = "") -> TrainingResult:
    """The result, once the record is closed; its message also says what has not reached the tracking server."""
    delivery = setup.tracker.finish("FINISHED")
    sentences = ". ".join(filter(None, (message, delivery.message))) or None
    return TrainingResult(setup.run_dir, setup.run_dir / "bundle", identity, dict(metrics), delivery.run_id, sentences, time)


def time_spent(setup: Setup, progress: Progress, start_up_s: float, final_s: float) -> TimeSpent:
    """How the time of a finished run was spent."""
    validation_s = validation_seconds(setup.run_dir / "history.jsonl")
    return TimeSpent(start_up_s, progress.seconds, validation_s, final_s, progress.step, steps_per_epoch(setup))


def use_best(task: Task, state: State) -> None:
    """Load the weights of the best validation into the task or, without validation, the last ones (averaged, if so configured)."""
    if state.best_weights is not None:
        task.load_state_dict(state.best_weights)
    elif state.average is not None:
        task.load_state_dict(state.average.network.state_dict())


def whole_batches(setup: Setup, keys: Sequence[CaseKey], volumes: bool) -> Iterator[Batch]:
    """Images of these cases on the device, unchanged, an image or volume at a time."""
    for batch, _ in evaluation_batches(setup.store, keys, setup.accelerator.device, volumes=volumes):
        raise_if_interrupted(setup)
        yield batch


def final_validation(setup: Setup, task: Task, state: State) -> dict[str, float]:
    """Choose thresholds, record a table of the validation images, curves and example pictures; returns the bundle's metrics."""
    keys, device = setup.split.validation, setup.accelerator.device
    if not keys:
        return {}

    found = Predictions(task, setup.store, keys, device)

    def labelled() -> Any:
        for _, parts in found:
            raise_if_interrupted(setup)
            yield parts

    if task.calibrate(labelled):
        found = Predictions(task, setup.store, keys, device)
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
