"""Which cases a person must look at first, and why: the order in which a worklist opens, its status words and its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.reports.results import ReportCase
from pipeline.types.quality import withheld

_EYE_ORDER = {"R": 0, "L": 1, "U": 2}
_LIMITS = {"vcdr": 0.2}
"""By the key of a measure, a difference between fellow eyes that few healthy people reach: of the vertical cup-to-disc ratio 6 % (Ong et
al. 1999, the Blue Mountains Eye Study). Of other measures no such number is accepted, and they order nothing."""

Level = Literal["done", "unchecked", "look"]
"""``done``: quality gate and plausibility passed · ``unchecked``: nothing speaks against it, but no gate has looked at it."""


@dataclass(frozen=True)
class Status:
    """In a word what became of a case, and how that is shown."""

    word: str
    level: Level


@dataclass(frozen=True)
class Asymmetry:
    """How far the eyes of one visit differ, as a multiple of what is usual at most, and in which ``title``: ``own`` against ``fellow``."""

    times_usual: float
    title: str
    own: float
    fellow: float

    @property
    def text(self) -> str:
        return f"{self.title} {self.own:.2f}, fellow eye {self.fellow:.2f}"


def chart_order(case: ReportCase) -> tuple[str, str, int, str]:
    """Fellow eyes of one visit stand together, the right one first, as charts have them."""
    return case.key.patient, case.key.visit, _EYE_ORDER[case.side], case.key.image


def asymmetries(cases: Sequence[ReportCase]) -> dict[str, Asymmetry]:
    """By name of the case: the largest difference to the fellow eye in any measure with a known limit; cases without one are left out."""
    eyes: dict[tuple[str, str, str], list[ReportCase]] = {}
    for case in cases:
        eyes.setdefault((case.key.patient, case.key.visit, case.side), []).append(case)
    out: dict[str, Asymmetry] = {}
    for case in cases:
        side = {"R": "L", "L": "R"}.get(case.side)
        fellows = eyes.get((case.key.patient, case.key.visit, side), []) if side else []
        found = [one for fellow in fellows for one in _differences(case, fellow)]
        if found:
            out[str(case.key)] = max(found, key=lambda one: one.times_usual)
    return out


def _differences(case: ReportCase, fellow: ReportCase) -> list[Asymmetry]:
    own, other = _values(case), _values(fellow)
    return [
        Asymmetry(abs(own[key][1] - other[key][1]) / limit, own[key][0], own[key][1], other[key][1])
        for key, limit in _LIMITS.items()
        if key in own and key in other
    ]


def _values(case: ReportCase) -> dict[str, tuple[str, float]]:
    """Title and value of the measures that may be shown."""
    record = case.record
    shown = [one for one in record.measures if record.measurable and not any(map(record.withheld, one.classes))]
    return {one.key: (one.title, one.value) for one in shown if one.value is not None}


def needs_eyes_first(case: ReportCase, asymmetry: Mapping[str, Asymmetry]) -> tuple[object, ...]:
    """What cases are sorted by: not measurable, flags (those that withhold numbers before others), a poor picture or nothing
    found, doubt in tenths, asymmetry, then as charts have them."""
    record = case.record
    if not record.measurable:
        tier = 0
    elif any(flag.withholds for flag in record.flags):
        tier = 1
    elif record.flags:
        tier = 2
    else:
        tier = 3 if record.needs_eyes or _found_nothing(case) else 4
    doubt = -1.0 if record.doubt is None or record.doubt.score is None else record.doubt.score
    own = asymmetry.get(str(case.key))
    # Doubt is no finer than a tenth; in between, the eyes that differ most come first.
    return tier, -round(doubt, 1), 0.0 if own is None else -own.times_usual, chart_order(case)


def _found_nothing(case: ReportCase) -> bool:
    """As the prediction recorded it: no class, and of a run that marks nothing no answer."""
    if not case.found:
        return bool(case.answers) and all(one.answer is None for one in case.answers)
    return not any(one.pixels or one.objects for one in case.found.values())


def status(case: ReportCase, *, nothing: bool, useless: bool) -> Status:
    """``nothing``: the networks found nothing, or gave no answer · ``useless``: the bundle's own validation says that it finds nothing."""
    record = case.record
    if not record.measurable:
        return Status("not measurable", "look")
    if record.flags:
        return Status("flagged", "look")
    if record.needs_eyes:
        return Status("poor picture", "look")
    if nothing:
        return Status("nothing found" if case.found else "not answered", "look")
    if useless:
        return Status("of no use", "look")
    return Status("done", "unchecked" if record.quality is None else "done")


def reasons(case: ReportCase) -> list[str]:
    """One sentence each, the weightiest first."""
    quality = () if case.record.quality is None else case.record.quality.reasons
    return list(dict.fromkeys([*quality, *(flag.text for flag in case.record.flags)]))


def why_withheld(case: ReportCase, name: str) -> str:
    """Why no number of this class is shown; "" where numbers are."""
    return withheld(case.record.quality, case.record.flags, (name,)).get(name, "")
