"""The data card of a labelled set made by a review, and who is trained and tested on in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.reports.results import RunFacts
from pipeline.types import PARTS, CaseKey, LabelMap, Modality

CARD, COCO = "card.md", "boxes.json"
_IMAGES = "images/{patient:[^_/]+}_{eye:[RLU]}_{visit:[^_/]+}_{name:[^_/.]+}.*"
_MASKS = "masks/{stem}.*"

BODY = """
# Reviewed cases

Made by `ocuseg review export` from predictions that people have looked at; a further export adds to it. `provenance.csv` has a line
for every mask: who drew or accepted it, when, and of which bundle's answer. `rejected.csv` lists what was rejected and why.
`splits.json` says who is trained and tested on: by patient, and who is once in the validation or test part stays there.

    ocuseg card check card.md --root .
    ocuseg finetune BUNDLE --card card.md --root .
"""


def card_text(called: str, modality: Modality, label_map: LabelMap, by_pixels: Sequence[str], run: RunFacts) -> str:
    """``called``: what the set's folder is called · ``by_pixels``: the classes that are marked so; the others are objects."""
    name = re.sub(r"[^a-z0-9_-]+", "-", called.lower()).strip("-_")[:64] or "reviewed"
    front: dict[str, Any] = {
        "name": name,
        "title": f"Reviewed cases: {', '.join(label_map.names)}",
        "modality": modality,
        "identifiers": "public",
        "licence": "own data, not to be passed on",
        "citation": "none",
        "source": f"a review of what the bundle {run.bundle_name or run.bundle_id} found",
        "how_to_get": "made by `ocuseg review export`",
        "known_faults": [
            "A mask that a reviewer accepted was drawn by a network (provenance.csv says which and by whom), so that a score on this set "
            "flatters that network. Compare networks on cases that people labelled without seeing an answer."
        ],
        "classes": [_class(cls) for cls in label_map.to_json()["classes"]],
    }
    if label_map.overlapping:
        front["overlapping"] = True
    if label_map.layered:
        front |= {"layers": list(label_map.layered), "surfaces": list(label_map.surface_names)}
    front |= {"images": {"file": _IMAGES}, "labels": _sources(label_map, by_pixels), "parts": {"file": "splits.json"}}
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return f"---\n{text}---\n{BODY}"


def _class(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in ("index", "mirrors_to") and value is not None}


def _sources(label_map: LabelMap, by_pixels: Sequence[str]) -> list[dict[str, Any]]:
    """Of the pixels a mask in the label map's encoding; of objects one COCO file."""
    sources = list[dict[str, Any]]()
    marked = [cls for cls in label_map.classes if cls.name in by_pixels]
    if marked and label_map.overlapping:
        sources.append({"kind": "bits", "file": _MASKS, "bits": {cls.index - 1: cls.name for cls in marked}})
    elif marked:
        sources.append({"kind": "values", "file": _MASKS, "values": {cls.index: cls.name for cls in marked}})
    found = [name for name in label_map.names if name not in by_pixels]
    if found:
        sources.append({"kind": "coco", "file": COCO, "categories": {name: name for name in found}, "missing": "empty"})
    return sources


def grown_parts(earlier: Mapping[str, Sequence[str]], names: Sequence[str], validation: float, test: float) -> dict[str, list[str]]:
    """{part: names of cases}: patients who have a part keep it, cases that have left the set as well; new patients, in an order by the
    hash of their pseudonym, fill the test and then the validation part up to its fraction, and train else. Of three patients or more each
    part that is asked for has at least one, as far as new ones suffice."""
    part_of = {CaseKey.parse(name).patient: part for part, own in earlier.items() for name in own}
    patients = {CaseKey.parse(name).patient for name in names} | part_of.keys()
    wanted = {"test": _count(test, len(patients)), "validation": _count(validation, len(patients))}
    for patient in sorted(patients - part_of.keys(), key=lambda own: hashlib.sha256(own.encode()).digest()):
        there = list(part_of.values())
        part_of[patient] = next((part for part, count in wanted.items() if there.count(part) < count), "train")
    known = sorted({*names, *(name for own in earlier.values() for name in own)})
    return {part: [name for name in known if part_of[CaseKey.parse(name).patient] == part] for part in PARTS}


def _count(fraction: float, patients: int) -> int:
    return max(round(fraction * patients), 1) if fraction > 0 and patients >= 3 else 0
