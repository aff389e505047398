"""How far a case may be believed and what was measured of it, as ``case.json`` holds it: quality, flags, measures and doubt."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pipeline.types.quality import FlagRecord, Fraction, QualityGrade, QualityRecord, Record
from pipeline.types.result import Measure, Unit
from pipeline.types.scan import SpacingSource

__all__ = ["DoubtRecord", "FileName", "FlagRecord", "Fraction", "MeasureRecord", "QualityGrade", "QualityRecord", "Record"]

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\.png$")]


class MeasureRecord(Record):
    """One number. ``key`` names it in tables, ``title`` on pages · ``value`` None where it is ``undefined``, with the reason ·
    ``low`` and ``high``: its interval, which ``interval`` says what it is · ``source`` of the definition · ``reference``: the cited
    normal range, in words, or "" · ``classes`` it was measured on ·
    ``scale``: where the size of a pixel came from, for units other than px."""

    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,60}$")]
    title: str
    value: float | None
    unit: Unit
    definition: str
    undefined: str | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    source: str = ""
    reference: str = ""
    classes: tuple[str, ...] = ()
    scale: SpacingSource | None = None

    @classmethod
    def of(cls, key: str, title: str, measure: Measure, **more: Any) -> MeasureRecord:
        """A :class:`Measure` under its name, with whatever else is known of it."""
        own = {"value": measure.value, "unit": measure.unit, "definition": measure.definition}
        undefined = {} if measure.undefined is None else {"undefined": measure.undefined}
        return cls(key=key, title=title, **own, **undefined, **more)


class DoubtRecord(Record):
    """``maps``: of each plane the picture of uncertainty, white where most · ``predicted_dice`` of each class, what it would probably be
    if a reader drew the case · ``border`` of each class: mean uncertainty along its outline · ``unlike_training``: 0 as its training
    scans, 1 far from them, None where the bundle cannot tell · ``score``: 0 sure to 1 in doubt, which orders a worklist ·
    ``disagreement`` of flips (their deviation for each marked pixel) or of several bundles (1 less their Dice), None of a single look."""

    maps: tuple[FileName, ...] = ()
    predicted_dice: dict[str, Fraction] = Field({})
    border: dict[str, Fraction] = Field({})
    unlike_training: Fraction | None = None
    score: Fraction | None = None
    disagreement: Fraction | None = None
