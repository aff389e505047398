"""What is known of one case's doubt when its networks have looked: a number or a few of each class, and one map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.doubt.model import DiceModel, DoubtModel
from pipeline.doubt.uncertainty import Bytes, ClassChances
from pipeline.types import LabelMap, Prediction

ALWAYS_THERE = ("optic_disc", "optic_cup", "vessel", "layer")
"""Roles of classes that every scan of their kind shows: where none is found, what is predicted is a Dice of 0."""


@dataclass(frozen=True)
class ClassDoubt:
    """Of one class: ``predicted`` Dice or None, ``border``: mean uncertainty along its outline or None."""

    name: str
    predicted: float | None
    border: float | None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of one network, or of several together: ``classes`` in the order of the label map · ``uncertainty`` uint8 ([D,] H, W), 255 where
    most, or None · ``unlike``: how far the scan is from the training scans, 0 to 1, or None · ``disagreement`` of flips or of several
    networks, 0 to 1, or None where only one look was taken."""

    classes: tuple[ClassDoubt, ...] = ()
    uncertainty: Bytes | None = None
    unlike: float | None = None
    disagreement: float | None = None


def united(
    parts: Sequence[Evidence], names: Sequence[Sequence[str]], mask: npt.NDArray[np.unsignedinteger[Any]], label_map: LabelMap
) -> Evidence:
    """Of several networks, whose own ``names`` of classes come one list after the other in ``label_map``, which encodes their ``mask``.

    Where several of them look for one class (folds), it is predicted to be no better than they agree, and the map shows where they do not.
    """
    own = [name for of_one in names for name in of_one]
    known = {cls.name: cls for cls in _renamed(parts, names, label_map)}
    maps = [part.uncertainty for part in parts if part.uncertainty is not None]
    doubled = [name for name in dict.fromkeys(own) if own.count(name) > 1]
    layers = label_map.layers(mask) if doubled else np.zeros(0, np.bool_)
    differ = [part.disagreement for part in parts if part.disagreement is not None]
    for name in doubled:
        places = [place for place, other in enumerate(own) if other == name]
        share = layers[places].mean(axis=0, dtype=np.float32)
        maps.append(np.rint(255 * 4 * share * (1 - share)).astype(np.uint8))
        agreed = agreement(layers[places])
        differ += [] if agreed is None else [1 - agreed]
        for called in (label_map.names[place] for place in places):
            before = known[called].predicted if called in known else None
            if before is not None and agreed is not None:
                known[called] = replace(known[called], predicted=min(before, agreed))
    unlike = [part.unlike for part in parts if part.unlike is not None]
    return Evidence(tuple(known.values()), np.maximum.reduce(maps) if maps else None, max(unlike, default=None), max(differ, default=None))


def agreement(masks: npt.NDArray[np.bool_]) -> float | None:
    """Mean Dice of every two of several masks (N, ...) of one thing; None where none of them marks anything."""
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    pairs = [(one, other) for one in range(len(masks)) for other in range(one) if sizes[one] + sizes[other]]
    dice = [2 * int(np.count_nonzero(masks[one] & masks[other])) / (sizes[one] + sizes[other]) for one, other in pairs]
    return sum(dice) / len(dice) if dice else None


def _renamed(parts: Sequence[Evidence], names: Sequence[Sequence[str]], label_map: LabelMap) -> list[ClassDoubt]:
    """The classes of the networks by their names in ``label_map``."""
    found, past = [], 0
    for part, own in zip(parts, names, strict=True):
        called = dict(zip(own, label_map.names[past : past + len(own)], strict=True))
        found += [replace(cls, name=called[cls.name]) for cls in part.classes]
        past += len(own)
    return found


class Gathering:
    """Takes the planes of a scan one by one, as a network gives them."""

    def __init__(self, label_map: LabelMap, model: DoubtModel) -> None:
        self._label_map, self._model = label_map, model
        self._chances = [ClassChances(model.temperatures.get(name, 1.0)) for name in label_map.names]
        self._maps: list[Bytes] = []
        self._area = 0
        self._marked, self._deviation = 0, math.nan

    def add(self, prediction: Prediction, layers: npt.NDArray[np.bool_] | None, area: int | None = None) -> None:
        """A plane with probabilities, and how many pixels its field of view has (None: all); of a network that finds boxes nothing is
        known."""
        if prediction.probabilities is None or layers is None:
            return
        self._area += layers[0].size if area is None else area
        parts = [own.add(chance, mask) for own, chance, mask in zip(self._chances, prediction.probabilities, layers, strict=True)]
        if prediction.uncertainty is not None:
            self._marked += int(np.count_nonzero(layers.any(axis=0)))
            self._deviation = float(np.nansum([self._deviation, prediction.uncertainty.sum(dtype=np.float64)]))
            parts.append(np.rint(255 * prediction.uncertainty).astype(np.uint8))
        self._maps.append(np.maximum.reduce(parts))

    def evidence(self, flat: bool, unlike: float | None = None) -> Evidence:
        if not self._maps:
            return Evidence(unlike=unlike)
        roles = self._label_map.roles
        found = [self._of_class(*own) for own in zip(self._label_map.names, roles, self._chances, strict=True)]
        return Evidence(tuple(found), self._maps[0] if flat else np.stack(self._maps), unlike, self._disagreement())

    def _disagreement(self) -> float | None:
        """Of flips: their deviation, added up, for each pixel that is marked; 1 at most."""
        return None if math.isnan(self._deviation) else min(self._deviation / max(self._marked, 1), 1.0)

    def _of_class(self, name: str, role: str | None, chances: ClassChances) -> ClassDoubt:
        if chances.pixels == 0:
            return ClassDoubt(name, 0.0 if role in ALWAYS_THERE else None, None)
        return ClassDoubt(name, predicted_dice(chances, self._area, self._model.dice.get(name)), chances.border_doubt)


def predicted_dice(chances: ClassChances, area: int, learnt: DiceModel | None) -> float | None:
    """By what the bundle has learnt of it, else the expected Dice itself."""
    return chances.expected_dice if learnt is None else learnt.predict(features(chances, area, learnt.usual))


def features(chances: ClassChances, area: int, usual: float) -> dict[str, float]:
    """What predicts the Dice of a class that was found, each the higher the better: ``expected`` Dice and ``sharp`` borders, as log odds ·
    how many times ``more`` or ``less`` of the field of view (``area`` pixels) it takes than is ``usual``, as logarithms below 0."""
    share = math.log(max(chances.pixels, 1.0) / max(area, 1) / usual)
    return {
        "expected": log_odds(chances.expected_dice or 0.0),
        "sharp": -log_odds(chances.border_doubt or 0.0),
        "more": -max(share, 0.0),
        "less": min(share, 0.0),
    }


def log_odds(fraction: float) -> float:
    kept = min(max(fraction, 1e-3), 1 - 1e-3)
    return math.log(kept / (1 - kept))
