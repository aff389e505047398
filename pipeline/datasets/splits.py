"""Who is trained on and who is tested on: by patient, frozen to a file, guarded against leaks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.registry import Strict


class SplitConfig(Strict):
    """How cases are parted; always by patient."""

    source: Literal["official", "random"] = Field("official", description="official: the card's own parts; random: by the fractions below")
    validation: float = Field(
        0.2, ge=0, lt=1, description="share of patients; taken from the training part where the card has no validation part"
    )
    test: float = Field(0.2, ge=0, lt=1, description="share of patients of a random split")
    folds: int | None = Field(None, ge=2, description="cross-validation over the training part with this many folds, or null")
    fold: int = Field(0, ge=0, description="which fold is held out, from 0")
    near_duplicates: Literal["fail", "drop_from_train"] = Field(
        "fail", description="what the leakage guard does with the same or a near-identical image on both sides"
    )
