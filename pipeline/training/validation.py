"""Scoring a task on whole labelled images: native resolution, inside the field of view, an image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.datasets.loader import CaseStore, evaluation_batches
from pipeline.tasks.base import Labelled, Task
from pipeline.tasks.overlay import draw_overlay
from pipeline.types import CaseKey, Geometry, Measure, Prediction


@dataclass(frozen=True)
class Scored:
    """Measures of one image; ``slice_index`` is 0 for a picture."""

    case: CaseKey
    slice_index: int
    measures: Mapping[str, Measure]

    def row(self) -> dict[str, Any]:
        """As a table's row; None stands where a measure is undefined."""
        return {"case": str(self.case), "slice": self.slice_index} | {name: measure.value for name, measure in self.measures.items()}


def predictions(task: Task, store: CaseStore, keys: Sequence[CaseKey], device: Any) -> Iterator[tuple[int, Labelled]]:
    """(sample index, prediction with truth and field of view in the source frame) of every image of these cases."""
    for batch, index in evaluation_batches(store, keys):
        with torch.inference_mode():
            (prediction,) = task.predict(batch.to(device))
        yield (
            index,
            (prediction, store.truth(index), torch.from_numpy(store.valid_in_source(index))),
        )


def score_images(
    task: Task, store: CaseStore, keys: Sequence[CaseKey], device: Any, each: Callable[[], None] = lambda: None
) -> list[Scored]:
    """Every image of these cases scored; ``each`` is called after each of them."""
    scored = []
    for index, (prediction, target, valid) in predictions(task, store, keys, device):
        geometry = Geometry((valid.shape[0], valid.shape[1]))
        scored.append(Scored(store.case_of(index), store.slice_of(index), task.score(prediction, target, geometry, valid)))
        each()
    return scored


def overlay_picture(store: CaseStore, index: int, task: Task, prediction: Prediction) -> npt.NDArray[np.uint8] | None:
    """uint8 (H, 2 W, 3) in the source frame: the image as the network sees it, twice; with the contours of the prediction on the
    left, of the reference on the right. None where the task has nothing to draw.
    """
    layers = task.layers(prediction)
    if layers is None:
        return None
    sample = store.sample(index)
    inside = sample.image[:, sample.valid] if bool(sample.valid.any()) else sample.image.flatten(1)
    low, high = (torch.quantile(inside.flatten()[:1_000_000], share) for share in (0.005, 0.995))
    shown = ((sample.image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * sample.valid
    source = sample.placement.to_source(shown.expand(3, -1, -1) if len(shown) == 1 else shown)
    picture = (source.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    truth, inside_view = store.truth(index).mask, store.valid_in_source(index)
    reference = np.zeros_like(layers) if truth is None else task.label_map.layers(truth.numpy())
    return np.concatenate([draw_overlay(picture, drawn, task.label_map) for drawn in (layers & inside_view, reference)], axis=1)
