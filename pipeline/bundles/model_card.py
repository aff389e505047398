"""A bundle's MODEL_CARD.md: what the model is, for what, and how far it can be trusted. After Mitchell et al. 2019,
doi:10.1145/3287560.3287596.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pipeline.metrics.overlap import Presence

COUNTS = {field.name for field in fields(Presence)}


WORDS = {
    "masks": ("Segments in {} images: ", "Threshold"),
    "objects": ("Finds in {} images: ", "Score threshold"),
    "grade": ("Says what a {} image as a whole is: ", "Confidence from which on the answer is given,"),
}
"""By what a task needs of every case (TargetKind): what it does, and what its thresholds are."""


def model_card(record: Mapping[str, Any], parameters: int, need: str) -> str:
    """Markdown from a bundle's record; ``need``: what its task learns from (TargetKind)."""
    does, threshold = WORDS[need]
    config, normalise = record["config"], record["config"]["data"]["normalise"]
    classes = record["label_map"]["classes"]
    lines = [
        f"# {record['name']} ({record['id']})",
        "",
        "**Research use, not for diagnosis.**",
        "",
        *([config["description"], ""] if config["description"] else []),
        "## What it does",
        "",
        does.format(record["modality"])
        + ", ".join(c["name"] for c in classes)
        + (" (classes may overlap)." if record["label_map"]["overlapping"] else "."),
        f"Network: {config['model']['name']}, {parameters:,} parameters, {record['input_channels']} input channels; "
        f"task: {config['task']['name']}.",
        f"Input: normalised by {normalise['method']}; pixels of the training images: " + _pixel_size(record["spacing_mm"]),
        "",
        "## Trained on",
        "",
        f"Data card `{config['data']['card']}` (sha256 {record['card_sha256'][:12]}), seed {config['seed']}, {record['created'][:10]}.",
        "",
        "## Validation",
        "",
        "Native resolution, inside the field of view. The best epoch and the thresholds were chosen on these same validation images, so",
        "these numbers are a little better than those on images it has never met; `ocuseg evaluate` measures the latter.",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {name} | {_shown(name, value)} |" for name, value in sorted(record["metrics"].items())),
        "",
        *(f"{threshold} of {name}: {value:.3f}" for name, value in record["thresholds"].items()),
        "",
        "## Limits",
        "",
        "Expect worse results on other cameras, fields of view, resolutions, populations and diseases than it was trained on.",
        "It knows only the classes above and has an answer for every image, whether or not it shows an eye.",
        "",
        "## Versions",
        "",
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def _pixel_size(spacing: Sequence[float | None] | None) -> str:
    if spacing is None:
        return "unknown size in mm."
    rows, columns = ("unknown" if axis is None else f"{axis:.4g} mm" for axis in spacing[-2:])
    apart = f", slices {spacing[0]:.4g} mm apart" if len(spacing) == 3 and spacing[0] is not None else ""
    return f"{rows} x {columns} (height x width){apart}."


def _shown(name: str, value: float) -> str:
    """Counts of images as they are, scores with four decimals."""
    return f"{value:.0f}" if COUNTS & set(name.split("/")) else f"{value:.4f}"
