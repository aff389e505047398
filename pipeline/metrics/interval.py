"""Confidence intervals that respect patients: whole patients are drawn again, never single images or eyes.

Both eyes of a patient are alike; counting them as independent makes intervals too narrow (type-I error up to 0.19 where 0.05 is
said). Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray, FloatArray], FloatArray]
"""(sums (n, F), images (n,)) -> (n,): a statistic of the summed columns of n resampled data sets, NaN where it is undefined."""

FEWEST_PATIENTS = 3
"""Of fewer there is no interval: two patients drawn again are three different draws, one tells nothing of others."""

_BLOCK = 4_000_000


def mean_of_images(sums: FloatArray, images: FloatArray) -> FloatArray:
    """Mean per image of the first column."""
    return sums[:, 0] / images


def pooled_dice(sums: FloatArray, images: FloatArray) -> FloatArray:
    """Dice of the columns (TP, FP, FN, ...) added up over all images; undefined without TP and FN."""
    return _of_held(sums, 2 * sums[:, 0] / np.maximum(2 * sums[:, 0] + sums[:, 1] + sums[:, 2], 1))


def pooled_iou(sums: FloatArray, images: FloatArray) -> FloatArray:
    """IoU of the columns (TP, FP, FN, ...) added up over all images; undefined without TP and FN."""
    return _of_held(sums, sums[:, 0] / np.maximum(sums[:, 0] + sums[:, 1] + sums[:, 2], 1))


def patient_bootstrap(
    values_by_patient: Mapping[str, npt.ArrayLike], statistic: Statistic = mean_of_images, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval (low, high) of a statistic over images, drawing patients with replacement.

    Parameters
    ----------
    values_by_patient: for each patient its images' values, (images,) or (images, F).
    statistic: a function of column sums and image counts; this is what makes n = 2000 draws one matrix product.
    n: draws. seed: same seed, same interval. level: 0.95 gives the 2.5th and 97.5th percentile.

    Returns
    -------
    None with fewer than FEWEST_PATIENTS, or where the statistic is undefined in every draw; draws that do not define it are left out.
    """
    rows = _rows(values_by_patient)
    return _percentiles([(rows, 1.0)], statistic, n, seed, level)


def paired_patient_bootstrap(
    first: Mapping[str, npt.ArrayLike],
    second: Mapping[str, npt.ArrayLike],
    statistic: Statistic = mean_of_images,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile interval of statistic(first) - statistic(second) for two models on the SAME images; every draw serves both.

    Raises
    ------
    ValueError: the two do not hold the same patients with the same number of images.
    """
    left, right = _rows(first), _rows(second)
    if left.keys() != right.keys() or any(left[p].shape != right[p].shape for p in left):
        raise ValueError("a paired comparison needs the same patients and images on both sides")
    return _percentiles([(left, 1.0), (right, -1.0)], statistic, n, seed, level)


def patient_weights(patients: Sequence[str], n: int, seed: int = 0) -> FloatArray | None:
    """(n, images): how often each image of ``patients`` stands in each of n draws of patients with replacement, for statistics that are
    no function of sums (AUROC); None with fewer than FEWEST_PATIENTS."""
    names = sorted(set(patients))
    if len(names) < FEWEST_PATIENTS:
        return None
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n).astype(np.float64)
    place = {name: number for number, name in enumerate(names)}
    return np.asarray(times[:, [place[patient] for patient in patients]])


def percentile_interval(values: FloatArray, level: float = 0.95) -> tuple[float, float] | None:
    """(low, high) of the draws that define a statistic; None where none does."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, 1 - (1 - level) / 2])
    return float(low), float(high)


def _percentiles(
    sides: list[tuple[dict[str, FloatArray], float]], statistic: Statistic, n: int, seed: int, level: float
) -> tuple[float, float] | None:
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"level {level} must lie between 0 and 1, and n {n} above 0")
    # Sorted, so that the interval does not depend on the order in which patients arrived.
    patients = sorted(sides[0][0])
    if len(patients) < FEWEST_PATIENTS:
        return None
    generator = np.random.default_rng(seed)
    drawn: list[FloatArray] = []
    block = max(1, _BLOCK // len(patients))
    for start in range(0, n, block):
        count = min(block, n - start)
        # How often each patient was drawn, (count, patients): a multinomial is n draws with replacement, already counted.
        times = generator.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=count).astype(np.float64)
        value = np.zeros(count)
        for rows, sign in sides:
            sums = times @ np.stack([rows[p].sum(axis=0) for p in patients])
            images = times @ np.array([len(rows[p]) for p in patients], dtype=np.float64)
            value += sign * statistic(sums, images)
        drawn.append(value)
    return percentile_interval(np.concatenate(drawn), level)


def _rows(values: Mapping[str, npt.ArrayLike]) -> dict[str, FloatArray]:
    """Each patient's images as (images, F); patients without images do not take part."""
    out: dict[str, FloatArray] = {}
    for patient, value in values.items():
        rows: npt.NDArray[Any] = np.asarray(value, dtype=np.float64)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or not np.isfinite(rows).all():
            raise ValueError(f"values of patient {patient} must be finite, (images,) or (images, F)")
        if len(rows):
            out[patient] = rows
    return out


def _of_held(sums: FloatArray, score: FloatArray) -> FloatArray:
    return np.where(sums[:, 0] + sums[:, 2] > 0, score, np.nan)
