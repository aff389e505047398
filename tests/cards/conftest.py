"""A small data set of artificial photographs, written as files, with a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cards.card import DataCard, parse_card
from pipeline.scans.raster import write_png

FRONT = {
    "name": "small",
    "title": "small artificial photographs",
    "modality": "fundus",
    "identifiers": "public",
    "licence": "none",
    "citation": "none",
    "source": "made here",
    "how_to_get": "made here",
    "classes": [{"name": "vessel", "colour": [213, 94, 0], "code": "SCT:59820001"}],
    "images": {"file": "images/{patient:[a-z]+}_{eye}.png"},
    "labels": [{"kind": "values", "file": "labels/{patient}_{eye}.png", "values": {255: "vessel"}}],
}


def card_text(**changes: object) -> str:
    """Front matter of the small set with some keys changed; None removes one."""
    front = {key: value for key, value in (FRONT | changes).items() if value is not None}
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# Small\n"


def make_card(**changes: object) -> DataCard:
    return parse_card(card_text(**changes))


def picture(seed: int, shape: tuple[int, int] = (60, 84)) -> np.ndarray:
    """A coloured disc with structure of its own, on black; uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns]
    inside = (y - rows / 2) ** 2 + (x - columns / 2) ** 2 < (0.46 * rows) ** 2
    blobs = np.kron(random.normal(size=(rows // 6 + 1, columns // 6 + 1)), np.ones((6, 6)))[:rows, :columns]
    image = 120 + 30 * blobs[..., None] + random.normal(scale=4, size=(rows, columns, 3)) + np.array([40, 0, -30])
    return np.where(inside[..., None], image.clip(40, 255), 3).astype(np.uint8)


@dataclass
class SmallSet:
    root: Path
    card: DataCard


@pytest.fixture
def small_set(tmp_path: Path) -> SmallSet:
    """Six patients, both eyes, 60 x 84."""
    for number, patient in enumerate("abcdef"):
        for side, eye in enumerate("RL"):
            image = picture(2 * number + side)
            label = (image[..., 1] > 140).astype(np.uint8) * 255
            for folder, array in (("images", image), ("labels", label)):
                (tmp_path / folder).mkdir(exist_ok=True)
                write_png(tmp_path / folder / f"{patient}_{eye}.png", array)
    return SmallSet(tmp_path, make_card())
