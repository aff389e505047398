"""What every task family promises the loop, the evaluation and the report."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from pipeline.registry import Registry
from pipeline.types import Batch, Geometry, LabelMap, Measure, Prediction, Target

TASKS = Registry("task.name", "pipeline.tasks")


class Task(nn.Module):
    """A network together with its losses and its way of predicting.

    The training loop calls ``forward`` and sums the named losses; evaluation calls ``predict`` and ``score``. Neither asks
    which family it holds.
    """

    label_map: LabelMap

    @abc.abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses, each a scalar already times its weight; their sum is minimised. ``batch.targets`` is given."""

    @abc.abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """One Prediction an image, in the SOURCE frame (through ``batch.placements``), without gradients."""

    @abc.abstractmethod
    def score(self, prediction: Prediction, target: Target, geometry: Geometry, valid: Tensor | None = None) -> dict[str, Measure]:
        """Measures by name (``dice/vessel``, ``iou/vessel``), prediction and target both in the source frame."""
