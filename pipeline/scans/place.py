"""Patient and visit of a file without tags, from its name and the folders above it.

Folders are read from the root down. One that is named by an eye ("OD", "right eye"), by a date or visit ("2024-01-02", "visit 1") or
by a kind of thing ("images", "OCT", "export") is not a patient; the first other one is, and the next one below it is the visit if no
folder is named by a date or visit. A file below no patient's folder is a patient of its own, named by its stem without the eye.
"""

from __future__ import annotations

import datetime
import functools
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.scans.eyes import eye_of, laterality_from_name
from pipeline.types import Geometry, Laterality

Role = Literal["an eye", "a date or visit", "a kind of image"]

_KIND = re.compile(
    r"images?|imgs?|pictures?|pics|photo(graph)?s?|photography|scans?|volumes?|slices|frames|files?|data|dataset|raw|originals?"
    r"|export(s|ed)?|archive|dicoms?|dcm|nifti|nii|png|jpe?g|tiff?|bmp|vol|e2e|fda"
    r"|fundus|colou?rs?|cfp|octa?|slo|fa|faf|icga|ir|b?scans|enface|angiography|ophthalmology"
    r"|patients?|anon(ym|ymous|ymi[sz]ed)?|unknown|study|studies|series|train(ing)?|test(ing)?|val(id|idation)?"
)
_FILLER = re.compile("b|en|face|and|of|eyes?")
_EYES = {"R": "right", "L": "left"}
_EYE_WORD = re.compile("eyes?|auge|oeil|ojo|olho|occhio|both|ou")
SIDE_CONFLICT = "side_conflict"
"""The code of a doubt about the eye (Scan.doubts)."""
_VISIT = re.compile(r"(visit|visite|visita|besuch|baseline|follow ?up|month|week|session|exam|timepoint) ?\d*", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """What folders state: names of patient and visit (or None), the eye, and which kinds of names were not taken for a patient."""

    patient: str | None = None
    visit: str | None = None
    eye: Laterality | None = None
    passed: tuple[Role, ...] = ()


def read_folders(folders: Sequence[str]) -> Place:
    """What the names of folders state, from the root down."""
    return _read(tuple(folders))


@functools.lru_cache(maxsize=1024)
def _read(folders: tuple[str, ...]) -> Place:
    roles: list[Role | None] = []
    for index, name in enumerate(folders):
        within = _number(name, 2) and roles[-1:] == ["a date or visit"]  # 2024/03/17
        roles.append("a date or visit" if within else _role(name, folders[index + 1 :]))
    people = [name for name, role in zip(folders, roles, strict=True) if role is None]
    visits = [name for name, role in zip(folders, roles, strict=True) if role == "a date or visit"]
    eyes = {_eye(name) for name, role in zip(folders, roles, strict=True) if role == "an eye"}
    first = roles.index(None) if None in roles else len(roles)
    visit = _plain_date("-".join(visits)) if visits else people[1] if len(people) > 1 else None
    return Place(people[0] if people else None, visit, eyes.pop() if len(eyes) == 1 else None, tuple(r for r in roles[:first] if r))


def _role(name: str, below: Sequence[str]) -> Role | None:
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
    numbered = bool(re.search(r"\d", name))
    if words and all(_EYE_WORD.fullmatch(word) or _eye(word) for word in words) and not numbered:
        return "an eye"
    if _VISIT.fullmatch(" ".join(re.split(r"[\W_]+", name))) or _date(name) or (_year(name) and bool(below) and not _number(below[0], 1)):
        return "a date or visit"
    if any(map(_KIND.fullmatch, words)) and all(_KIND.fullmatch(word) or _FILLER.fullmatch(word) for word in words) and not numbered:
        return "a kind of image"
    return None


def _eye(name: str) -> Laterality | None:
    sides = {eye_of(word) for word in re.split(r"[\W\d_]+", name) if len(word) > 1 or word.lower() in "rl"} - {None}
    return sides.pop() if len(sides) == 1 else None


def _number(name: str, digits: int) -> bool:
    return bool(re.fullmatch(rf"\d{{1,{digits}}}", name))


def _year(name: str) -> bool:
    return bool(re.fullmatch(r"(19[89]|20[0-4])\d", name))


def _date(name: str) -> str | None:
    """YYYYMMDD (or YYYYMM) of a name that is a date, year first or last; None for any other."""
    match = re.fullmatch(r"(?P<y>\d{4})([-_. ]?)(?P<m>\d{2})(\2(?P<d>\d{2}))?(?:[T_ -]\d{4,6})?", name)
    match = match or re.fullmatch(r"(?P<d>\d{1,2})([-_. ])(?P<m>\d{1,2})\2(?P<y>\d{4})", name)
    if match is None or not _year(match["y"]) or (len(name) == 6 and match["d"] is None):
        return None
    try:
        date = datetime.date(int(match["y"]), int(match["m"]), int(match["d"] or 1))
    except ValueError:
        american = not name.startswith(match["y"]) and int(match["d"]) in range(1, 13) and int(match["m"]) in range(1, 32)
        return name if american else None
    return f"{date:%Y%m%d}" if match["d"] else f"{date:%Y%m}"


def _plain_date(name: str) -> str:
    """A date in DICOM's order, so that the visit is the same as that of files with tags; any other name unchanged."""
    return (_date(name) or name) if re.match(r"\d{4}", name) else name


def place_below(path: Path, root: Path | None) -> tuple[str, ...]:
    """The parts of ``path`` below ``root``; only the file's name when there is no root or the file lies elsewhere."""
    if root is not None:
        top, place = os.path.abspath(root), os.path.abspath(path)
        if place == top:
            return ()
        if place.startswith(start := os.path.join(top, "")):
            return tuple(place[len(start) :].split(os.sep))
    return (path.name,)


def place_bytes(path: Path, root: Path | None) -> bytes:
    """The place below ``root`` as one value to make a token from; holds any bytes of a file name."""
    return os.fsencode("/".join(place_below(path, root)))


def patient_and_visit_from_place(path: Path, root: Path | None) -> tuple[str, str | None]:
    """Patient and visit of a file without tags."""
    *folders, name = place_below(path, root)
    place = read_folders(folders)
    return place.patient or laterality_from_name(stem_of_name(name))[1] or name, place.visit


def roles_passed(path: Path, root: Path | None) -> tuple[Role, ...]:
    """What the folders between ``root`` and the patient's folder are taken for."""
    return read_folders(place_below(path, root)[:-1]).passed


def laterality_from_place(path: Path, root: Path | None) -> Laterality | None:
    """The eye that a file's name states, else a folder above it; None if they contradict each other."""
    *folders, name = place_below(path, root)
    by_name, by_folder = laterality_from_name(stem_of_name(name))[0], read_folders(folders).eye
    return None if by_name and by_folder and by_name != by_folder else by_name or by_folder


def contradicted_eye(geometry: Geometry, path: Path, root: Path | None) -> tuple[list[str], list[str]]:
    """Where tags, file name and folders do not state the same eye: warnings that none is known, and conflicts, with the one that counts."""
    warnings, conflicts = [], []
    *folders, name = place_below(path, root)
    for where, side in (("name", laterality_from_name(stem_of_name(name))[0]), ("folder", read_folders(folders).eye)):
        told = geometry.laterality
        if side is None or side == told:
            continue
        if told is None:
            warnings.append(f"the file's {where} states the {_EYES[side]} eye and nothing confirms it: the eye is unknown")
        else:
            counts = "its tags" if geometry.laterality_source != "filename" else "another part of its path"
            conflicts.append(
                f"the file's {where} states the {_EYES[side]} eye, {counts} the {_EYES[told]} one, which counts; check which is true"
            )
    return warnings, conflicts


def stem_of_name(name: str) -> str:
    """A file's name up to its first dot (not one at its beginning)."""
    return name[: name.index(".", 1)] if "." in name[1:] else name


def same_text(text: str) -> str:
    """An ID or a name without what does not distinguish people: blanks at its ends, runs of blanks, control characters, accent encodings.

    Case, leading zeros and punctuation are kept: they may distinguish people.
    """
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp") else c for c in text)
    return unicodedata.normalize("NFC", " ".join(visible.split()))
