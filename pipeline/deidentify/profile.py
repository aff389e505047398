"""The Basic Application Level Confidentiality Profile and its options (DICOM PS3.15 Annex E), as a table of actions by attribute.

The table is ``confidentiality.tsv``, Table E.1-1 of the edition that its first line names. Actions: X remove, Z empty, D dummy, U new UID,
K keep, C clean; "X/Z/D" and the like leave the choice to the type that an attribute has in its object.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from pipeline.errors import ConfigError

Action = Literal["remove", "empty", "dummy", "uid", "keep", "clean", "shift"]

PROFILE_CODE = ("113100", "Basic Application Confidentiality Profile")
MODIFIED_DATES, FULL_DATES, CLEAN_PIXELS = "retain-longitudinal-modified", "retain-longitudinal-full", "clean-pixels"
_COLUMNS = {
    "retain-uids": "uids",
    "retain-device": "device",
    "retain-institution": "institution",
    "retain-patient-characteristics": "patient",
    FULL_DATES: "dates",
    MODIFIED_DATES: "dates",
    "clean-descriptors": "descriptors",
}
OPTIONS: dict[str, tuple[str, str]] = {
    CLEAN_PIXELS: ("113101", "Clean Pixel Data Option"),
    "clean-descriptors": ("113105", "Clean Descriptors Option"),
    FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    MODIFIED_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "retain-patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain-device": ("113109", "Retain Device Identity Option"),
    "retain-uids": ("113110", "Retain UIDs Option"),
    "retain-safe-private": ("113111", "Retain Safe Private Option"),
    "retain-institution": ("113112", "Retain Institution Identity Option"),
}
"""Options by the names that the command line takes, with their codes (PS3.16 CID 7050)."""
_NOT_DONE = {
    "clean-graphics": "overlays, curves and annotations are always removed whole",
    "clean-structured-content": "content trees are always removed whole",
    "clean-recognizable-visual-features": "nothing here can hide whose eye a picture shows",
}
_REQUIRED = {"AcquisitionDateTime", "ContentDate", "ContentTime", "DeviceSerialNumber", "PatientID", "PatientSex", "ContentCreatorName"}
"""Attributes that an ophthalmic image object must hold (types 1 and 2), where the table leaves the choice; of the others X is taken."""


@dataclass(frozen=True)
class Row:
    """One line of the table; ``options``: option columns by name, with K or C."""

    keyword: str
    action: str
    options: dict[str, str]


@dataclass(frozen=True)
class Rules:
    """The profile with the options that were chosen, each by its name in :data:`OPTIONS`."""

    options: frozenset[str]

    @classmethod
    def of(cls, profile: str, options: Iterable[str]) -> Rules:
        """
        Raises
        ------
        ConfigError: another profile, or an option that does not exist, is not carried out, or contradicts another one.
        """
        chosen = frozenset(options) - {"none"}
        if profile != "basic":
            raise ConfigError(f"--profile {profile}: the only profile is basic (DICOM PS3.15 E.2)")
        for option in sorted(chosen - set(OPTIONS)):
            if option in _NOT_DONE:
                raise ConfigError(f"--option {option} is not carried out: {_NOT_DONE[option]}")
            raise ConfigError(f"--option {option}: there is no such option; there are {', '.join(OPTIONS)}, and none for the bare profile")
        if {FULL_DATES, MODIFIED_DATES} <= chosen:
            raise ConfigError(f"--option {FULL_DATES} and --option {MODIFIED_DATES} contradict each other: choose one")
        return cls(chosen)

    @property
    def dates(self) -> Action:
        """What happens to dates and times: removed, shifted or kept."""
        return "keep" if FULL_DATES in self.options else "shift" if MODIFIED_DATES in self.options else "remove"

    @property
    def codes(self) -> list[tuple[str, str]]:
        """(code value, code meaning) of the profile and of each option, for De-identification Method Code Sequence."""
        return [PROFILE_CODE, *(OPTIONS[option] for option in sorted(self.options))]

    def action(self, tag: int) -> Action | None:
        """What to do with a public attribute; None if the table does not name it."""
        row = table().get(_key(tag))
        if row is None:
            return None
        for option in sorted(self.options & set(_COLUMNS)):
            column = _COLUMNS[option]
            if column == "dates" and column in row.options:
                return self.dates
            if column in row.options:
                return "keep" if row.options[column] == "K" else "clean"
        return _chosen(row)


def _chosen(row: Row) -> Action:
    choice = row.action
    if choice == "X/Z/U*":
        return "uid"
    if choice in ("X/Z", "Z"):
        return "empty"
    if "D" in choice and (choice == "D" or row.keyword in _REQUIRED):
        return "dummy"
    return "uid" if choice == "U" else "empty" if choice == "Z/D" else "remove"


def _key(tag: int) -> str:
    group = tag >> 16
    if group >> 8 == 0x50:
        return "50xxxxxx"
    # Label and description of an overlay are words, its sizes mean nothing without it: the whole plane goes.
    return "60xx3000" if group >> 8 == 0x60 else f"{tag:08X}"


@functools.cache
def table() -> dict[str, Row]:
    """The table's lines by tag, eight hexadecimal digits; repeating groups as "60xx3000"."""
    text = (files("pipeline.deidentify") / "confidentiality.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return {tag: Row(keyword, action, _options(rest)) for tag, keyword, action, *rest in lines}


def _options(rest: list[str]) -> dict[str, str]:
    """ "device patient:C" -> {"device": "K", "patient": "C"}."""
    kept = ("uids", "device", "institution", "patient")
    words = [word.partition(":") for word in " ".join(rest).split()]
    return {name: code or ("K" if name in kept else "C") for name, _, code in words}
