"""From probabilities to masks: the one rule, and the threshold that validation chooses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.types import LabelMap

DEFAULT_THRESHOLD = 0.5
_STEPS = 200


def decide(
    probabilities: npt.NDArray[np.floating[Any]], label_map: LabelMap, thresholds: Mapping[str, float] | None = None
) -> npt.NDArray[np.bool_]:
    """Probabilities (K, ...) of the foreground classes -> boolean layers (K, ...), the rule used everywhere.

    Independent classes (one class, or overlapping ones): present where the probability is at least the class's threshold
    (0.5 where none is given). Exclusive classes: the most probable of background (what the K leave of 1) and the classes; thresholds
    do not apply. A tie goes to the background, then to the lower index. A class that lies inside another one (the cup in the disc) is
    present only where that one is, too, whatever its own threshold lets through.

    Raises
    ------
    ValueError: ``probabilities`` has not one layer a class.
    """
    if len(probabilities) != len(label_map):
        raise ValueError(f"{len(probabilities)} probability layers for {len(label_map)} classes")
    if label_map.independent:
        given = thresholds or {}
        reached = [p >= given.get(name, DEFAULT_THRESHOLD) for p, name in zip(probabilities, label_map.names, strict=True)]
        return label_map.nested(np.stack(reached))
    background = 1 - probabilities.sum(axis=0, keepdims=True)
    most_probable = np.argmax(np.concatenate([background, probabilities]), axis=0)
    return np.stack([most_probable == cls.index for cls in label_map.classes])


ODDS = 3.0


def decide_both_ways(
    probabilities: npt.NDArray[np.floating[Any]], label_map: LabelMap, thresholds: Mapping[str, float] | None = None, odds: float = ODDS
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """What :func:`decide` would give if the foreground had to be ``odds`` times as probable, against the background, as it asks for, and
    if an ``odds``-th did: boolean layers (K, ...) twice, the smaller first. With a threshold of 0.5 and odds of 3: at 0.75 and at 0.25."""
    if label_map.independent:
        given = {name: (thresholds or {}).get(name, DEFAULT_THRESHOLD) for name in label_map.names}
        moved = [{name: _at_odds(own, factor) for name, own in given.items()} for factor in (odds, 1 / odds)]
        return decide(probabilities, label_map, moved[0]), decide(probabilities, label_map, moved[1])
    background, best = np.clip(1 - probabilities.sum(axis=0), 0, 1), probabilities.max(axis=0)
    winner = probabilities.argmax(axis=0) + 1
    few, many = (np.where(best > factor * background, winner, 0) for factor in (odds, 1 / odds))
    return np.stack([few == cls.index for cls in label_map.classes]), np.stack([many == cls.index for cls in label_map.classes])


def _at_odds(threshold: float, factor: float) -> float:
    """A threshold whose odds, p / (1 - p), are ``factor`` times as high."""
    return threshold * factor / (1 - threshold + threshold * factor)


def best_threshold(
    probabilities: Iterable[npt.ArrayLike], truths: Iterable[npt.ArrayLike], valids: Iterable[npt.ArrayLike | None] | None = None
) -> float:
    """The threshold with the largest mean Dice over the images that hold the class; call it with VALIDATION images only.

    Parameters
    ----------
    probabilities: one float array (H, W) in 0..1 an image (of one class); iterables are read once, one image at a time.
    truths: boolean arrays of the same shapes.
    valids: boolean fields of view, or None.

    Returns
    -------
    One of 0.005, 0.010, ... 0.995; 0.5 without images that hold the class. Where several are equally good, the middle of that run
    nearest to 0.5, because a threshold at the edge of a plateau is the least likely to carry over to other images.
    """
    search = DiceSearch()
    for chance, reference, inside in _triples(probabilities, truths, valids):
        search.add(chance, reference, inside)
    return search.best


class DiceSearch:
    """The same, an image at a time: for several classes whose images are computed once."""

    def __init__(self) -> None:
        self._edges = np.arange(1, _STEPS) / _STEPS
        self._total = np.zeros(len(self._edges))

    def add(self, chance: npt.ArrayLike, reference: npt.ArrayLike, inside: npt.ArrayLike | None = None) -> None:
        curve = _dice_curve(chance, reference, inside, self._edges)
        if curve is not None:
            self._total += curve

    @property
    def best(self) -> float:
        if not self._total.max() > 0:
            return DEFAULT_THRESHOLD
        good = np.flatnonzero(self._total >= self._total.max() - 1e-12)
        runs = np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)
        middles = [float(self._edges[run[len(run) // 2]]) for run in runs]
        return min(middles, key=lambda threshold: abs(threshold - DEFAULT_THRESHOLD))


def _dice_curve(
    chance: npt.ArrayLike, reference: npt.ArrayLike, inside: npt.ArrayLike | None, edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Dice at every threshold from one histogram of the probabilities; None where the reference is empty."""
    values, truth = np.asarray(chance), np.asarray(reference)
    if values.shape != truth.shape or truth.dtype != np.bool_:
        raise ValueError(f"probabilities {values.shape} need a boolean reference of that shape, not {truth.dtype} {truth.shape}")
    if inside is not None:
        keep = np.asarray(inside).astype(bool)
        values, truth = values[keep], truth[keep]
    if not truth.any():
        return None
    # In the probabilities' own precision, so that the count equals `values >= threshold` to the last pixel.
    reached = np.searchsorted(edges.astype(values.dtype), values.ravel(), side="right")
    flat = truth.ravel()
    bins = len(edges) + 1
    tp, guessed = (np.cumsum(np.bincount(r, minlength=bins)[::-1])[::-1][1:] for r in (reached[flat], reached))
    dice: npt.NDArray[np.float64] = 2 * tp / (guessed + np.count_nonzero(flat))
    return dice


def _triples(
    probabilities: Iterable[npt.ArrayLike], truths: Iterable[npt.ArrayLike], valids: Iterable[npt.ArrayLike | None] | None
) -> Iterable[tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None]]:
    if valids is None:
        for chance, reference in zip(probabilities, truths, strict=True):
            yield chance, reference, None
    else:
        yield from zip(probabilities, truths, valids, strict=True)
