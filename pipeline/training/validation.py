"""Scoring a task on whole labelled images, at their own resolution and inside the field of view."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.datasets.loader import CaseStore, evaluation_batches
from pipeline.drawing.overlay import side_by_side
from pipeline.errors import OcusegError, TrainingError
from pipeline.metrics.matching import touched
from pipeline.metrics.threshold import DEFAULT_THRESHOLD
from pipeline.scans.display import plane_in_colour
from pipeline.tasks.base import Labelled, Task
from pipeline.tasks.fov import restrict_to_fov
from pipeline.tasks.paste import blank
from pipeline.types import Batch, CaseKey, Geometry, Measure, Prediction, Target

log = logging.getLogger(__name__)

KEPT_BYTES = 2**28
"""Predictions of validation images that are kept between choosing thresholds and scoring."""


def pixels_at_once(device: Any) -> int:
    """Pixels of images of one size that ``device`` is given together: one small image leaves most of a GPU idle, and keeps a CPU busy."""
    return 0 if torch.device(device).type == "cpu" else 2**22


@dataclass(frozen=True)
class Scored:
    """Measures of one image; ``slice_index`` is 0 for a picture. ``evidence`` is what the task's pooled scores need of it."""

    case: CaseKey
    slice_index: int
    measures: Mapping[str, Measure]
    evidence: Any = None
    losses: Mapping[str, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As a table's row; None stands where a measure is undefined."""
        return {"case": str(self.case), "slice": self.slice_index} | {name: measure.value for name, measure in self.measures.items()}


class Predictions:
    """(sample index, prediction with truth and field of view in the source frame) of every image of some cases, in their order.

    It may be iterated several times. Each image is predicted once, as long as all predictions fit into KEPT_BYTES; those that do not
    fit are predicted anew each time. The room left is divided evenly among the slices of a volume, so that the probabilities of all of
    them are kept or of none: a part would be of no use.
    """

    def __init__(self, task: Task, store: CaseStore, keys: Sequence[CaseKey], device: Any) -> None:
        self._task, self._store, self._keys, self._device = task, store, keys, device
        self._kept: dict[int, _Packed] = {}
        self._room = KEPT_BYTES

    def __iter__(self) -> Iterator[tuple[int, Labelled]]:
        for key in self._keys:
            indices = self._store.indices([key])
            if all(index in self._kept for index in indices):
                for index in indices:
                    yield index, _labelled(self._store, index, self._kept[index].unpacked())
                continue
            room = self._room // len(indices)
            for index, labelled in _predicted(self._task, self._store, [key], self._device):
                packed = _Packed.of(labelled[0])
                if index not in self._kept and packed.bytes <= room:
                    self._kept[index] = packed
                    self._room -= packed.bytes
                yield index, labelled


@dataclass(frozen=True, eq=False)
class _Packed:
    """A prediction whose masks are cut to the pixels that their boxes touch."""

    prediction: Prediction
    size: tuple[int, int]
    masks: tuple[npt.NDArray[np.bool_], ...] | None

    @classmethod
    def of(cls, prediction: Prediction) -> _Packed:
        masks, boxes = prediction.instance_masks, prediction.boxes
        if masks is None or boxes is None:
            return cls(prediction, (0, 0), None)
        size = int(masks.shape[1]), int(masks.shape[2])
        places = [touched(box, size) for box in boxes]
        cut = tuple(mask[top:bottom, left:right].copy() for mask, (left, top, right, bottom) in zip(masks, places, strict=True))
        return cls(replace(prediction, instance_masks=None), size, cut)

    @property
    def bytes(self) -> int:
        whole = self.prediction.probabilities
        return (0 if whole is None else whole.nbytes) + sum(mask.nbytes for mask in self.masks or ())

    def unpacked(self) -> Prediction:
        if self.masks is None or self.prediction.boxes is None:
            return self.prediction
        masks = blank((len(self.masks), *self.size))
        for mask, box, cut in zip(masks, self.prediction.boxes, self.masks, strict=True):
            left, top, right, bottom = touched(box, self.size)
            mask[top:bottom, left:right] = cut
        return replace(self.prediction, instance_masks=masks)


def _predicted(task: Task, store: CaseStore, keys: Sequence[CaseKey], device: Any) -> Iterator[tuple[int, Labelled]]:
    for batch, indices in evaluation_batches(store, keys, device, volumes=task.volumes):
        with torch.inference_mode():
            found = _labelled_all(task, store, batch, indices)
        yield from found


def _labelled_all(task: Task, store: CaseStore, batch: Batch, indices: Sequence[int]) -> list[tuple[int, Labelled]]:
    pairs = zip(indices, task.predict(batch), strict=True)
    return [(index, _labelled(store, index, restrict_to_fov(prediction, store.valid_in_source(index)))) for index, prediction in pairs]


def _labelled(store: CaseStore, index: int, prediction: Prediction) -> Labelled:
    return prediction, store.source_target(index), torch.from_numpy(store.valid_in_source(index))


def score_images(
    task: Task,
    store: CaseStore,
    keys: Sequence[CaseKey],
    device: Any,
    each: Callable[[], None] = lambda: None,
    *,
    losses: bool = False,
) -> list[Scored]:
    """Every image of these cases scored; ``each`` is called after each batch. ``losses``: also measure the task's losses.

    Where the task can count, nothing but counts leaves the device, all of them together at the end.
    """
    known: dict[int, Scored] = {}
    counted: list[tuple[Sequence[int], Tensor]] = []
    lost: list[tuple[Sequence[int], Mapping[str, Tensor]]] = []
    # Losses are of one image each: some of them are no means over the images of a batch.
    pixels = 0 if losses else pixels_at_once(device)
    for batch, indices in evaluation_batches(store, keys, device, volumes=task.volumes, pixels=pixels):
        with torch.inference_mode():
            counts = task.count(batch)
            if counts is not None:
                counted.append((indices, counts))
            else:
                known |= {index: score_image(task, store, index, parts) for index, parts in _labelled_all(task, store, batch, indices)}
        if losses:  # all slices of a volume are in one batch, and have its losses
            lost.append((indices, task.validation_losses(batch)))
        each()
    if counted:
        rows = zip((index for indices, _ in counted for index in indices), torch.cat([counts for _, counts in counted]).cpu(), strict=True)
        known |= {index: Scored(store.case_of(index), store.slice_of(index), task.count_scores(counts)) for index, counts in rows}
    for places, values in lost:
        numbers = dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
        known |= {index: replace(known[index], losses=numbers) for index in places}
    return [known[index] for index in store.indices(keys)]


def score_image(task: Task, store: CaseStore, index: int, labelled: Labelled) -> Scored:
    """One image's scores, at the task's present thresholds."""
    valid = labelled[2]
    assert valid is not None
    scores = task.score_scan([labelled], Geometry((valid.shape[0], valid.shape[1])))
    return Scored(store.case_of(index), store.slice_of(index), scores.measures, scores.evidence[0])


def summary(task: Task, scored: Sequence[Scored]) -> dict[str, float]:
    """One number a name; ``loss/NAME`` and their sum ``loss`` where losses were measured.

    Raises
    ------
    TrainingError: the score that chooses the best epoch is undefined on these images.
    """
    found = task.summarise([image.measures for image in scored], [image.evidence for image in scored])
    if task.headline not in found:
        raise TrainingError(
            f"validation: {task.headline} is undefined, because none of the {len(scored)} validation images has what it is measured on "
            "(a labelled object, a mask, pictures of two classes); choose other validation cases (data.split), or another task.headline"
        )
    names = list(scored[0].losses)
    losses = {f"loss/{name}": sum(image.losses[name] for image in scored) / len(scored) for name in names}
    return found | losses | ({"loss": sum(losses.values())} if losses else {})


def overlay_picture(store: CaseStore, index: int, task: Task, prediction: Prediction) -> npt.NDArray[np.uint8] | None:
    """The photograph or slice in its own colours, twice, with contours and boxes of prediction and reference (drawing/overlay.py,
    :func:`side_by_side`). None where the task has nothing to draw, or the image can no longer be read.
    """
    layers = task.layers(prediction)
    if layers is None and prediction.boxes is None:
        return None
    try:
        picture = plane_in_colour(store.scan(index), store.slice_of(index))
    except (OcusegError, OSError) as error:
        log.warning("case %s: no example picture, the image cannot be read again (%s)", store.case_of(index), type(error).__name__)
        return None
    truth = store.source_target(index)
    reference = None if truth.mask is None else task.label_map.layers(truth.mask.numpy())
    found, true = _found_boxes(task, prediction), _true_boxes(truth)
    return side_by_side(picture, task.label_map, {"layers": layers, **found}, {"layers": reference, **true})


def _found_boxes(task: Task, prediction: Prediction) -> dict[str, Any]:
    """Boxes at or above their class's threshold, as ``draw_overlay`` takes them."""
    if prediction.boxes is None or prediction.labels is None or prediction.scores is None:
        return {}
    least = np.array([task.thresholds.get(name, DEFAULT_THRESHOLD) for name in task.label_map.names])
    kept = prediction.scores >= least[prediction.labels - 1]
    return {"boxes": prediction.boxes[kept], "labels": prediction.labels[kept], "scores": prediction.scores[kept]}


def _true_boxes(truth: Target) -> dict[str, Any]:
    return {} if truth.boxes is None or truth.labels is None else {"boxes": truth.boxes.numpy(), "labels": truth.labels.numpy()}
