"""How a picture looks, in a dozen numbers, and how far that is from the pictures that a network was trained on.

Light, colour, sharpness and the shape of the field of view tell a photograph of a fundus from a form, a landscape or an OCT, and one
camera from another; whether the network still does well on it is another question (doubt/evidence.py). The distance is that of
Mahalanobis, Proceedings of the National Institute of Sciences of India 2(1):49-55, 1936.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.doubt.model import TrainingLook

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SIDE = 192
"""Rows and columns, at most, of the coarse picture that is looked at."""
FEATURES = (
    "field",
    "round",
    "red",
    "blue",
    "red_spread",
    "blue_spread",
    "dark",
    "low",
    "high",
    "bright",
    "fine",
    "middle",
    "coarse",
    "rim",
)
SHRINK = 0.1
"""Fraction of the covariance that is replaced by that of features which have nothing to do with each other: a few dozen pictures do not
tell all of it."""


def look(pixels: npt.NDArray[Any], field: Mask) -> Floats:
    """FEATURES of a picture (C, H, W) of any depth in its field of view, bool (H, W): its share of the picture, and of the circle around
    it · colour, as log ratios to green · quantiles of brightness, in deviations · mean steps between neighbours at three scales · how
    brightness goes with the distance from the middle."""
    step = -(-max(field.shape) // SIDE)
    small = coarser(pixels, step).astype(np.float64)
    inside = coarser(field[None], step)[0] > 0.5
    if inside.sum() < 16:
        inside = np.ones_like(inside)
    green = small[len(small) // 2]
    colours = [np.log((plane[inside] + 1) / (green[inside] + 1)) for plane in (small[0], small[-1])]
    values = green[inside]
    deviation = max(float(values.std()), 1e-6)
    grey = np.where(inside, (green - values.mean()) / deviation, 0.0)
    rows, columns = np.nonzero(inside)
    diameter = max(np.ptp(rows), np.ptp(columns)) + 1
    radius = np.hypot(rows - rows.mean(), columns - columns.mean())
    rim = float(np.corrcoef(radius, grey[inside])[0, 1]) if values.std() > 0 else 0.0
    return np.array(
        [
            inside.mean(),
            inside.sum() / (np.pi / 4 * diameter**2),
            *(colour.mean() for colour in colours),
            *(colour.std() for colour in colours),
            *np.quantile(grey[inside], (0.02, 0.25, 0.75, 0.98)),
            *(_step(coarser(grey[None], scale)[0], coarser(inside[None], scale)[0] == 1) for scale in (1, 2, 4)),
            rim,
        ]
    )


def distance(training: TrainingLook, found: Floats) -> float:
    """In deviations of the training pictures."""
    away = found - np.array(training.mean)
    return float(np.sqrt(max(away @ np.array(training.inverse) @ away, 0.0)))


def unlike(training: TrainingLook, found: Floats) -> float:
    """0 for 99 of 100 pictures like those of training, and the nearer to 1 the farther away: one half at twice that distance."""
    away = distance(training, found)
    return 0.0 if away <= training.usual else 1 - training.usual / away


def learn_look(training: Sequence[Floats], validation: Sequence[Floats]) -> TrainingLook:
    """From the looks of training pictures, and of the validation pictures that say how far is usual.

    Raises
    ------
    ValueError: fewer than two training pictures, or no validation picture.
    """
    if len(training) < 2 or not len(validation):
        raise ValueError(f"{len(training)} training and {len(validation)} validation pictures do not say what is usual")
    table = np.stack(training)
    spread = np.cov(table, rowvar=False)
    spread = (1 - SHRINK) * spread + SHRINK * np.diag(np.diag(spread)) + 1e-6 * np.eye(len(spread))
    inverse = np.linalg.inv(spread)
    known = TrainingLook(
        features=FEATURES,
        mean=tuple(float(f"{value:.6g}") for value in table.mean(axis=0)),
        inverse=tuple(tuple(float(f"{value:.6g}") for value in row) for row in (inverse + inverse.T) / 2),
        usual=1.0,
    )
    usual = float(np.quantile([distance(known, one) for one in validation], 0.99))
    return known.model_copy(update={"usual": round(usual, 4)})


def coarser(planes: npt.NDArray[Any], step: int) -> npt.NDArray[np.float32]:
    """(C, H, W) -> means of squares of ``step`` pixels, float32; what does not fill one is left out."""
    if step <= 1 or min(planes.shape[1:]) < step:
        return planes.astype(np.float32)
    rows, columns = (side // step * step for side in planes.shape[1:])
    parts = planes[:, :rows, :columns].reshape(len(planes), rows // step, step, columns // step, step)
    return np.asarray(parts.mean(axis=(2, 4), dtype=np.float32))


def _step(grey: npt.NDArray[np.floating[Any]], inside: Mask) -> float:
    """Log of the mean difference of neighbours that both lie inside."""
    across, down = inside[:, 1:] & inside[:, :-1], inside[1:] & inside[:-1]
    steps = np.concatenate([np.abs(np.diff(grey, axis=1))[across], np.abs(np.diff(grey, axis=0))[down]])
    return float(np.log(steps.mean() + 1e-3)) if steps.size else float(np.log(1e-3))
