"""A detection bundle whose answer is known: a spot's red is its score, its green its class, its pixels its mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import find_objects, label

from pipeline.bundles.bundle import Bundle
from pipeline.datasets.preprocess import TargetKind
from pipeline.metrics.objects import ImageObjects
from pipeline.models.base import Family, Network
from pipeline.tasks.base import Task, TaskConfig
from pipeline.tasks.fov import objects_in_fov
from pipeline.types import Batch, LabelClass, LabelMap, Prediction, Target
from tests.inference.conftest import make_bundle, run_config

Pixels = npt.NDArray[np.uint8]
Spot = tuple[int, int, int, int, float, int]
"""top, left, rows, columns, score, class index"""


def classes(count: int, overlapping: bool = False) -> LabelMap:
    return LabelMap(tuple(LabelClass(k, f"kind{k}", (k, 2 * k, 3 * k)) for k in range(1, count + 1)), overlapping)


KINDS = classes(2, overlapping=True)


class SpotConfig(TaskConfig):
    family: ClassVar[Family] = "detection"
    need: ClassVar[TargetKind] = "objects"
    name: str = "spots"

    def outputs(self, label_map: LabelMap) -> int:
        return len(label_map)


class SpotTask(Task):
    """Objects are connected pieces of at least 4 red pixels. Stands in for a network, not for the tasks' own code."""

    def __init__(self, label_map: LabelMap, masks: bool = True) -> None:
        super().__init__()
        self.label_map, self.masks = label_map, masks
        self.network = Network()
        self.thresholds = {}

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def evidence(self, prediction: Prediction, target: Target, valid: torch.Tensor | None = None) -> ImageObjects:
        return objects_in_fov(prediction, target, valid)

    def predict(self, batch: Batch) -> list[Prediction]:
        return [self._objects(image.numpy()) for image in batch.images]

    def _objects(self, image: npt.NDArray[np.float32]) -> Prediction:
        red, green = image[0], image[1 if len(image) > 1 else 0]
        pieces, _ = label(red > 0.02)
        found = []
        for number, (rows, columns) in enumerate(find_objects(pieces), 1):
            mask = pieces == number
            if mask.sum() >= 4:
                kind = 1 + round(float(green[mask].max()) * (len(self.label_map) - 1)) if len(image) > 1 else 1
                found.append((float(red[mask].max()), [columns.start, rows.start, columns.stop, rows.stop], kind, mask))
        found.sort(key=lambda one: -one[0])
        return Prediction(
            boxes=np.array([box for _, box, _, _ in found], dtype=np.float32).reshape(-1, 4),
            labels=np.array([kind for _, _, kind, _ in found], dtype=np.int64),
            scores=np.array([score for score, _, _, _ in found], dtype=np.float32),
            instance_masks=np.array([mask for _, _, _, mask in found], dtype=bool).reshape(-1, *red.shape) if self.masks else None,
        )

    def layers(self, prediction: Prediction) -> npt.NDArray[np.bool_] | None:
        masks, labels, scores = prediction.instance_masks, prediction.labels, prediction.scores
        if masks is None or labels is None or scores is None:
            return None
        return np.stack(
            [masks[(labels == cls.index) & (scores >= self.thresholds.get(cls.name, 0.5))].any(axis=0) for cls in self.label_map.classes]
        )


def spot_bundle(path: Path, label_map: LabelMap = KINDS, *, masks: bool = True, **changes: Any) -> Bundle:
    view = changes.pop("field_of_view", "whole")
    config = run_config(field_of_view=view).model_copy(update={"task": SpotConfig()})
    return make_bundle(path, **({"label_map": label_map, "config": config, "task": SpotTask(label_map, masks)} | changes))


def canvas(spots: Sequence[Spot], count: int = 2, shape: tuple[int, int] = (40, 57)) -> Pixels:
    """A picture of spots whose scores are multiples of 1/255. Its first pixel sets the scale of every channel."""
    pixels = np.zeros((*shape, 3), dtype=np.uint8)
    for top, left, rows, columns, score, kind in spots:
        piece = pixels[top : top + rows, left : left + columns]
        piece[..., 0] = round(score * 255)
        piece[..., 1] = round((kind - 1) / max(count - 1, 1) * 255)
    pixels[0, 0] = 255
    return pixels
