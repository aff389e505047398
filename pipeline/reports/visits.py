"""The order of a patient's visits, as far as it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.types import CaseKey


@dataclass(frozen=True)
class VisitPlace:
    """``number`` counts a patient's dated visits from 1, ``days`` the days since the first of them."""

    number: int
    days: int


VisitPlaces = Mapping[tuple[str, str], VisitPlace]
"""By patient and visit, as cases name them; a visit whose date nothing states is not there."""


def visit_order(key: CaseKey, places: VisitPlaces) -> tuple[float, str]:
    """Sorts visits: in their order where it is known, those of unknown date last, by name."""
    place = places.get((key.patient, key.visit))
    return (float("inf") if place is None else place.number, key.visit)


def visit_words(place: VisitPlace | None, total: int) -> str:
    """ "Visit 2 of 3, +163 days"; "Visit, date unknown"."""
    if place is None:
        return "Visit, date unknown"
    later = f", +{place.days} day{'' if place.days == 1 else 's'}" if place.number > 1 else ""
    return f"Visit {place.number} of {total}{later}"
