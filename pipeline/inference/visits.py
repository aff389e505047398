"""From the journal's days, which tell no date, to the order of each patient's visits and the days between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from pipeline.atomic import atomic_path
from pipeline.inference.journal import Journal
from pipeline.scans.identity import MANY_OF_ONE
from pipeline.types import CaseKey, PatientSource
from pipeline.types.visits import VISITS_FILE, PatientVisits, VisitRecord

_SOURCES = get_args(PatientSource)
"""From the strongest to the weakest."""


def export(journal: Journal, out: Path) -> None:
    """What a run leaves beside its cases: the ledger, and the visits of all finished cases, one patient in memory at a time."""
    journal.export(out / "ledger.csv")
    with atomic_path(out / VISITS_FILE, durable=True) as staged, staged.open("w", encoding="utf-8") as file:
        between = ""
        file.write('{\n "patients": {')
        for patient, visits, _ in patients_of(journal):
            record = json.dumps(visits.to_json(), indent=1, ensure_ascii=False).replace("\n", "\n  ")
            file.write(f"{between}\n  {json.dumps(patient)}: {record}")
            between = ","
        file.write("\n }\n}\n" if between else "}\n}\n")


def patients_of(journal: Journal) -> Iterator[tuple[str, PatientVisits, list[str]]]:
    """Of each patient the visits, and the names of the finished cases; sorted."""
    for patient, cases in journal.by_patient():
        known = [*cases]
        yield patient, visits_of(known), list(dict.fromkeys(case for case, _, _ in known))


def visits_of(cases: Iterable[tuple[str, int | None, str]]) -> PatientVisits:
    """The visits of one patient; ``cases``: name, day, and what counted for the patient, of each that is finished."""
    days: dict[str, int | None] = {}
    sources: list[str] = []
    for case, day, source in cases:
        visit = CaseKey.parse(case).visit
        stated = [one for one in (days.get(visit), day) if one is not None]
        days[visit] = min(stated, default=None)
        sources.append(source or "unknown")
    dated = sorted((day, visit) for visit, day in days.items() if day is not None)
    visits = [VisitRecord(visit=visit, number=number, days=day - dated[0][0]) for number, (day, visit) in enumerate(dated, 1)]
    undated = [VisitRecord(visit=visit, number=None, days=None) for visit in sorted(days) if days[visit] is None]
    weakest: PatientSource = _SOURCES[max(_SOURCES.index(one) for one in sources)]
    in_doubt = sources.count("folder") >= MANY_OF_ONE
    return PatientVisits(source=weakest, cases=len(sources), in_doubt=in_doubt, visits=tuple(visits + undated))
