"""What can be measured of an OCT scan's quality: whether there is a signal, and a band of tissue that lies within the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.quality.scales import Scale, grade_of, graded_words
from pipeline.scans.display import displayed
from pipeline.types.assessment import QualityRecord

_SHAPE = (160, 256)
"""Rows and columns at which a B-scan is judged."""
_COLOUR = 12.0
"""Grey levels between the channels, on average, from which on a picture is in colour."""
_MOST_SLICES = 16
"""Of a volume so many are judged, evenly spread."""
SCALES = {
    "signal": Scale(6.0, 3.5, 2.5, 1.8, 0.5),
    "retina": Scale(0.95, 0.85, 0.70, 0.50, 0.20),
    "clipped": Scale(0.0, 0.05, 0.15, 0.40, 0.80),
    "band": Scale(0.45, 0.60, 0.68, 0.74, 0.90),
}
"""``signal``: contrast to noise of tissue · ``retina``: of the columns, those that one piece of tissue reaches · ``clipped``: of the
columns, those in which that piece touches the picture's top · ``band``: how much of the picture's height it fills (median of its columns),
which is little of a B-scan and much of a photograph or page."""
_WORDS = {
    "signal": ("The OCT signal is weak.", "The OCT signal is too weak to measure anything."),
    "retina": (
        "The retina is not seen in the whole width of the scan.",
        "No band of tissue crosses the picture: it is no OCT scan of a retina.",
    ),
    "band": ("This may be no OCT scan of a retina.", "This is no OCT scan of a retina."),
    "clipped": ("The retina is cut off at the top of the scan.", "The retina is cut off at the top of most of the scan."),
}


def bscan_quality(pixels: npt.NDArray[Any]) -> QualityRecord:
    """Of stored pixels (1 or 3, [D,] H, W); of a volume each score is its slices' median, so that single blinks do not count."""
    shown = displayed(pixels)
    if len(shown) == 3 and float(np.ptp(shown[..., ::4, ::4].astype(np.float32), axis=0).mean()) > _COLOUR:
        return QualityRecord(grade="not_measurable", reasons=("The picture has colours, which no OCT scan has.",), scores={"band": 0.0})
    shown = shown[0]
    slices = shown[None] if shown.ndim == 2 else shown
    chosen = slices[np.unique(np.linspace(0, len(slices) - 1, min(len(slices), _MOST_SLICES)).round().astype(int))]
    each = [slice_scores(one) for one in chosen]
    scores = {name: float(np.median([own[name] for own in each])) for name in SCALES}
    grade = grade_of(min(scores.values()))
    kept = {name: round(score, 3) for name, score in sorted(scores.items())}
    return QualityRecord(grade=grade, reasons=graded_words(scores, _WORDS), scores=kept)


def slice_scores(plane: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Of one B-scan uint8 (H, W)."""
    return {name: SCALES[name].score(value) for name, value in slice_values(plane).items()}


def slice_values(plane: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Raw values of one B-scan by name."""
    from PIL import Image
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    picture = np.asarray(Image.fromarray(plane).resize(_SHAPE[::-1], Image.Resampling.BOX), np.float32)
    smooth = ndimage.uniform_filter(picture, (5, 11), mode="nearest")
    nothing = {"signal": 0.0, "retina": 0.0, "clipped": 0.0, "band": 0.0}
    if np.ptp(smooth) < 1:
        return nothing
    tissue = smooth > threshold_otsu(smooth)
    pieces, _ = ndimage.label(tissue)
    largest = pieces == int(np.bincount(pieces.ravel())[1:].argmax()) + 1
    dark = picture[~ndimage.binary_dilation(tissue, iterations=3)]
    if dark.size < 0.1 * picture.size or largest.mean() < 0.02:
        return nothing
    signal = float((smooth[largest].mean() - dark.mean()) / max(float(dark.std()), 2.0))
    spans = largest.any(axis=0)
    return {
        "signal": signal,
        "retina": float(spans.mean()),
        "clipped": float(largest[0].mean()),
        "band": float(np.median(largest.mean(axis=0)[spans])),
    }
