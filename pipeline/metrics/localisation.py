"""Where the one object of a picture was found: how far its centre is off, and how much its box overlaps the true one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.interval import patient_weights, percentile_interval
from pipeline.metrics.matching import box_overlaps
from pipeline.metrics.objects import ImageObjects

FloatArray = npt.NDArray[np.float64]
_FAR = 1e6
"""Diameters: in place of infinity, with which quantiles cannot calculate."""


@dataclass(frozen=True, eq=False)
class Located:
    """Of the pictures with a true object of a class, and the highest-scoring detection of that class in each.

    ``errors`` (N): distance of the two centres, in diameters of the true object (mean of its width and height); infinite (_FAR) where
    nothing was found · ``overlaps`` (N): IoU of the boxes, 0 where nothing was found · ``patients``: whose they are.
    """

    errors: FloatArray
    overlaps: FloatArray
    patients: tuple[str, ...]

    @classmethod
    def of(cls, images: Sequence[ImageObjects], patients: Sequence[str], index: int) -> Located:
        """Of class ``index``, 1..K; no picture where one has several objects of it: then where *the* object is has no meaning."""
        counts = [int((one.true_labels == index).sum()) for one in images]
        alone = max(counts, default=0) == 1
        found = [(one, whose) for one, whose, count in zip(images, patients, counts, strict=True) if alone and count]
        pairs = [_pair(one, index) for one, _ in found]
        return cls(np.array([e for e, _ in pairs]), np.array([o for _, o in pairs]), tuple(whose for _, whose in found))

    def to_json(self, draws: int, seed: int, level: float) -> dict[str, Any] | None:
        """``centre_error`` (median) and ``overlap`` (mean), each with ``value``, ``low`` and ``high`` over patients, or None where it is
        undefined or infinite; ``images`` and ``missed`` ones. None without any such picture."""
        if not len(self.errors):
            return None
        weights = patient_weights(self.patients, draws, seed)
        once = np.ones((1, len(self.errors)))
        told: dict[str, Any] = {"images": len(self.errors), "missed": int((self.errors >= _FAR).sum())}
        for name, statistic in (("centre_error", self._medians), ("overlap", self._means)):
            ends = None if weights is None else percentile_interval(statistic(weights), level)
            low, high = (None, None) if ends is None else map(_finite, ends)
            told[name] = {"value": _finite(float(statistic(once)[0])), "low": low, "high": high}
        return told

    def _medians(self, weights: FloatArray) -> FloatArray:
        """(n, N) -> (n): the smallest error that half of the drawn pictures do not exceed."""
        order = np.argsort(self.errors)
        share = np.cumsum(weights[:, order], axis=1) / weights.sum(axis=1, keepdims=True)
        return np.asarray(self.errors[order][np.argmax(share >= 0.5 - 1e-9, axis=1)])

    def _means(self, weights: FloatArray) -> FloatArray:
        return np.asarray(weights @ self.overlaps / weights.sum(axis=1))


def _pair(image: ImageObjects, index: int) -> tuple[float, float]:
    truth = image.true_boxes[image.true_labels == index][0].astype(np.float64)
    own = np.flatnonzero(image.labels == index)
    if not len(own):
        return _FAR, 0.0
    box = image.boxes[own[np.argmax(image.scores[own])]].astype(np.float64)
    apart = (box[:2] + box[2:] - truth[:2] - truth[2:]) / 2
    return float(np.hypot(*apart) / np.mean(truth[2:] - truth[:2])), float(box_overlaps(box[None], truth[None])[0, 0])


def _finite(value: float) -> float | None:
    return value if value < _FAR else None
