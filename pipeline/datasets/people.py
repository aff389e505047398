"""Before a set is parted by patient: are there patients to part it by?"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from pipeline.cards.card import CardCase, CardFields
from pipeline.cards.people import REMEDY, one_patient, unread_pairs
from pipeline.datasets.splits import SplitConfig
from pipeline.errors import CardError
from pipeline.scans.identity import MANY_OF_ONE

log = logging.getLogger(__name__)


def check_people(card: CardFields, cases: Sequence[CardCase], config: SplitConfig) -> None:
    """Before cases are parted by patient.

    Raises
    ------
    CardError: names look like pairs of eyes and are not understood, or all cases are one patient and more than one part is asked for.
    """
    question = unread_pairs(card, cases)
    if question is not None:
        raise CardError(f"card {card.name}: {question}")
    several = config.folds is not None or config.validation > 0 or (config.source == "random" and config.test > 0)
    if several or (config.source == "official" and len({case.part for case in cases}) > 1):
        single = one_patient(cases)
        if single is not None:
            raise CardError(f"card {card.name}: {single}")
    counts = Counter(case.key.patient for case in cases)
    patient, most = counts.most_common(1)[0]
    if len(counts) > 1 and most >= MANY_OF_ONE and 2 * most > len(cases):
        log.warning(
            "card %s: patient %s holds %d of %d images; if these are several people, %s", card.name, patient, most, len(cases), REMEDY
        )
