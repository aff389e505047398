"""Scores of masks that every family with masks shares, so that a U-Net and a Mask R-CNN stand in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields

import numpy as np
import numpy.typing as npt

from pipeline.metrics.overlap import Confusion, Found, Presence, measure
from pipeline.types import LabelMap, Measure

COUNTED = {"tp": "pixels of both masks", "fp": "pixels of the prediction alone", "fn": "pixels of the reference alone"}


def pixel_scores(
    label_map: LabelMap, layers: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]
) -> dict[str, Measure]:
    """``dice``, ``iou``, ``tp``, ``fp`` and ``fn`` of each class (``dice/vessel``), from layers (K, H, W), where ``known`` (H, W)."""
    pairs = zip(layers, truth, strict=True)
    return count_scores(label_map, [Confusion.of(guess, reference, known) for guess, reference in pairs])


def count_scores(label_map: LabelMap, counts: Sequence[Confusion]) -> dict[str, Measure]:
    """The same from the counts of each class."""
    measures: dict[str, Measure] = {}
    for name, found in zip(label_map.names, counts, strict=True):
        measures[f"dice/{name}"], measures[f"iou/{name}"] = measure("dice", found.dice), measure("iou", found.iou)
        for kind in COUNTED:
            measures[f"{kind}/{name}"] = Measure(getattr(found, kind), "px", COUNTED[kind])
    return measures


def pixel_summary(label_map: LabelMap, scores: Sequence[Mapping[str, Measure]], means: Mapping[str, float]) -> dict[str, float]:
    """Means over the images that hold a class (of ``means``, without the counts), pixels of all images together
    (``dice_pooled/vessel``), means over the classes that an image holds (``dice``), and how many images hold a class and how many were
    rightly left empty (:func:`presence_numbers`); nothing of pixels where no image has masks.
    """
    out = {name: value for name, value in means.items() if name.partition("/")[0] not in COUNTED}
    masked = [image for image in scores if f"dice/{label_map.names[0]}" in image]
    for name in label_map.names if masked else ():
        images = [Confusion(*(int(image[f"{kind}/{name}"].value or 0) for kind in COUNTED)) for image in masked]
        pooled = sum(images, Confusion())
        if pooled.dice is not None and pooled.iou is not None:
            out[f"dice_pooled/{name}"], out[f"iou_pooled/{name}"] = pooled.dice, pooled.iou
        out |= presence_numbers(name, images)
    for kind in ("dice", "iou", "dice_pooled", "iou_pooled") if masked else ():
        known = [out[f"{kind}/{name}"] for name in label_map.names if f"{kind}/{name}" in out]
        if known:
            out[kind] = sum(known) / len(known)
    return out


def presence_numbers(name: str, images: Iterable[Found]) -> dict[str, float]:
    """``held/NAME``, ``missed/NAME``, ``empty_right/NAME`` and ``empty_wrong/NAME``: how many of ``images`` are so."""
    return {f"{kind}/{name}": float(number) for kind, number in asdict(Presence.of(images)).items()}


def presence_sentences(numbers: Mapping[str, float], prefix: str = "") -> list[str]:
    """What must be said of the classes of a task's summary: which were never found, and which no image holds."""
    start = f"{prefix}held/"
    classes = [name.removeprefix(start) for name in numbers if name.startswith(start)]
    seen = {name: Presence(*(int(numbers[f"{prefix}{kind.name}/{name}"]) for kind in fields(Presence))) for name in classes}
    return [sentence for name, presence in seen.items() if (sentence := presence.sentence(name)) is not None]
