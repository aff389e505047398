"""Small volumes with bright balls, and runs of networks of volumes on them that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import RunConfig, parse_config
from pipeline.scans.nifti import write_nifti
from pipeline.types import Geometry

SLICES, ROWS, COLUMNS = 5, 24, 36
CARD = """\
---
name: tiny_volumes
title: Bright balls in grey volumes
modality: oct
identifiers: public
licence: CC0
citation: none
source: drawn by a test
how_to_get: drawn by a test
classes:
  - {name: fluid, colour: [213, 94, 0]}
images: {file: "oct/{patient}_{eye:[LR]}.nii.gz"}
labels:
  - {kind: values, file: "labels/{patient}_{eye}.nii.gz", values: {0: background, 1: fluid}}
---
"""
MODEL = "{name: unet, dims: 3, widths: [4, 8], residual_units: 1, slice_halvings: 0}"
FLAT = "{name: unet, widths: [4, 8], residual_units: 1}"


def a_config(card: Path, model: str = MODEL, slices: int | None = 3, **changes: Any) -> RunConfig:
    text = f"""
        name: tiny_volumes
        data:
          card: {card}
          split: {{source: random, validation: 0.2, test: 0.2}}
          normalise: {{method: percentile, field_of_view: whole}}
          crop: [16, 24]
          {"" if slices is None else f"slices: {slices}"}
        task: {{name: semantic}}
        model: {model}
        train: {{epochs: 3, batch_size: 2, learning_rate: 0.01, validation_loss: true}}
        """
    return parse_config(text, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])


def write_data(folder: Path) -> Path:
    """Volumes, labels and ``card.md``; the folder itself is the root."""
    folder.mkdir(exist_ok=True)
    (folder / "card.md").write_text(CARD, encoding="utf-8")
    for name in ("oct", "labels"):
        (folder / name).mkdir()
    geometry = Geometry((SLICES, ROWS, COLUMNS), (0.2, 0.004, 0.01), "tag")
    z, y, x = np.mgrid[:SLICES, :ROWS, :COLUMNS]
    for patient in range(6):
        random = np.random.default_rng(patient)
        ball = ((z - 2) * 4) ** 2 + (y - random.integers(8, 16)) ** 2 + (x - random.integers(8, 28)) ** 2 < 50
        pixels = random.normal(90, 12, ball.shape) + 80 * ball
        write_nifti(folder / "oct" / f"P{patient}_L.nii.gz", pixels.clip(0, 255).astype(np.uint8), geometry)
        write_nifti(folder / "labels" / f"P{patient}_L.nii.gz", ball.astype(np.uint8), geometry)
    return folder
