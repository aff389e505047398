"""Whether a bundle's network may predict in the number format it was trained in: only where the masks agree with those of float32."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from pipeline.models.precision import Precision
from pipeline.tasks.base import Task
from pipeline.types import Batch

log = logging.getLogger(__name__)

LEAST_AGREEMENT = 0.9995
"""Fraction of the pixels of all images: 0.05 % may end in another class."""


def gated_precision(task: Task, batches: Iterable[Batch], wanted: Precision) -> Precision:
    """``wanted`` where ``task`` predicts nearly the same pixels in it as in float32, else float32; float32 also for networks that
    predict only boxes, and where there is no image to compare on. ``batches`` of validation images, on the task's device."""
    if wanted == "float32":
        return wanted
    same = total = 0
    before = task.precision
    try:
        for batch in batches:
            expected = _layers(task, batch, "float32")
            if not expected:  # boxes only: there are no pixels to compare
                return "float32"
            for chosen, exact in zip(_layers(task, batch, wanted), expected, strict=True):
                same += int(np.count_nonzero((chosen == exact).all(axis=0)))
                total += exact[0].size
    finally:
        task.precision = before
    if not total:
        return "float32"
    agreed = same / total
    passed = agreed >= LEAST_AGREEMENT
    log.info(
        "%s agrees with float32 on %.4f %% of pixels (at least %.2f %% needed): the bundle predicts in %s",
        wanted, 100 * agreed, 100 * LEAST_AGREEMENT, wanted if passed else "float32",
    )  # fmt: skip
    return wanted if passed else "float32"


def _layers(task: Task, batch: Batch, precision: Precision) -> list[npt.NDArray[np.bool_]]:
    task.precision = precision
    with torch.inference_mode():
        predictions = task.predict(batch)
    layers = [task.layers(prediction) for prediction in predictions if prediction.probabilities is not None]
    return [of_image for of_image in layers if of_image is not None]
