"""Codes of classes and units. Where DICOM's context groups (PS3.16, CID 4200 to 4273) have none, ours say that they are ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipeline.types import LabelClass, Laterality, Role, Unit

PRIVATE_SCHEME = "99OCUSEG"
PRIVATE_NAME = "Private codes of ocuseg, for what has no verified standard code"

OWN = " (ocuseg's own code)"
_LONGEST_MEANING = 64
"""Characters of an LO value."""


@dataclass(frozen=True)
class ClassCode:
    """``category`` and ``kind`` of a segment, each (value, scheme, meaning)."""

    category: tuple[str, str, str]
    kind: tuple[str, str, str]


Triple = tuple[str, str, str]

ANATOMY: Triple = ("91723000", "SCT", "Anatomical structure")
ABNORMAL: Triple = ("49755003", "SCT", "Morphologically abnormal structure")
RETINA: Triple = ("5665001", "SCT", "Retina")
EYE: Triple = ("81745001", "SCT", "Eye")
SOURCE_IMAGE: Triple = ("121322", "DCM", "Source image for image processing operation")
REPORT_TITLE: Triple = ("126000", "DCM", "Imaging Measurement Report")
COMMENT: Triple = ("121106", "DCM", "Comment")
UPPER: Triple = ("371886008", "SCT", "+, range of upper measurement uncertainty")
LOWER: Triple = ("371885007", "SCT", "-, range of lower measurement uncertainty")
"""Distance of a number's upper and lower bound from it (TID 310)."""
AI: Triple = ("123110", "DCM", "Artificial Intelligence")
SIDES: dict[Laterality, Triple] = {"R": ("24028007", "SCT", "Right"), "L": ("7771000", "SCT", "Left")}

_VERIFIED: dict[str, Triple] = {
    f"SCT:{value}": (value, "SCT", meaning)
    for value, meaning in (
        ("81745001", "Eye"),
        ("5665001", "Retina"),
        ("81016008", "Optic nerve head"),
        ("67046006", "Fovea centralis"),
        ("68703001", "Choroid"),
        ("26386000", "Vitreous"),
        ("59820001", "Blood vessel"),
        ("76117006", "Central retinal artery"),
        ("62869001", "Central retinal vein"),
        ("27988004", "Retinal artery"),
        ("52988006", "Lesion"),
        ("50960005", "Hemorrhage"),
        ("79654002", "Edema"),
        ("367643001", "Cyst"),
        ("85659009", "Aneurysm"),
    )
}
_OF_ROLE: dict[Role, str] = {
    "optic_disc": "SCT:81016008",
    "vessel": "SCT:59820001",
    "artery": "SCT:27988004",
    "fovea": "SCT:67046006",
}
"""Not the lesion: which kind a class is says more than that it is one."""
_ABNORMAL_ROLES: tuple[Role, ...] = ("lesion", "fluid")
_ABNORMAL_CODES = {"52988006", "50960005", "79654002", "367643001", "85659009"}

UNITS: dict[Unit, Triple] = {
    "1": ("1", "UCUM", "no units"),
    "%": ("%", "UCUM", "percent"),
    "px": ("{pixels}", "UCUM", "pixels"),
    "px2": ("{square_pixels}", "UCUM", "square pixels"),
    "voxels": ("{voxels}", "UCUM", "voxels"),
    "mm": ("mm", "UCUM", "millimeter"),
    "mm2": ("mm2", "UCUM", "square millimeter"),
    "mm3": ("mm3", "UCUM", "cubic millimeter"),
    "um": ("um", "UCUM", "micrometer"),
    "deg": ("deg", "UCUM", "degree"),
    "1/px": ("/{pixels}", "UCUM", "per pixel"),
    "1/mm": ("/mm", "UCUM", "per millimeter"),
    "1/px2": ("/{square_pixels}", "UCUM", "per square pixel"),
    "1/mm2": ("/mm2", "UCUM", "per square millimeter"),
}


def code_of_class(cls: LabelClass, role: Role | None) -> ClassCode:
    """The class's own code, else that of its role, else a private one made of its name."""
    stated = cls.code or (_OF_ROLE.get(role) if role is not None else None)
    kind = private(cls.name, cls.name, OWN) if stated is None else _VERIFIED.get(stated) or _as_stated(stated, cls.name)
    abnormal = role in _ABNORMAL_ROLES or kind[0] in _ABNORMAL_CODES
    return ClassCode(ABNORMAL if abnormal else ANATOMY, kind)


def private(word: str, meaning: str, said: str = "") -> Triple:
    """A code of our own: the word in capitals, and a meaning that ends with what is ``said`` of it."""
    value = re.sub(r"[^A-Z0-9]+", "_", word.upper()).strip("_") or "UNNAMED"
    return value, PRIVATE_SCHEME, meaning[: _LONGEST_MEANING - len(said)] + said


def _as_stated(code: str, name: str) -> Triple:
    """A card's own code: its scheme and value are the card's word, and the meaning is the class's name."""
    scheme, _, value = code.partition(":")
    return value, scheme, name[:_LONGEST_MEANING]


def concept(code: Triple) -> Any:
    """As highdicom takes it; a value of more than 16 characters becomes a Long Code Value by itself."""
    from highdicom.sr import CodedConcept

    return CodedConcept(*code)


def coding_schemes() -> list[Any]:
    """What an object that uses private codes says of their scheme."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return [CodingSchemeIdentificationItem(PRIVATE_SCHEME, PRIVATE_NAME, responsible_organization="ocuseg")]
