"""How far two masks agree: Dice, IoU, accuracy, sensitivity, specificity, clDice, AUROC, average precision.

Everything is counted inside ``valid`` (the field of view). Overlap with a structure is measured where the reference holds it: Dice,
IoU, clDice and sensitivity are None where the reference is empty, and :func:`overlap_measures` says why. Whether an image without the
structure was left empty (right) or not (wrong) is counted beside the scores, never averaged into them: a network that finds nothing
would otherwise score 1 on each of these images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.types import Measure

BoolArray = npt.NDArray[np.bool_]

DEFINITIONS = {
    "dice": "2 TP / (2 TP + FP + FN)",
    "iou": "TP / (TP + FP + FN)",
    "pixel_accuracy": "(TP + TN) / all pixels",
    "sensitivity": "TP / (TP + FN)",
    "specificity": "TN / (TN + FP)",
    "cldice": "harmonic mean of skeleton precision and sensitivity, doi:10.1109/CVPR46437.2021.01629",
    "auroc": "area under the receiver operating characteristic over pixels",
    "aupr": "average precision over pixels",
}
EMPTY = "the reference is empty"
UNDEFINED = {
    "dice": EMPTY,
    "iou": EMPTY,
    "cldice": EMPTY,
    "pixel_accuracy": "no valid pixel",
    "sensitivity": EMPTY,
    "specificity": "the reference fills every valid pixel",
    "auroc": "the reference has only one kind of pixel",
    "aupr": EMPTY,
}


class HasCounts(Protocol):
    """What an image's pixels or objects come to: found (tp), invented (fp), missed (fn)."""

    @property
    def tp(self) -> int: ...
    @property
    def fp(self) -> int: ...
    @property
    def fn(self) -> int: ...


