"""How far a case may be believed and what was measured of it, as ``case.json`` holds it: quality, flags, measures and doubt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.types.result import Measure, Unit
from pipeline.types.scan import SpacingSource

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}\.png$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
QualityGrade = Literal["good", "usable", "poor", "not_measurable"]
"""In descending order. Of ``poor`` pictures numbers are shown with a warning, of ``not_measurable`` ones none is."""


class Record(BaseModel):
    """Base of what is kept as JSON: numbers are finite, and a key that was never set is not written."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """The keys that were set, as JSON has them, in the order of the schema."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class QualityRecord(Record):
    """Whether the scan may be measured at all. ``reasons``: one sentence each, the weightiest first; none of a good scan.
    ``scores``: of each thing that was looked at (sharpness, exposure, ...), 0 worst to 1 best."""

    grade: QualityGrade
    reasons: tuple[str, ...] = ()
    scores: dict[str, Fraction] = {}


class FlagRecord(Record):
    """One thing that a person must look at: ``code`` for programs, ``text`` one sentence · ``withholds``: no number of these ``classes``
    (of all, where none is named) is shown."""

    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
    text: str
    withholds: bool = False
    classes: tuple[str, ...] = ()


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
    if a reader drew the case · ``unlike_training``: 0 as its training scans, 1 far from them, None where the bundle cannot tell ·
    ``score``: 0 sure to 1 in doubt, which orders a worklist."""

    maps: tuple[FileName, ...] = ()
    predicted_dice: dict[str, Fraction] = {}
    unlike_training: Fraction | None = None
    score: Fraction | None = None
