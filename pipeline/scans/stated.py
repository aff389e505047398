"""A scan with what the user states of it where its file does not; where the file says otherwise, the file counts and a warning says so."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from pipeline.errors import ConfigError
from pipeline.types import Scan
from pipeline.types.stated import Stated, StatedModality


def stated(modality: str | None = None) -> Stated:
    """What a user says, checked; "unknown" is as good as nothing.

    Raises
    ------
    ConfigError: no such modality.
    """
    kinds = get_args(StatedModality)
    if modality not in (None, "unknown", *kinds):
        raise ConfigError(f"modality {modality!r}: must be one of {', '.join(kinds)}")
    return Stated.model_validate({"modality": modality if modality in kinds else None})


def fill(scan: Scan, said: Stated) -> Scan:
    """The scan as its file and the user together describe it."""
    if said.modality is None or scan.modality == said.modality:
        return scan
    if scan.modality == "unknown":
        return replace(scan, modality=said.modality, modality_source="user")
    conflict = f"the file says that it is {scan.modality}, the user {said.modality}: the file's word counts"
    return replace(scan, warnings=(*scan.warnings, conflict))
