"""Whether a scan may be measured at all, and what a person must look at, as ``case.json`` holds it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    """Whether the scan may be measured at all. ``reasons``: one sentence each, the weightiest first; of a good scan at most that the
    fovea may not be in view. ``scores``: of each thing that was looked at (sharpness, exposure, ...), 0 worst to 1 best."""

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


def withheld(quality: QualityRecord | None, flags: Iterable[FlagRecord], names: Iterable[str]) -> dict[str, str]:
    """{class: why none of its numbers is given}, of those of ``names`` of which none is: the weightiest reason."""
    if quality is not None and quality.grade == "not_measurable":
        return dict.fromkeys(names, quality.reasons[0] if quality.reasons else "the picture is not measurable")
    holding = [flag for flag in flags if flag.withholds]
    why = {name: next((flag.text for flag in holding if not flag.classes or name in flag.classes), None) for name in names}
    return {name: text for name, text in why.items() if text is not None}
