"""Scores of masks that every family with masks shares, so that a U-Net and a Mask R-CNN stand in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.metrics.overlap import Confusion, measure
from pipeline.types import LabelMap, Measure

COUNTED = {"tp": "pixels of both masks", "fp": "pixels of the prediction alone", "fn": "pixels of the reference alone"}


def pixel_scores(
    label_map: LabelMap, layers: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]
) -> dict[str, Measure]:
    """``dice``, ``iou``, ``tp``, ``fp`` and ``fn`` of each class (``dice/vessel``), from layers (K, H, W), where ``known`` (H, W)."""
    measures: dict[str, Measure] = {}
    for name, guess, reference in zip(label_map.names, layers, truth, strict=True):
        counts = Confusion.of(guess, reference, known)
        measures[f"dice/{name}"], measures[f"iou/{name}"] = measure("dice", counts.dice), measure("iou", counts.iou)
        for kind in COUNTED:
            measures[f"{kind}/{name}"] = Measure(getattr(counts, kind), "px", COUNTED[kind])
    return measures


def pixel_summary(label_map: LabelMap, scores: Sequence[Mapping[str, Measure]], means: Mapping[str, float]) -> dict[str, float]:
    """Means over images (of ``means``, without the counts), pixels of all images together (``dice_pooled/vessel``), and over classes
    (``dice``); nothing of pixels where no image has masks.
    """
    out = {name: value for name, value in means.items() if name.partition("/")[0] not in COUNTED}
    masked = [image for image in scores if f"dice/{label_map.names[0]}" in image]
    for name in label_map.names if masked else ():
        tp, fp, fn = (sum(int(image[f"{kind}/{name}"].value or 0) for image in masked) for kind in COUNTED)
        pooled = Confusion(tp, fp, fn)
        out[f"dice_pooled/{name}"], out[f"iou_pooled/{name}"] = pooled.dice, pooled.iou
    for kind in ("dice", "iou", "dice_pooled", "iou_pooled") if masked else ():
        out[kind] = sum(out[f"{kind}/{name}"] for name in label_map.names) / len(label_map)
    return out
