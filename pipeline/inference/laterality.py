"""Which eye a picture itself shows, where a bundle says so: a side that nobody stated, or a conflict that somebody must look at."""

from __future__ import annotations

from dataclasses import replace

from pipeline.inference.answers import Answer
from pipeline.types import Geometry, Laterality, Role, Scan

SIDES: dict[Role, Laterality] = {"right_eye": "R", "left_eye": "L"}
WORDS = {"R": "right", "L": "left"}
SOURCES = {
    "tag": "the file's header",
    "functional_group": "the file's header",
    "filename": "the file's name",
    "card": "the data card",
    "picture": "another model",
}


def side_of(answer: Answer) -> Laterality | None:
    """The eye that an answer names; None where it is about something else, or not sure."""
    return None if answer.answer is None else SIDES.get(answer.roles[answer.names.index(answer.answer)] or "layer")


def with_side(scan: Scan, answers: tuple[Answer, ...]) -> tuple[Scan, tuple[str, ...]]:
    """The scan, with the side found in the picture where nothing else states it; and what must be told where the two disagree.

    What a file's header, its name or the user says stays: a conflict is for a person to resolve.
    """
    warnings: list[str] = []
    for answer in answers:
        side, stated = side_of(answer), scan.geometry.laterality
        if side is None or side == stated:
            continue
        if stated is None:
            geometry: Geometry = replace(scan.geometry, laterality=side, laterality_source="picture")
            scan = replace(scan, geometry=geometry)
            continue
        source = SOURCES.get(scan.geometry.laterality_source, "somebody")
        chance = f"{answer.name}, probability {float(answer.probabilities.max()):.2f}"
        warnings.append(
            f"the picture shows a {WORDS[side]} eye ({chance}), but a {WORDS[stated]} one is stated (by {source}); look which it is"
        )
    return scan, tuple(warnings)
