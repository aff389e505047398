"""What every task family promises the loop, the evaluation and the report."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.datasets.preprocess import TargetKind
from pipeline.models.base import Family, Network
from pipeline.registry import OneOrTwo, Registry, Strict
from pipeline.types import Batch, Geometry, LabelMap, Measure, Prediction, Target

TASKS = Registry("task.name", "pipeline.tasks")

Labelled = tuple[Prediction, Target, Tensor | None]
"""A prediction, what is true, and the field of view (bool (H, W) or None), all in the source frame."""


_Side = Annotated[int, Field(ge=32)]
TileSides = Annotated[tuple[_Side, _Side], OneOrTwo()]
"""(rows, columns) of a tile; one number is a square."""


class TaskConfig(Strict):
    """Base of every task's settings. ``family`` says which networks it can use (``ModelConfig.family``), ``need`` what it needs of every
    case: a mask of classes, or objects with boxes (datasets/store.py)."""

    family: ClassVar[Family]
    need: ClassVar[TargetKind] = "masks"

    def outputs(self, label_map: LabelMap) -> int:
        """What the network's builder gets as ``out_channels``: channels of pixels, or classes of objects."""
        raise NotImplementedError


class Task(nn.Module):
    """A network together with its losses and its way of predicting.

    The training loop calls ``forward`` and sums the named losses; evaluation calls ``predict`` and ``score``. Neither asks
    which family it holds.

    ``volumes``: the network looks at neighbouring slices, so that an image of a batch is a volume (types/sample.py, Batch).
    ``headline`` names the entry of :meth:`summarise` by which the best epoch is chosen (higher is better). ``thresholds`` are the
    decision thresholds by class name that ``score`` uses; empty: the family's defaults.
    """

    network: Network
    label_map: LabelMap
    volumes: bool = False
    headline: str
    thresholds: Mapping[str, float]

    @abc.abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses, each a scalar already times its weight; their sum is minimised. ``batch.targets`` is given."""

    @abc.abstractmethod
    def predict(self, batch: Batch) -> list[Prediction]:
        """One Prediction a plane, in the SOURCE frame (through ``batch.placements``), without gradients: one of each image, or of
        each slice of its volumes in their order."""

    @abc.abstractmethod
    def score(self, prediction: Prediction, target: Target, geometry: Geometry, valid: Tensor | None = None) -> dict[str, Measure]:
        """Measures by name (``dice/vessel``, ``iou/vessel``), prediction and target both in the source frame."""

    def count(self, batch: Batch) -> Tensor | None:
        """What :meth:`count_scores` needs of each plane of labelled whole images, int64 (planes, ...) on the batch's device, so that
        nothing else leaves it; None where :meth:`score` needs the predictions themselves."""
        return None

    def count_scores(self, counts: Tensor) -> dict[str, Measure]:
        """The scores, as of :meth:`score`, of one plane that was counted; ``counts`` is on the CPU."""
        raise NotImplementedError

    @torch.no_grad()
    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of :meth:`forward` in evaluation mode: statistics of normalisation and the random state stay as they are."""
        was_training = self.training
        self.eval()
        try:
            with torch.random.fork_rng(), self.measuring():
                return self(batch)  # type: ignore[no-any-return]
        finally:
            self.train(was_training)

    def measuring(self) -> AbstractContextManager[None]:
        """What a network in evaluation mode needs around it to give losses."""
        return nullcontext()

    def evidence(self, prediction: Prediction, target: Target, valid: Tensor | None = None) -> Any:
        """What :meth:`summarise` needs of an image beside its measures, small and picklable; None where that is nothing.

        ``valid`` bool (H, W), the field of view, as in :meth:`score`.
        """
        return None

    def summarise(self, scores: Sequence[Mapping[str, Measure]], evidence: Sequence[Any] = ()) -> dict[str, float]:
        """Scores and evidence of many images -> one number a name: the mean over the images where it is defined."""
        values: dict[str, list[float]] = {}
        for image in scores:
            for name, measure in image.items():
                if measure.value is not None:
                    values.setdefault(name, []).append(measure.value)
        return {name: sum(found) / len(found) for name, found in values.items()}

    def tune(self, labelled: Callable[[], Iterable[Labelled]]) -> dict[str, float]:
        """Decision thresholds by class name, chosen on validation images; each call of ``labelled`` goes through them once."""
        return {}

    def figures(self, evidence: Sequence[Any]) -> dict[str, npt.NDArray[np.uint8]]:
        """Pictures by name, uint8 (H, W, 3), of what many images show together (precision against recall)."""
        return {}

    def layers(self, prediction: Prediction) -> npt.NDArray[np.bool_] | None:
        """Boolean layers (K, H, W) for a picture of the prediction; None where there is nothing to draw."""
        return None
