"""The demo says loudly when a training ends far below what is known of it, and takes as many steps on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.cards.card import load_card
from pipeline.cli.demo import LEAST_DICE, RUN_FILES, too_low
from pipeline.config import load_config


def summary(**dice: float | None) -> dict[str, Any]:
    return {"classes": {name: {"mean_per_image": {"dice": {"value": value}}} for name, value in dice.items()}}


@pytest.mark.parametrize(
    ("scores", "named"),
    [({"vessel": 0.88}, []), ({"disc": 0.94, "cup": 0.3}, ["cup"]), ({"disc": 0.0, "cup": None}, ["disc", "cup"]), ({"vein": 0.0}, [])],
)
def test_what_is_far_too_low_is_named(scores: dict[str, float | None], named: list[str]) -> None:
    told = too_low("a small network", summary(**scores))
    assert len(told) == len(named)
    for text, name in zip(told, named, strict=True):
        assert f"{scores[name] or 0:.3f} for {name}, where at least {LEAST_DICE[name]:.2f} is expected" in text


def test_every_class_of_the_demo_has_its_least_dice_and_no_training_follows_the_clock() -> None:
    for run_file in RUN_FILES:
        config = load_config(Path(run_file))
        assert config.train.minutes is None
        assert set(load_card(config.data.card).label_map.names) <= set(LEAST_DICE)
