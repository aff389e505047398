"""The JSON Schema of cards for editors; and what a card matches in a folder: each file's role and patient, and what no pattern fits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.cards.card import CardCase, CardFields, DataCard
from pipeline.cards.find_cases import search_folder
from pipeline.cards.labels import InstancesLabel
from pipeline.cards.patterns import Pattern
from pipeline.scans.walk import names_below


def card_schema() -> str:
    """JSON Schema of a card's front matter, for editors (configs/card_schema.json)."""
    return json.dumps(CardFields.model_json_schema(), indent=2) + "\n"


def explain_card(card: DataCard, root: Path, *, examples: int = 3) -> dict[str, Any]:
    """What a card matches, for the terminal only: it names files.

    Returns
    -------
    ``patterns``: role, text and number of files of each, with path and fields of some · ``cases``, ``patients``,
    ``both_eyes``, ``visits`` and counts of ``eyes``, ``parts``, ``patient_from`` · ``left_over``: (file, why) of unmatched files
    · ``other``: how many files no pattern fits, by extension, with some of each.

    Raises
    ------
    CardError: the card cannot be applied to this folder at all (an unreadable table, two files for one case).
    """
    found = search_folder(card, root)
    files, _ = names_below(root)
    used = {file for case in found.cases for file in _files_of(case, root)}
    patterns = []
    for role, pattern in _roles(card):
        matches = [(file, fields) for file in files if (fields := pattern.match(file)) is not None] if card.images.table is None else []
        patterns.append({"role": role, "pattern": pattern.text, "files": len(matches), "examples": matches[:examples]})
        used |= {file for file, _ in matches}
    if card.images.table is not None:
        rows = [(case.image.relative_to(root).as_posix(), dict(case.fields)) for case in found.cases]
        patterns[0] |= {"files": len(rows), "examples": rows[:examples]}
    spoken = {card.images.table, card.parts.file if card.parts is not None else None} | {file for file, _ in found.left_over}
    other: dict[str, list[str]] = {}
    for file in files:
        if file not in used and file not in spoken:
            other.setdefault(PurePosixPath(file).suffix.lower() or "none", []).append(file)
    eyes: dict[str, set[str]] = {}
    for case in found.cases:
        eyes.setdefault(case.key.patient, set()).add(case.key.eye)
    return {
        "patterns": patterns,
        "cases": len(found.cases),
        "unlabelled": found.unlabelled,
        "patients": len(eyes),
        "both_eyes": sum({"R", "L"} <= seen for seen in eyes.values()),
        "visits": len({(case.key.patient, case.key.visit) for case in found.cases}),
        "eyes": dict(Counter(case.key.eye for case in found.cases)),
        "parts": dict(Counter(case.part or "none" for case in found.cases)),
        "patient_from": dict(Counter(case.patient_from for case in found.cases)),
        "left_over": found.left_over,
        "other": {ending: {"files": len(some), "examples": some[:examples]} for ending, some in sorted(other.items())},
    }


def _roles(card: DataCard) -> Iterator[tuple[str, Pattern]]:
    """The role of each pattern of the card, in its order; tables of objects' classes included."""
    roles = ["images"]
    sources = [*(("labels", s) for s in card.labels), *(("second reader", s) for s in card.second_reader)]
    roles += [f"{reader} ({source.kind})" for reader, source in sources]
    roles += ["field of view"] if card.field_of_view is not None else []
    yield from zip(roles, card.patterns, strict=True)
    for reader, source in sources:
        if isinstance(source, InstancesLabel) and source.classes_from is not None:
            yield f"{reader} (classes of objects)", Pattern.compile(source.classes_from.file)


def _files_of(case: CardCase, root: Path) -> Iterator[str]:
    paths = [case.image, case.field_of_view, *(path for _, path in (*case.labels, *case.second_reader))]
    yield from (path.relative_to(root).as_posix() for path in paths if path is not None)
