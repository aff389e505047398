"""A network without use is told by one rule."""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.metrics.useless import mostly_empty_sentence, useless_sentence, validation_dice
from pipeline.training.result import TrainingResult


def test_a_dice_below_a_fifth_is_of_no_use_and_an_undefined_one_says_nothing() -> None:
    assert useless_sentence({"disc": 0.2, "cup": None, "vessel": math.nan}, "test") is None
    said = useless_sentence({"disc": 0.9, "cup": 0.19}, "test")
    assert said is not None
    assert said.startswith("Dice on the test images: cup 0.19; below 0.2")


def test_dice_by_class_is_found_in_the_metrics_of_one_bundle_or_several() -> None:
    metrics = {"validation/dice": 0.1, "validation/dice/disc": 0.5, "validation/dice_pooled/disc": 0.6, "validation/held/disc": 3}
    assert validation_dice(metrics) == {"disc": 0.5}
    several = {"little/validation/dice/cup": 0.1, "little/validation/iou/cup": 0.3, "big/validation/dice/cup": 0.9}
    assert validation_dice(several) == {"little/cup": 0.1, "big/cup": 0.9}


def test_most_scans_are_more_than_half_of_them() -> None:
    assert mostly_empty_sentence("disc", 2, 4) is None
    assert mostly_empty_sentence("disc", 0, 0) is None
    assert "in 3 of 4 scans" in (mostly_empty_sentence("disc", 3, 4) or "")
    assert "in the one scan" in (mostly_empty_sentence("disc", 1, 1) or "")


def test_training_says_it(tmp_path: Path) -> None:
    found = TrainingResult(tmp_path, tmp_path, "0" * 12, {"validation/dice": 0.0, "validation/dice/disc": 0.0}, None)
    assert any(line.startswith("warning: Dice on the validation images: disc 0.00") for line in found.lines())
