"""Checks whether a card distinguishes people; if not, what the card must say."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cards.card import CardCase, CardFields, PatientSource
from pipeline.cards.patterns import stem_of
from pipeline.scans.eyes import eye_of, eyes_in_names

_WHY_ONE: dict[PatientSource, str] = {
    "field": "the field {patient} has one value throughout",
    "tags": "the Patient ID in their tags is the same throughout",
    "folder": "all lie below one folder, which then names the patient",
    "name": "their names, less the eye, are the same",
}
REMEDY = (
    "say who is who: write {patient} into images.file where names or folders tell people apart "
    "('images/{patient}.png' makes every name a person), or give images.table a CSV with a column patient"
)


def one_patient(cases: Sequence[CardCase], fewest: int = 2) -> str | None:
    """Why all cases (at least ``fewest``) count as one patient, and the remedy; None if they do not."""
    if len(cases) < fewest or len({case.key.patient for case in cases}) > 1:
        return None
    return f"all {len(cases)} images count as one patient, because {_WHY_ONE[cases[0].patient_from]}; {REMEDY}"


def unread_pairs(card: CardFields, cases: Sequence[CardCase]) -> str | None:
    """The question that pairs of names raise if only the name identifies the patient; None if there is none."""
    unread = {stem_of(case.image.name): str(case.key) for case in cases if case.patient_from == "name" and case.key.eye == "U"}
    read = eyes_in_names(unread)
    if read.question is None or read.example is None:
        return None
    one, two = read.question
    shown = read.example if card.identifiers == "public" else tuple(unread[name] for name in read.example)
    field = "eye" if eye_of(one) and eye_of(two) else "shot"
    return (
        f"the images' names look like pairs ({one!r} and {two!r}, as in {shown[0]} and {shown[1]}): are these two eyes of one person? "
        f"If so, write images.file with {{patient}} and {{{field}:{one}|{two}}} where they stand in the name; "
        "if every name is another person's, write {patient} for the whole name"
    )
