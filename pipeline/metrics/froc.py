"""Per-lesion sensitivity against false positives an image: the free-response operating characteristic (FROC).

Bandos et al. 2009, doi:10.1111/j.1541-0420.2008.01049.x. The single number is that of CAMELYON16 (Ehteshami Bejnordi et al. 2017,
doi:10.1001/jama.2017.14585): the mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.metrics.matching import REPEAT, FloatArray
from pipeline.metrics.objects import Hit, ImageObjects, Kind, ranked

RATES = (1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Froc:
    """One class's curve over ``images`` images with ``lesions`` true objects.

    ``false_positives`` (an image), ``sensitivity`` and ``thresholds``: float64 (N + 1), one point a distinct score, falling; the first
    point is 0, 0 at threshold infinity.
    """

    images: int
    lesions: int
    false_positives: FloatArray = field(repr=False)
    sensitivity: FloatArray = field(repr=False)
    thresholds: FloatArray = field(repr=False)

    def at(self, rate: float) -> float:
        """Sensitivity of the best operating point with at most ``rate`` false positives an image; nothing is interpolated."""
        return float(self.sensitivity[np.searchsorted(self.false_positives, rate, side="right") - 1])

    @property
    def score(self) -> float:
        """Mean sensitivity at :data:`RATES`."""
        return sum(self.at(rate) for rate in RATES) / len(RATES)

    def to_json(self) -> dict[str, Any]:
        rates = {f"{rate:g}": self.at(rate) for rate in RATES}
        return {"images": self.images, "lesions": self.lesions, "score": self.score, "sensitivity_at": rates}


def froc(images: Sequence[ImageObjects], index: int, hit: Hit = "centre", kind: Kind = "box") -> Froc | None:
    """The curve of class ``index`` over all images, those without a lesion too; None without a single lesion.

    ``hit``: by centre or by IoU .50, see :func:`~pipeline.metrics.objects.ranked`. A further detection of a lesion that is already
    found counts neither for nor against, as in CAMELYON16.
    """
    rank = ranked(images, index, hit, kind, most=None)
    lesions = int(rank.truths.sum())
    if not lesions:
        return None
    # Detections of one score stand or fall together: only the last of them is an operating point.
    last = np.flatnonzero(np.append(rank.scores[1:] != rank.scores[:-1], True)) if len(rank.scores) else np.zeros(0, np.int64)
    found = np.cumsum(rank.hit)[last] / lesions
    alarms = np.cumsum(~rank.hit & (rank.taken != REPEAT))[last] / len(images)
    thresholds = rank.scores[last].astype(np.float64)
    start = np.zeros(1)
    return Froc(
        len(images), lesions, np.concatenate([start, alarms]), np.concatenate([start, found]), np.concatenate([start + np.inf, thresholds])
    )