@dataclass(frozen=True)
class Confusion:
    """Pixel counts of one yes / no question. Adding two pools them."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def of(cls, pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> Confusion:
        """Counts over boolean arrays of one shape (any number of axes), inside ``valid`` where it is given.

        Raises
        ------
        ValueError: shapes differ, or an array is not boolean.
        """
        guess, truth, inside = _checked(pred, true, valid)
        total = guess.size
        if inside is not None:
            guess, truth, total = guess & inside, truth & inside, int(np.count_nonzero(inside))
        both, guessed, present = (int(np.count_nonzero(a)) for a in (guess & truth, guess, truth))
        return cls(both, guessed - both, present - both, total - guessed - present + both)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def total(self) -> int:
        return self.tp + self.fp + self.fn + self.tn

    @property
    def held(self) -> bool:
        """Whether the reference holds the structure."""
        return self.tp + self.fn > 0

    @property
    def dice(self) -> float | None:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.held else None

    @property
    def iou(self) -> float | None:
        return self.tp / (self.tp + self.fp + self.fn) if self.held else None

    @property
    def pixel_accuracy(self) -> float | None:
        return (self.tp + self.tn) / self.total if self.total else None

    @property
    def sensitivity(self) -> float | None:
        return self.tp / (self.tp + self.fn) if self.held else None

    @property
    def specificity(self) -> float | None:
        absent = self.tn + self.fp
        return self.tn / absent if absent else None


@dataclass(frozen=True)
class Presence:
    """Images by what they hold of a structure and what was found in them.

    ``held``: the reference holds it · ``missed``: of these, those in which nothing of it was found · ``empty_right``, ``empty_wrong``:
    the reference does not hold it, and nothing was found, or something.
    """

    held: int = 0
    missed: int = 0
    empty_right: int = 0
    empty_wrong: int = 0

    @classmethod
    def of(cls, images: Iterable[HasCounts]) -> Presence:
        """Of the counts of each image."""
        seen = Counter((image.tp + image.fn > 0, image.tp > 0, image.fp > 0) for image in images)
        held = sum(number for (there, _, _), number in seen.items() if there)
        return cls(held, seen[True, False, False] + seen[True, False, True], seen[False, False, False], seen[False, False, True])

    def sentence(self, name: str) -> str | None:
        """What must be said of class ``name``; None where something of it was found."""
        if self.held == 0:
            return f"no image holds {name}: nothing is known of how well it is found"
        if self.missed < self.held:
            return None
        where = "the one image that holds it" if self.held == 1 else f"any of the {self.held} images that hold it"
        return f"found no {name} in {where}"


def measure(name: str, value: float | None) -> Measure:
    """A score of this module as a Measure, with its definition and, where it is None, the reason."""
    return Measure(value, "1", DEFINITIONS[name], UNDEFINED[name] if value is None else None)


def overlap_measures(counts: Confusion) -> dict[str, Measure]:
    """Dice, IoU, pixel accuracy, sensitivity and specificity of (pooled) counts."""
    return {name: measure(name, getattr(counts, name)) for name in ("dice", "iou", "pixel_accuracy", "sensitivity", "specificity")}


def dice(pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """2 TP / (2 TP + FP + FN); None where the reference is empty.

    >>> dice(np.array([[True, True, False]]), np.array([[True, False, False]]))
    0.6666666666666666
    """
    return Confusion.of(pred, true, valid).dice


def iou(pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """TP / (TP + FP + FN), also called Jaccard; None where the reference is empty."""
    return Confusion.of(pred, true, valid).iou


def pixel_accuracy(pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """Fraction of pixels that agree; None without a valid pixel."""
    return Confusion.of(pred, true, valid).pixel_accuracy


def sensitivity(pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """TP / (TP + FN), also called recall; None where the reference is empty."""
    return Confusion.of(pred, true, valid).sensitivity


def specificity(pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """TN / (TN + FP); None where the reference fills every valid pixel."""
    return Confusion.of(pred, true, valid).specificity


def cldice(pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """Centreline Dice of two masks (H, W) of thin, branching structures.

    The harmonic mean of topology precision (fraction of the prediction's skeleton inside the reference) and topology sensitivity
    (fraction of the reference's skeleton inside the prediction), Shit et al., CVPR 2021, doi:10.1109/CVPR46437.2021.01629. None where the
    reference is empty.
    """
    guess, truth, inside = _checked(pred, true, valid)
    if inside is not None:
        guess, truth = guess & inside, truth & inside
    if not truth.any():
        return None
    if not guess.any():
        return 0.0
    guess_line, truth_line = _skeleton(guess), _skeleton(truth)
    precision = np.count_nonzero(guess_line & truth) / np.count_nonzero(guess_line)
    recall = np.count_nonzero(truth_line & guess) / np.count_nonzero(truth_line)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def auroc(scores: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """Probability that a foreground pixel scores above a background pixel (ties count half); None where one kind is missing.

    Exact, by one sort; the same as the Mann-Whitney statistic over the product of the two counts.
    """
    hits, alarms = _operating_points(scores, true, valid)
    if hits[-1] == 0 or alarms[-1] == 0:
        return None
    return float(np.trapezoid(hits / hits[-1], alarms / alarms[-1]))


def aupr(scores: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float | None:
    """Average precision: precision at each distinct score, weighted by the recall it adds; None where the reference is empty."""
    hits, alarms = _operating_points(scores, true, valid)
    if hits[-1] == 0:
        return None
    precision = hits[1:] / (hits[1:] + alarms[1:])
    return float(np.sum(np.diff(hits) / hits[-1] * precision))


def _operating_points(
    scores: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Cumulative true and false positives at each distinct score, falling from the largest; both start at 0."""
    values = np.asarray(scores)
    truth = _boolean(true, "true")
    if values.shape != truth.shape:
        raise ValueError(f"scores {values.shape} and reference {truth.shape} differ in shape")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    if valid is not None:
        inside = _boolean(valid, "valid")
        if inside.shape != truth.shape:
            raise ValueError(f"valid {inside.shape} and reference {truth.shape} differ in shape")
        values, truth = values[inside], truth[inside]
    order = np.argsort(-values, axis=None, kind="stable")
    falling, hit = values.ravel()[order], truth.ravel()[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) if falling.size else np.zeros(0, dtype=np.int64)
    hits = np.cumsum(hit, dtype=np.float64)[last]
    return np.concatenate([[0.0], hits]), np.concatenate([[0.0], last + 1.0 - hits])


def _skeleton(mask: BoolArray) -> BoolArray:
    from skimage.morphology import skeletonize

    line: BoolArray = skeletonize(mask)
    # Thinning can delete a blob of two by two pixels; a mask that thins to nothing is its own centreline.
    return line if line.any() else mask


def _checked(pred: npt.ArrayLike, true: npt.ArrayLike, valid: npt.ArrayLike | None) -> tuple[BoolArray, BoolArray, BoolArray | None]:
    guess, truth = _boolean(pred, "pred"), _boolean(true, "true")
    inside = None if valid is None else _boolean(valid, "valid")
    for name, array in (("reference", truth), ("valid", inside)):
        if array is not None and array.shape != guess.shape:
            raise ValueError(f"prediction {guess.shape} and {name} {array.shape} differ in shape")
    return guess, truth, inside


def _boolean(value: Any, name: str) -> BoolArray:
    array = np.asarray(value)
    if array.dtype != np.bool_:
        raise ValueError(f"{name} must be boolean, not {array.dtype}; compare or threshold it first")
    return array
