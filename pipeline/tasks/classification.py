"""Each picture as a whole gets a class, or stays without an answer: the classification family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pipeline.datasets.preprocess import TargetKind
from pipeline.errors import ConfigError
from pipeline.metrics.classification import fit_temperature, least_confidence
from pipeline.metrics.grades import GradedPicture, GradedSet
from pipeline.models.base import Family, memory_format
from pipeline.models.classifier import Classifier
from pipeline.models.precision import autocast
from pipeline.tasks.base import TASKS, Labelled, Task, TaskConfig
from pipeline.types import Batch, LabelMap, Measure, Placement, Prediction, Target

_FINEST = 128
"""Rows and columns of the grid on which attention is kept: networks look at fewer places."""


class ClassificationConfig(TaskConfig):
    family: ClassVar[Family] = "classification"
    need: ClassVar[TargetKind] = "grade"
    whole_pictures: ClassVar[bool] = True

    name: Literal["classification"] = "classification"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="fraction of each label that is spread evenly over all classes")
    headline: Literal["balanced_accuracy", "accuracy", "auroc", "quadratic_kappa"] = Field(
        "balanced_accuracy", description="validation score that selects the best epoch; quadratic_kappa is of ordered grades"
    )
    target_accuracy: float = Field(
        0.98,
        gt=0,
        le=1,
        description="fraction of the answered validation pictures that should be right; less sure ones stay unanswered",
    )
    most_abstained: float = Field(0.05, ge=0, lt=1, description="maximum fraction of the validation pictures that stay unanswered for that")

    def outputs(self, label_map: LabelMap) -> int:
        return len(label_map)


class ClassificationTask(Task):
    """A network that gives each picture one logit a class.

    ``temperature`` divides the logits in prediction; validation fits it (:meth:`calibrate`), and it is saved with the weights.
    ``thresholds``: the confidence from which on an answer is given, the same for all classes; below it a picture stays unanswered.
    """

    network: Classifier
    temperature: Tensor

    def __init__(self, config: ClassificationConfig, network: Classifier, label_map: LabelMap) -> None:
        super().__init__()
        if config.headline == "quadratic_kappa" and not label_map.ordered:
            raise ConfigError("task.headline: quadratic_kappa needs grades: a card that says ordered: true; write balanced_accuracy")
        self.config, self.network, self.label_map = config, network, label_map
        self.headline = config.headline
        self.thresholds: Mapping[str, float] = {}
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if batch.targets is None:
            raise ValueError("a training batch needs targets")
        grades = torch.tensor([_grade(target) for target in batch.targets], device=batch.images[0].device)
        loss = functional.cross_entropy(self.network(self._stacked(batch)), grades, label_smoothing=self.config.label_smoothing)
        return {"cross_entropy": loss}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """``grade_probabilities`` of each picture and, where the task ``explains``, ``attention``; the training mode is left as it was."""
        was_training = self.training
        self.eval()
        try:
            images = self._stacked(batch)
            with autocast(images.device, self.precision):
                logits, looked = self.network.explain(images) if self.explains else (self.network(images), None)
        finally:
            self.train(was_training)
        chances = functional.softmax(logits.float() / self.temperature, dim=1).cpu().numpy()
        maps = [None] * len(batch) if looked is None else list(looked.float().cpu())
        return [
            Prediction(grade_probabilities=own, attention=None if seen is None else in_source(seen, placement))
            for own, seen, placement in zip(chances, maps, batch.placements, strict=True)
        ]

    def evidence(self, prediction: Prediction, target: Target, valid: Tensor | None = None) -> GradedPicture:
        return GradedPicture(_probabilities(prediction), _grade(target))

    def measure_objects(self, evidence: Sequence[GradedPicture]) -> dict[str, Measure]:
        """``correct`` (0 or 1), ``confidence`` and ``answered`` (0 or 1) of a picture, or of a volume by the mean of its slices."""
        whole = GradedPicture.of_slices(evidence)
        given = whole.confidence >= self._least(whole.answer)
        return {
            "correct": Measure(float(whole.answer == whole.grade), "1", "1 where the most probable class is the true one"),
            "confidence": Measure(whole.confidence, "1", "probability of the most probable class"),
            "answered": Measure(float(given), "1", "1 where the confidence reaches the threshold of that class"),
        }

    def summarise(self, scores: Sequence[Mapping[str, Measure]], evidence: Sequence[Any] = ()) -> dict[str, float]:
        """Every score of metrics/grades.py that is defined."""
        if not evidence:
            return {}
        known = GradedSet.of(evidence, self.label_map, self.thresholds).scores(self.label_map)
        return {name: float(value[0]) for name, value in known.items() if not np.isnan(value[0])}

    def figures(self, evidence: Sequence[Any]) -> dict[str, npt.NDArray[np.uint8]]:
        """``confusion`` and ``reliability``."""
        from pipeline.drawing.grades import draw_confusion, draw_reliability  # draws with matplotlib, which nobody else needs

        known = GradedSet.of(evidence, self.label_map, self.thresholds)
        error = float(known.scores(self.label_map)["calibration_error"][0])
        return {
            "confusion": draw_confusion(known.confusion(), self.label_map.names),
            "reliability": draw_reliability(known.confidence, known.right, error),
        }

    def calibrate(self, labelled: Callable[[], Iterable[Labelled]]) -> bool:
        known = self._labelled(labelled)
        change = fit_temperature(known.probabilities, known.truth)
        self.temperature.mul_(change)
        return True

    def tune(self, labelled: Callable[[], Iterable[Labelled]]) -> dict[str, float]:
        """One confidence for all classes, below which a picture stays unanswered (``task.target_accuracy``)."""
        known = self._labelled(labelled)
        least = least_confidence(known.confidence, known.right, self.config.target_accuracy, self.config.most_abstained)
        return dict.fromkeys(self.label_map.names, least)

    def _labelled(self, labelled: Callable[[], Iterable[Labelled]]) -> GradedSet:
        pictures = [self.evidence(prediction, target) for prediction, target, _ in labelled()]
        return GradedSet.of(pictures, self.label_map, self.thresholds)

    def _stacked(self, batch: Batch) -> Tensor:
        return torch.stack(list(batch.images)).contiguous(memory_format=memory_format(self.network))

    def _least(self, grade: int) -> float:
        return self.thresholds.get(self.label_map.names[grade], 0.0)


def in_source(looked: Tensor, placement: Placement) -> npt.NDArray[np.float32]:
    """A map (h, w) over the network's whole input -> 0..1 on a grid over the whole source, of at most 128 rows and columns."""
    rows, columns = placement.net
    whole = functional.interpolate(looked[None, None], size=(rows, columns), mode="bilinear", align_corners=False)[0]
    source = placement.to_source(whole)
    step = max(1.0, max(source.shape[-2:]) / _FINEST)
    size = [max(1, round(side / step)) for side in source.shape[-2:]]
    coarse = functional.interpolate(source[None], size=size, mode="area")[0, 0]
    return np.asarray((coarse / coarse.max().clamp(min=1e-12)).clamp(0, 1).numpy(), dtype=np.float32)


def _grade(target: Target) -> int:
    if target.grade is None:
        raise ValueError("the classification family needs the class of every picture")
    return target.grade


def _probabilities(prediction: Prediction) -> npt.NDArray[np.float32]:
    if prediction.grade_probabilities is None:
        raise ValueError("a classification has probabilities of grades")
    return prediction.grade_probabilities


@TASKS.add(ClassificationConfig)
def build(config: ClassificationConfig, network: Classifier, label_map: LabelMap) -> Task:
    return ClassificationTask(config, network, label_map)
