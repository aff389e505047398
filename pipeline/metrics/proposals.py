"""How many true objects a detector's proposals cover, before anything classifies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.matching import box_overlaps


@dataclass(frozen=True)
class ProposalRecall:
    """Fraction of true objects covered by the first n proposals of their image, by n; None without a true object.

    ``every``: over the objects of all classes · ``by_class``: class index to the same · ``objects``: class index to their number.
    """

    every: Mapping[int, float | None]
    by_class: Mapping[int, Mapping[int, float | None]]
    objects: Mapping[int, int]

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Classes by name (``names`` of the classes 1..K)."""
        return {"all": _text(self.every), "by_class": {names[index - 1]: _text(values) for index, values in self.by_class.items()}}


def recall(
    proposals: Sequence[npt.ArrayLike],
    truths: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
    classes: int,
    at: Sequence[int] = (10, 100, 1000),
    iou: float = 0.5,
) -> ProposalRecall:
    """Recall of proposals that know no classes; an object is covered where some proposal overlaps it by at least ``iou``.

    Hosang et al. 2016, doi:10.1109/TPAMI.2015.2465908.

    Parameters
    ----------
    proposals: boxes (P, 4) xyxy of each image, highest-scoring first. truths: boxes (T, 4) and labels (T), 1..K, of each image.
    """
    if len(proposals) != len(truths):
        raise ValueError(f"proposals of {len(proposals)} images, but truths of {len(truths)}")
    firsts, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for boxes, (true_boxes, true_labels) in zip(proposals, truths, strict=True):
        near = box_overlaps(boxes, true_boxes) >= iou
        # The place of the first proposal that covers each object: one pass serves every n.
        firsts.append(np.where(near.any(axis=0), near.argmax(axis=0), max(at)) if len(near) else np.full(near.shape[1], max(at)))
        labels.append(np.asarray(true_labels, np.int64))
    first, label = np.concatenate(firsts), np.concatenate(labels)

    def fractions(places: npt.NDArray[np.int64]) -> dict[int, float | None]:
        return {n: float(np.mean(places < n)) if len(places) else None for n in at}

    return ProposalRecall(
        fractions(first),
        {index: fractions(first[label == index]) for index in range(1, classes + 1)},
        {index: int(np.count_nonzero(label == index)) for index in range(1, classes + 1)},
    )


def _text(fractions: Mapping[int, float | None]) -> dict[str, float | None]:
    return {str(n): found for n, found in fractions.items()}
