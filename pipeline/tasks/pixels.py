"""Scores of masks that every family with masks shares, so that a U-Net and a Mask R-CNN stand in one table."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.overlap import Confusion, HasCounts, Presence, aupr, auroc, cldice, measure, overlap_measures
from pipeline.metrics.surface import hd95_and_assd
from pipeline.types import VESSELS, Geometry, LabelMap, Measure, Role

Layers = npt.NDArray[np.bool_]

COUNTED = {"tp": "pixels of both masks", "fp": "pixels of the prediction alone", "fn": "pixels of the reference alone"}


@dataclass(frozen=True, eq=False)
class ScanPixels:
    """What was found in the pixels of a scan, and what is true of them.

    ``layers`` bool (K, [D,] H, W) and ``probabilities`` float of that shape, or None: of the task's classes · ``truth`` bool (S, [D,] H, W)
    of the S classes that are scored: their ``names``, ``roles``, and ``places`` among the task's · ``known`` bool ([D,] H, W): where
    they count.
    """

    names: tuple[str, ...]
    roles: tuple[Role | None, ...]
    places: tuple[int, ...]
    layers: Layers
    truth: Layers
    known: npt.NDArray[np.bool_]
    probabilities: npt.NDArray[np.float32] | None

    @classmethod
    def of(cls, slices: Sequence[tuple[Any, Any, Any, Any]], ours: LabelMap, theirs: LabelMap, volume: bool) -> ScanPixels:
        """Layers, truth, known (1, H, W) and probabilities (or None) of each slice together; a picture has one slice and no D."""

        def together(parts: Sequence[Any]) -> Any:
            return np.stack(parts, axis=1) if volume else parts[0]

        layers, truth, known, maps = zip(*slices, strict=True)
        probabilities = None if any(one is None for one in maps) else together(maps)
        places = tuple(place for place, name in enumerate(ours.names) if name in theirs.names)
        names = tuple(ours.names[place] for place in places)
        roles = tuple(ours.roles[place] or theirs.roles[theirs.names.index(name)] for place, name in zip(places, names, strict=True))
        return cls(names, roles, places, together(layers), together(truth), together(known)[0], probabilities)

    @functools.cached_property
    def found(self) -> Layers:
        """``layers`` of the classes that are scored, (S, [D,] H, W)."""
        return self.layers[list(self.places)]


def pixel_scores(pixels: ScanPixels) -> dict[str, Measure]:
    """``dice``, ``iou``, ``tp``, ``fp`` and ``fn`` of each class (``dice/vessel``)."""
    pairs = zip(pixels.found, pixels.truth, strict=True)
    return count_scores(pixels.names, [Confusion.of(guess, reference, pixels.known) for guess, reference in pairs])


def count_scores(names: Sequence[str], counts: Sequence[Confusion]) -> dict[str, Measure]:
    """The same from the counts of each class."""
    measures: dict[str, Measure] = {}
    for name, found in zip(names, counts, strict=True):
        measures[f"dice/{name}"], measures[f"iou/{name}"] = measure("dice", found.dice), measure("iou", found.iou)
        for kind in COUNTED:
            measures[f"{kind}/{name}"] = Measure(getattr(found, kind), "px", COUNTED[kind])
    return measures


def detailed_scores(pixels: ScanPixels, geometry: Geometry) -> dict[str, Measure]:
    """:func:`pixel_scores`, and what else an evaluation wants to know of each class.

    ``tn``, ``pixel_accuracy``, ``sensitivity``, ``specificity`` · of a picture's vessels ``cldice``, of what is no vessel the distances of
    outlines ``hd95_px``, ``assd_px``; of a volume in mm or not at all, because slices lie much further apart than pixels ·
    ``auroc`` and ``aupr`` where there are probabilities.
    """
    known = pixels.known
    all_counts = [Confusion.of(guess, true, known) for guess, true in zip(pixels.found, pixels.truth, strict=True)]
    measures = count_scores(pixels.names, all_counts)
    for index, (name, role) in enumerate(zip(pixels.names, pixels.roles, strict=True)):
        guess, true, counts = pixels.found[index], pixels.truth[index], all_counts[index]
        scores = overlap_measures(counts) | {"tn": Measure(counts.tn, "px", "pixels of neither mask")}
        if role in VESSELS:
            if guess.ndim == 2:
                scores["cldice"] = measure("cldice", cldice(guess, true, known))
        elif guess.ndim == 2:
            scores["hd95_px"], scores["assd_px"] = hd95_and_assd(guess, true, valid=known)
        elif (spacing_mm := geometry.voxel_mm) is not None:
            scores["hd95_mm"], scores["assd_mm"] = hd95_and_assd(guess, true, spacing_mm, known)
        else:
            scores["hd95_mm"] = scores["assd_mm"] = Measure(None, "mm", "distance of outlines", "the spacing of an axis is not known")
        if pixels.probabilities is not None:
            chances = pixels.probabilities[pixels.places[index]]
            scores["auroc"] = measure("auroc", auroc(chances, true, known))
            scores["aupr"] = measure("aupr", aupr(chances, true, known))
        measures |= {f"{kind}/{name}": score for kind, score in scores.items()}
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


def presence_numbers(name: str, images: Iterable[HasCounts]) -> dict[str, float]:
    """``held/NAME``, ``missed/NAME``, ``empty_right/NAME`` and ``empty_wrong/NAME``: how many of ``images`` are so."""
    return {f"{kind}/{name}": float(number) for kind, number in asdict(Presence.of(images)).items()}


def presence_sentences(numbers: Mapping[str, float], prefix: str = "") -> list[str]:
    """What must be said of the classes of a task's summary: which were never found, and which no image holds."""
    start = f"{prefix}held/"
    classes = [name.removeprefix(start) for name in numbers if name.startswith(start)]
    seen = {name: Presence(*(int(numbers[f"{prefix}{kind.name}/{name}"]) for kind in fields(Presence))) for name in classes}
    return [sentence for name, presence in seen.items() if (sentence := presence.sentence(name)) is not None]
