"""Which kind of scan a picture itself shows, where a bundle says so: a kind that no file states, or a conflict for a person to look at."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ScanError
from pipeline.inference.answers import Answer
from pipeline.quality.judge import KINDS, SURE
from pipeline.types import Modality, Scan

OTHER, CONFLICT = "other", "kind_conflict"
"""The class of what is no scan; the code of a doubt about the kind (Scan.doubts)."""
_SOURCES = {"tag": "the file's header", "card": "the data card", "user": "the user", "picture": "another model"}


def tells_kind(bundle: Bundle) -> bool:
    """Whether a bundle says what kind of picture a scan is: its classes are kinds of scans, and ``other``."""
    names = {*bundle.label_map.names}
    return not bundle.marks and OTHER in names and names <= {OTHER, *KINDS}


def with_kind(scan: Scan, answer: Answer) -> Scan:
    """The scan with the kind found in the picture where nothing else states it, or with a doubt where the two disagree.

    What a file's header or the user says stays: a conflict is for a person to resolve. Nothing changes where the network is not SURE,
    even if validation would have answered earlier, or does not know the kind that is stated.

    Raises
    ------
    ScanError: code ``not_retinal``: nobody states a kind, and the picture shows none.
    """
    found = answer.answer if float(answer.probabilities.max()) >= SURE else None
    if found is None or found == scan.modality or scan.modality not in (*answer.names, "unknown"):
        return scan
    told = f"{answer.name}, probability {float(answer.probabilities.max()):.2f}"
    if scan.modality != "unknown":
        what, stated = KINDS.get(found, "no retinal picture"), KINDS[scan.modality]
        doubt = f"the picture looks like {what} ({told}), but {_SOURCES[scan.modality_source]} says {stated}; look which it is"
        return replace(scan, doubts=(*scan.doubts, (CONFLICT, doubt)))
    if found == OTHER:
        raise ScanError("not_retinal", f"it is not a retinal picture ({told}); should it be one, say its kind with --modality")
    kind = next(kind for kind in get_args(Modality) if kind == found)
    return replace(scan, modality=kind, modality_source="picture")
