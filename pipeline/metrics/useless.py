"""When a network's results are of no use: one rule and one sentence for training, evaluation, prediction and report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAST_DICE = 0.2
"""Below this mean Dice a class is found by chance at best."""


def useless_sentence(dice: Mapping[str, float | None], where: str) -> str | None:
    """What must be said of classes whose mean ``dice`` on the images of ``where`` is below :data:`LEAST_DICE`; None where none is."""
    low = [f"{name} {value:.2f}" for name, value in dice.items() if value is not None and value < LEAST_DICE]
    if not low:
        return None
    return f"Dice on the {where} images: {', '.join(low)}; below {LEAST_DICE} a result is of no use: train longer, or look at the pictures"


def validation_dice(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Mean Dice by class from a bundle's metrics (``validation/dice/CLASS``), or by BUNDLE/CLASS from those of several
    (``BUNDLE/validation/...``), two of which may have a class of one name."""
    start = "validation/dice/"
    return {name.replace(start, "", 1): float(value) for name, value in metrics.items() if f"/{start}" in f"/{name}"}


def mostly_empty_sentence(what: str, empty: int, scans: int) -> str | None:
    """What must be said where nothing of ``what`` was found in most of the ``scans``; None where it was."""
    if 2 * empty <= scans:
        return None
    where = "the one scan" if scans == 1 else f"{empty} of {scans} scans"
    return f"nothing of {what} was found in {where}: they show none of it, or the network does not see it; look at the pictures first"
