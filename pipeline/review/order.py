"""In which order cases are shown to a reviewer: those that a correction teaches most first, or none in particular."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.types.assessment import DoubtRecord
from pipeline.types.case_record import CaseRecord

Order = Literal["doubt", "typical", "disagreement", "random"]


def in_order(predictions: Path, names: Sequence[str], order: Order, seed: int = 0) -> list[str]:
    """These cases of a folder of predictions; those of which nothing is known come last, and equals stay in the order given.

    Parameters
    ----------
    order: doubt: the least sure first (``doubt.score`` of case.json) · typical: those first whose doubt is in the middle of all, so that
        few corrections teach a network what most cases need (docs/results/active_learning.md) · disagreement: those first on which
        several bundles, or flips of the picture, agree least · random: by a hash of ``seed`` and name, so that a case that joins later
        moves no other.

    Raises
    ------
    ConfigError: ``disagreement``, and each case was looked at once.
    """
    if order == "random":
        return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    known = {name: value for name in names if (value := _value(predictions / "cases" / name, order)) is not None}
    if order == "disagreement" and names and not known:
        raise ConfigError(
            "each of these cases was looked at once, so that nothing can disagree: predict with --doubt (flips), or with several bundles "
            "of one class; or review by --order doubt"
        )
    if order == "typical":
        ranked = sorted(known, key=lambda name: (known[name], name))
        known = {name: -abs(place - (len(ranked) - 1) / 2) for place, name in enumerate(ranked)}
    return sorted(names, key=lambda name: -known.get(name, -math.inf))


def _value(folder: Path, order: Order) -> float | None:
    try:
        doubt = CaseRecord.read(folder).doubt or DoubtRecord()
    except (OSError, ValueError):  # damaged: no reason to keep others from being reviewed
        return None
    return doubt.disagreement if order == "disagreement" else doubt.score
