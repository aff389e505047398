"""The order of a patient's visits, as far as it is known."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.types import CaseKey
from pipeline.types.case_record import first_fault
from pipeline.types.visits import VISITS_FILE, VisitsRecord

logger = logging.getLogger(__name__)


def read_visits(out: Path) -> VisitsRecord:
    """visits.json of a folder of predictions; nothing where it is missing, or damaged, which is said."""
    try:
        return VisitsRecord.read(out)
    except (OSError, ValueError) as error:
        logger.warning("the order of visits is not shown: %s is damaged (%s); run ocuseg predict again", VISITS_FILE, first_fault(error))
        return VisitsRecord()


def has_date(key: CaseKey, visits: VisitsRecord) -> bool:
    """Whether the visit of a case has a place in the order."""
    visit = visits.of(key)
    return visit is not None and visit.number is not None


def visit_order(key: CaseKey, visits: VisitsRecord) -> tuple[float, str]:
    """Sorts visits: in their order where it is known, those without a date last, by name."""
    visit = visits.of(key)
    return (float("inf") if visit is None or visit.number is None else visit.number, key.visit)
