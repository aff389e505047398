"""From the journal's days, which tell no date, to the order of each patient's visits and the days between them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from pipeline.inference.case_files import write_json
from pipeline.inference.journal import Entry, Journal
from pipeline.scans.identity import MANY_OF_ONE
from pipeline.types import CaseKey, PatientSource
from pipeline.types.visits import VISITS_FILE, PatientVisits, VisitRecord, VisitsRecord

_SOURCES = get_args(PatientSource)
"""From the strongest to the weakest."""


def export(journal: Journal, out: Path) -> None:
    """What a run leaves beside its cases: the ledger, and the visits of all finished cases."""
    journal.export(out / "ledger.csv")
    done = (entry for entry in journal.results() if entry.status == "done")
    write_json(out / VISITS_FILE, visits_of(done).to_json())


def visits_of(done: Iterable[Entry]) -> VisitsRecord:
    """The visits of every patient of finished cases."""
    days: dict[str, dict[str, int | None]] = {}
    sources: dict[str, list[str]] = {}
    for entry in done:
        case = CaseKey.parse(entry.case)
        known = days.setdefault(case.patient, {})
        stated = [day for day in (known.get(case.visit), entry.day) if day is not None]
        known[case.visit] = min(stated, default=None)
        sources.setdefault(case.patient, []).append(entry.patient_source or "unknown")
    return VisitsRecord(patients={patient: _patient(days[patient], sources[patient]) for patient in sorted(days)})


def _patient(days: dict[str, int | None], sources: list[str]) -> PatientVisits:
    dated = sorted((day, visit) for visit, day in days.items() if day is not None)
    visits = [VisitRecord(visit=visit, number=number, days=day - dated[0][0]) for number, (day, visit) in enumerate(dated, 1)]
    undated = [VisitRecord(visit=visit, number=None, days=None) for visit in sorted(days) if days[visit] is None]
    source: PatientSource = _SOURCES[max(_SOURCES.index(one) for one in sources)]
    return PatientVisits(source=source, cases=len(sources), in_doubt=sources.count("folder") >= MANY_OF_ONE, visits=tuple(visits + undated))
