"""A private card as recorded by a run: what is needed to read the data set again, and nothing that identifies a person."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from pipeline.cards.card import CardCase, DataCard, PartFields
from pipeline.errors import CardError
from pipeline.scans.identity import Pseudonyms
from pipeline.types import PARTS

_FREE_TEXT = ("title", "licence", "citation", "source", "how_to_get")
_LEAST = 5
"""Minimum length of a name that is searched in the remaining text: shorter ones would match anywhere."""


def recorded_text(card: DataCard, text: str, cases: Sequence[CardCase], pseudonyms: Pseudonyms | None) -> str:
    """The text of a card for a run's record; a public card, or one from a record, unchanged.

    In a private card, patients and images of official parts become pseudonyms (with the site's key they are matched again), and prose is
    left out, as it may mention anybody. ``record_of`` is the SHA-256 of the original card.

    Raises
    ------
    CardError: a pattern, table or column holds the name of a patient or an image, which cannot be recorded.
    """
    if card.identifiers == "public" or card.record_of is not None:
        return text
    assert pseudonyms is not None
    fields = card.model_dump(mode="json", exclude={"body", "sha256", "chosen", "known_faults", "device", "parts", *_FREE_TEXT})
    fields = {name: value for name, value in fields.items() if value is not None}
    fields |= dict.fromkeys(_FREE_TEXT, "private, not recorded") | {"record_of": card.sha256}
    if (parts := _parts(card.parts, cases, pseudonyms)) is not None:
        fields["parts"] = parts
    written = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)
    for case in cases:
        names = {case.fields.get("patient", ""), case.fields.get("name", ""), case.fields.get("stem", ""), case.image.name}
        for name in (name for name in names if len(name) >= _LEAST):
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", written):
                raise CardError(
                    f"card {card.name}: its patterns, tables or columns hold the name of case {case.key}; write {{patient}} or {{name}} "
                    "in its place, because a run records its card"
                )
    return f"---\n{written}---\n"


def _parts(parts: PartFields | None, cases: Sequence[CardCase], pseudonyms: Pseudonyms) -> dict[str, object] | None:
    """Official parts as pseudonyms: of patients if the card lists them, else of the images of each part."""
    if parts is None:
        return None
    if parts.field is not None:
        return {"field": parts.field}
    if parts.patients is not None:
        return {"patients": {part: [_token(pseudonyms, name) for name in names] for part, names in parts.patients.items()}}
    named = {part: sorted(case.key.image for case in cases if case.part == part) for part in PARTS}
    return {"names": {part: images for part, images in named.items() if images}}


def _token(pseudonyms: Pseudonyms, name: str) -> str:
    """The pseudonym of a name; one that is a pseudonym already (sixteen base32 characters) is kept."""
    return name if re.fullmatch(r"[a-z2-7]{16}", name) else pseudonyms.patient(name)


def patients_as_tokens(names: Sequence[str] | None, pseudonyms: Pseudonyms) -> tuple[str, ...] | None:
    """Pseudonyms of patients' names."""
    return None if names is None else tuple(_token(pseudonyms, name) for name in names)
