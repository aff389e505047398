"""What a bundle knows of its own doubt (``doubt.json``): learnt on validation, on degraded training photographs, never on a test set."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.types.assessment import Record

DOUBT = "doubt.json"
Temperature = Annotated[float, Field(gt=0, le=100)]


class DiceModel(Record):
    """The Dice of a class as a logistic function of ``features`` (doubt/evidence.py): the weight of each, and what is added; ``usual``: the
    part of the field of view that the class takes in unspoilt pictures."""

    usual: float = Field(gt=0, le=1)
    weights: dict[str, float] = Field(min_length=1)
    bias: float

    def predict(self, features: Mapping[str, float]) -> float | None:
        """0..1; None where a feature that it needs is not known."""
        if not self.weights.keys() <= features.keys():
            return None
        total = self.bias + sum(weight * features[name] for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-min(max(total, -50.0), 50.0)))


class TrainingLook(Record):
    """How the training pictures look (doubt/look.py): ``mean`` and ``inverse`` covariance of each of the ``features``, and the ``usual``
    distance, below which 99 of 100 validation pictures are."""

    features: tuple[str, ...] = Field(min_length=1)
    mean: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]
    usual: float = Field(gt=0)

    @model_validator(mode="after")
    def _square(self) -> TrainingLook:
        number = len(self.features)
        if len(self.mean) != number or len(self.inverse) != number or any(len(row) != number for row in self.inverse):
            raise ValueError(f"mean and inverse covariance must have one row for each of the {number} features")
        return self


class DoubtModel(Record):
    """``temperatures`` by class: what log odds of pixels are divided by to mean what they say · ``dice`` by class · ``look`` of the
    training pictures. A bundle of an earlier version has none of them: temperature 1."""

    temperatures: dict[str, Temperature] = Field({})
    dice: dict[str, DiceModel] = Field({})
    look: TrainingLook | None = None

    def to_text(self) -> str:
        """The file's content."""
        return json.dumps(self.to_json(), indent=1) + "\n"
