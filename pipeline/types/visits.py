"""Visits in their true order, without a date: the one schema of ``visits.json`` in a folder of predictions.

It is written anew at the end of each run, because a visit that arrives later may be an earlier one, which changes the numbers of all
others; a case's own files do not change.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pipeline.types.assessment import Record
from pipeline.types.scan import CaseKey, PatientSource

VISITS_FILE = "visits.json"


class VisitRecord(Record):
    """One visit, by its token in the names of cases. ``number`` counts the patient's dated visits from 1, ``days`` the days since the first
    of them; both are None where nothing states the visit's date."""

    visit: str
    number: int | None = Field(None, ge=1)
    days: int | None = Field(None, ge=0)


class PatientVisits(Record):
    """``source``: what counted for a patient, of several the weakest · ``cases``: how many are the patient's · ``in_doubt``: so many
    pictures of one folder that its name may stand for several people · ``visits`` in their order, those without a date last."""

    source: PatientSource = "unknown"
    cases: int = Field(0, ge=0)
    in_doubt: bool = False
    visits: tuple[VisitRecord, ...] = ()

    @property
    def dated(self) -> int:
        """How many visits have a place in the order."""
        return sum(visit.number is not None for visit in self.visits)


class VisitsRecord(Record):
    """By the patient's token in the names of cases."""

    patients: dict[str, PatientVisits] = Field({})

    @classmethod
    def read(cls, out: Path) -> VisitsRecord:
        """Empty where there is none, as of an earlier version; raises OSError or ValueError where it cannot be read."""
        path = out / VISITS_FILE
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def of(self, case: CaseKey) -> VisitRecord | None:
        """The visit of a case, None where nothing is known of it."""
        patient = self.patients.get(case.patient, PatientVisits())
        return next((visit for visit in patient.visits if visit.visit == case.visit), None)

    def words(self, case: CaseKey) -> str:
        """As a page says it: "visit 2 of 3, +163 days"."""
        visit = self.of(case)
        if visit is None or visit.number is None or visit.days is None:
            return "visit without a date"
        total = self.patients[case.patient].dated
        return f"visit {visit.number} of {total}" + (f", +{visit.days} day{'' if visit.days == 1 else 's'}" if visit.number > 1 else "")
