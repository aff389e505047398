"""Measures as pages show them: value with unit, interval and reference, beside those of the fellow eye or of another visit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.reports.results import ReportCase
from pipeline.reports.wording import count
from pipeline.types import Unit
from pipeline.types.assessment import MeasureRecord

NONE = "–"
"""In place of a number that is undefined or withheld; the reason stands beside it."""
ESTIMATED = " (estimated)"
_UNITS: dict[Unit, str] = {
    "1": "",
    "%": " %",
    "px": " px",
    "px2": " px²",
    "voxels": " voxels",
    "mm": " mm",
    "mm2": " mm²",
    "mm3": " mm³",
    "um": " µm",
    "deg": "°",
    "1/px": " per px",
    "1/mm": " per mm",
    "1/px2": " per px²",
    "1/mm2": " per mm²",
}
_ALL_AT_ONCE = 9
_OF_EACH_GROUP = 4


@dataclass(frozen=True)
class ShownMeasure:
    """One number in words: ``text`` with its unit, or "–" with the reason ``why`` · ``bounds`` "0.55 to 0.69" or "" · ``fellow``: the same
    of the fellow eye, or "" · ``value`` None where no number is shown."""

    record: MeasureRecord
    value: float | None
    text: str
    why: str = ""
    bounds: str = ""
    fellow: str = ""

    @property
    def estimated(self) -> bool:
        """Whether the size of a pixel is; ``text`` says so, and it is compared with its like alone."""
        return self.record.scale == "estimated" and self.value is not None


def shown_measures(case: ReportCase, fellow: ReportCase | None = None) -> list[ShownMeasure]:
    """Every measure of a case, in the order in which it was measured."""
    others = {} if fellow is None else {one.record.key: one for one in shown_measures(fellow)}
    out = []
    for record in case.record.measures:
        beside = others.get(record.key)
        same = beside is not None and (beside.value is None or beside.record.unit == record.unit)
        out.append(_shown(case, record, beside.text if beside is not None and same else ""))
    return out


def _shown(case: ReportCase, record: MeasureRecord, fellow: str) -> ShownMeasure:
    why = _why_withheld(case, record) or record.undefined or ""
    if why or record.value is None:
        return ShownMeasure(record, None, NONE, why or "no reason is recorded", fellow=fellow)
    bounds = ""
    if record.low is not None and record.high is not None:
        bounds = f"{number(record.low, record.unit)} to {number(record.high, record.unit)}"
    text = with_unit(record.value, record.unit) + (ESTIMATED if record.scale == "estimated" else "")
    return ShownMeasure(record, record.value, text, bounds=bounds, fellow=fellow)


def _why_withheld(case: ReportCase, measure: MeasureRecord) -> str:
    """Why the number may not be shown, or ""."""
    record = case.record
    if record.measurable and not any(map(record.withheld, measure.classes)):
        return ""
    of_it = [flag.text for flag in record.flags if flag.withholds and (not flag.classes or set(flag.classes) & set(measure.classes))]
    graded = record.quality is not None and record.quality.grade == "not_measurable"
    return " ".join([*(record.quality.reasons[:1] if record.quality and graded else ()), *of_it]) or "the picture is not measurable"


def in_front(measures: Sequence[ShownMeasure]) -> tuple[list[ShownMeasure], list[ShownMeasure]]:
    """Those to be seen at once, and the rest: of many some of each group of classes, one of each kind, in whose order the weightiest come
    first."""
    if len(measures) <= _ALL_AT_ONCE:
        return list(measures), []
    front: list[ShownMeasure] = []
    for _, own in groupby(measures, key=lambda one: one.record.classes):
        kinds: dict[str, ShownMeasure] = {}
        for one in own:
            kinds.setdefault(_kind(one), one)  # the whole stands before its zones and quadrants
        front += list(kinds.values())[:_OF_EACH_GROUP]
    front = front[: 2 * _ALL_AT_ONCE]
    keys = {one.record.key for one in front}
    return front, [one for one in measures if one.record.key not in keys]


def _kind(one: ShownMeasure) -> str:
    return re.split("[,:(]", one.record.title)[0].strip()


def number(value: float, unit: Unit) -> str:
    """Without its unit, to as many digits as are worth reading."""
    size = abs(value)
    if size >= 100 or (value == int(value) and unit in ("1", "px", "px2", "voxels")):
        return f"{'-' if value <= -0.5 else ''}{count(round(size))}"
    if unit in ("%", "um", "deg", "px", "px2", "voxels"):
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or not value else f"{value:.2g}"


def with_unit(value: float, unit: Unit) -> str:
    return number(value, unit) + _UNITS[unit]


def difference(one: ShownMeasure, other: ShownMeasure) -> str:
    """``one`` less ``other`` with its sign, "" where one has no number, or they differ in unit or in how the scale is known."""
    if one.value is None or other.value is None or (one.record.unit, one.estimated) != (other.record.unit, other.estimated):
        return ""
    least = one.value - other.value
    text = ("+" if least > 0 else "") + with_unit(least, one.record.unit).replace("-", "\N{MINUS SIGN}")
    return text + (ESTIMATED if one.estimated else "")


def by_key(measures: Iterable[ShownMeasure]) -> dict[str, ShownMeasure]:
    return {one.record.key: one for one in measures}
