"""Which kind of scan a picture itself shows, where a bundle says so: a kind that no file states, or a conflict for a person to look at."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ScanError
from pipeline.inference.answers import Answer
from pipeline.types import Modality, Scan
from pipeline.types.assessment import FlagRecord

OTHER = "other"
KINDS = {"fundus": "a fundus photograph", "oct": "an OCT scan", "octa": "an OCT angiography", "slo": "a laser ophthalmoscopy"}
"""What stands for each kind in a sentence."""
SURE = 0.8
"""From this probability on a kind counts, even if validation would have answered earlier: what hangs on it is whether a scan is read."""
_SOURCES = {"tag": "the file's header", "card": "the data card", "user": "the user", "picture": "another model"}


def tells_kind(bundle: Bundle) -> bool:
    """Whether a bundle says what kind of picture a scan is: its classes are kinds of scans, and ``other``."""
    names = {*bundle.label_map.names}
    return not bundle.marks and OTHER in names and names <= {OTHER, *KINDS}


def with_kind(scan: Scan, answer: Answer) -> tuple[Scan, FlagRecord | None]:
    """The scan with the kind found in the picture where nothing else states it; and a flag where the two disagree.

    What a file's header or the user says stays: a conflict is for a person to resolve. Nothing changes where the network is not sure, or
    does not know the kind that is stated.

    Raises
    ------
    ScanError: code ``not_retinal``: nobody states a kind, and the picture shows none.
    """
    found = answer.answer if float(answer.probabilities.max()) >= SURE else None
    if found is None or found == scan.modality or scan.modality not in (*answer.names, "unknown"):
        return scan, None
    told = f"{answer.name}, probability {float(answer.probabilities.max()):.2f}"
    what = KINDS.get(found, "no retinal picture")
    if scan.modality != "unknown":
        stated = f"{KINDS[scan.modality]} is stated (by {_SOURCES[scan.modality_source]})"
        return scan, FlagRecord(code="kind_conflict", text=f"The picture looks like {what} ({told}), but {stated}; look which it is.")
    if found == OTHER:
        raise ScanError("not_retinal", f"it is not a retinal picture ({told}); should it be one, say its kind with --modality")
    kind = next(kind for kind in get_args(Modality) if kind == found)
    return replace(scan, modality=kind, modality_source="picture"), None
