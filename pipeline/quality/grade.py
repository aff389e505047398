"""The grade of a scan: whether anything in it may be measured, by what can be seen in it and without any network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.quality.photograph import measured
from pipeline.quality.scales import Scale, grade_of, graded_words
from pipeline.quality.view import View
from pipeline.types.assessment import QualityRecord

SCALES = {
    "sharpness": Scale(-0.30, -0.62, -0.80, -1.00, -1.30),
    "contrast": Scale(0.040, 0.022, 0.014, 0.008, 0.0),
    "dark": Scale(40, 25, 15, 8, 0),
    "bright": Scale(0.03, 0.10, 0.25, 0.50, 1.0),
    "field_of_view": Scale(0.97, 0.88, 0.75, 0.60, 0.30),
    "shadow": Scale(0.0, 0.005, 0.018, 0.06, 0.20),
    "glare": Scale(0.0, 0.02, 0.05, 0.10, 0.30),
    "structure": Scale(2.0, 0.8, 0.3, 0.05, 0.0),
    "resolution": Scale(500, 300, 200, 120, 40),
    "colour": Scale(0.97, 0.80, 0.60, 0.40, 0.0),
    "edges": Scale(0.015, 0.05, 0.09, 0.13, 0.30),
    "range": Scale(0.60, 0.85, 1.00, 1.20, 2.0),
}
"""Of the values that photograph.py measures (``dark``: brightness; ``resolution``: the field's diameter in source pixels)."""
_WORDS = {
    "kind": ("This may be no photograph of a fundus.", "This is no photograph of a fundus."),
    "sharpness": ("The photograph is somewhat blurred.", "The photograph is too blurred to be measured."),
    "exposure": ("The photograph is not well exposed.", "The photograph is too dark or too bright to be measured."),
    "contrast": ("The contrast is low.", "There is too little contrast to measure anything."),
    "haze": ("The photograph is hazy.", "The photograph is too hazy to be measured."),
    "field_of_view": ("Part of the field of view is dark or cut off.", "Too much of the field of view is dark or cut off."),
    "artefacts": ("Shadows, eyelashes or reflections hide parts of the retina.", "Shadows, eyelashes or reflections hide too much."),
    "structure": ("Few retinal vessels can be seen.", "No retinal vessels can be seen, so this may be no retina."),
    "resolution": ("The picture has few pixels.", "The picture has too few pixels to be measured."),
}
_VEIL = (0.15, 0.40)
"""Smallest by largest colour channel (median): low contrast is called haze the more, the greyer the picture."""
_STRICTER = 3.0
"""Without a round field of view a picture must look like a fundus by so much more."""


def photograph_quality(view: View) -> QualityRecord:
    """Of a fundus photograph, or of what is said to be one."""
    if not view.inside.any():
        return _record({"resolution": 0.0})
    scores = photograph_scores(measured(view), view)
    return _record(scores)


def photograph_scores(values: Mapping[str, float], view: View) -> dict[str, float]:
    """By name, 0..1."""

    def score(name: str, value: float) -> float:
        return SCALES[name].score(value)

    doubtful = 1.0 if view.circle is not None else _STRICTER
    contrast = score("contrast", values["contrast"])
    scores = {
        "sharpness": score("sharpness", values["sharpness"]),
        "contrast": contrast,
        "field_of_view": score("field_of_view", values["cover"]),
        "artefacts": min(score("shadow", values["shadow"]), score("glare", values["glare"])),
        "structure": score("structure", values["vessels"] / (doubtful * (2 if view.grey else 1) if doubtful > 1 else 1)),
        "resolution": score("resolution", view.diameter),
        "kind": min(score("edges", values["edges"] * doubtful), score("range", values["range"] * doubtful**0.4)),
    }
    if view.absolute:
        scores["exposure"] = min(score("dark", values["brightness"]), score("bright", values["bright"]))
    if "colour" in values:
        scores["kind"] = min(scores["kind"], score("colour", values["colour"]))
        veil = float(np.interp(values["veil"], _VEIL, (0, 1)))
        scores["haze"] = 1 - (1 - contrast) * veil
    return scores


def _record(scores: Mapping[str, float]) -> QualityRecord:
    grade = grade_of(min(scores.values()))
    kept = {name: round(score, 3) for name, score in sorted(scores.items())}
    return QualityRecord(grade=grade, reasons=graded_words(scores, _WORDS), scores=kept)
