"""Where one goes from a case: the previous and the next one, the fellow eye, and the next visit of the same eye."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reports.results import ReportCase
from pipeline.reports.visits import visit_order
from pipeline.types.visits import VisitsRecord


@dataclass(frozen=True)
class Neighbours:
    """``previous`` and ``following`` by name, in the order of the worklist · ``fellow``: the other eye of the same patient, visit and kind
    of scan · ``visit``: the same eye at the next visit, after the last one at the first; None where there is no other · ``visit_words``:
    which visit this one is. Of an unknown eye neither is known."""

    previous: str | None = None
    following: str | None = None
    fellow: ReportCase | None = None
    visit: ReportCase | None = None
    visit_words: str = ""

    @property
    def state(self) -> tuple[object, ...]:
        """Changes with whatever of it a page shows."""
        beside = None if self.fellow is None else (self.fellow.key, self.fellow.record.to_json())
        return self.previous, self.following, beside, self.visit and self.visit.key, self.visit_words


def neighbours(cases: Sequence[ReportCase], order: VisitsRecord) -> list[Neighbours]:
    """Of each case, in the order given, which is the worklist's."""
    series: dict[tuple[object, ...], list[ReportCase]] = defaultdict(list)
    visits: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: (case.key.patient, visit_order(case.key, order), case.key.image)):
        own = series[*_kind(case), case.side, case.key.visit]
        if not own:
            visits[*_kind(case), case.side].append(case.key.visit)
        own.append(case)
    out = []
    for at, case in enumerate(cases):
        kind, eye, visit = _kind(case), case.side, case.key.visit
        rank = series[*kind, eye, visit].index(case)
        other = {"R": "L", "L": "R"}.get(eye)
        fellow = _nearest(series.get((*kind, other, visit), []), rank)
        names = visits[*kind, eye]
        following = names[(names.index(visit) + 1) % len(names)]
        later = None if following == visit or other is None else _nearest(series[*kind, eye, following], rank)
        previous = str(cases[at - 1].key) if at else None
        after = str(cases[at + 1].key) if at + 1 < len(cases) else None
        out.append(Neighbours(previous, after, fellow, later, order.words(case.key)))
    return out


def _kind(case: ReportCase) -> tuple[object, ...]:
    return case.key.patient, case.modality, case.volume


def _nearest(cases: Sequence[ReportCase], rank: int) -> ReportCase | None:
    """The picture of the same number of a series, or its last one."""
    return cases[min(rank, len(cases) - 1)] if cases else None
