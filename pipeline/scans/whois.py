"""From a pseudonym back to the files and the patient: only where the scans and the site key are, and only in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.errors import ConfigError, ScanError
from pipeline.scans.identity import Identity, Pseudonyms, identify, of_file
from pipeline.scans.open import identity_by_tags
from pipeline.scans.place import laterality_from_place
from pipeline.scans.record import token_of
from pipeline.scans.walk import walk
from pipeline.types import CaseKey, ProgressCallback, no_progress

_TOKEN = re.compile("[a-z2-7]{16}")
_APART = re.compile(r"-[0-9a-f]{12}$")
"""What keeps two contents of one name apart in the name of a case (inference/folder.py)."""


@dataclass(frozen=True)
class Known:
    """A file that a pseudonym stands for. ``patient`` and ``visit`` in clear."""

    path: Path
    whose: Identity


def who_is(token: str, root: Path, names: Pseudonyms, progress: ProgressCallback = no_progress) -> Iterator[Known]:
    """The files below ``root`` that a token stands for (a patient's, a visit's, an image's, or a file's in the ledger), or a whole name of
    a case.

    Raises
    ------
    ConfigError: it is neither.
    """
    wanted = _wanted(token)
    for number, (path, problem) in enumerate(walk(root)):
        progress(number + 1, None, "")
        file = token_of(path, root, names)
        found = _whose(path, root, names) if problem is None else ()
        yield from islice((Known(path, whose) for whose in found if _is_one(wanted, whose, file)), 1)


def _wanted(text: str) -> CaseKey | str:
    if _TOKEN.fullmatch(text):
        return text
    with suppress(ValueError):
        case = CaseKey.parse(text)
        return CaseKey(case.patient, case.eye, case.visit, _APART.sub("", case.image))
    raise ConfigError(f"{text!r} is no pseudonym: give sixteen letters and digits, or a case's whole name, PATIENT_EYE_VISIT_IMAGE")


def _whose(path: Path, root: Path, names: Pseudonyms) -> Iterator[Identity]:
    """By tags, else by the place, as a folder's and as the file's (`--patients file`); nothing of a file that is no scan by its tags or
    cannot be opened."""
    with suppress(ScanError):
        whose = identity_by_tags(path, names, root) or identify(names, path, root, laterality_from_place(path, root))
        yield whose
        yield of_file(whose, path, names)


def _is_one(wanted: CaseKey | str, whose: Identity, file: str) -> bool:
    case = whose.case
    if isinstance(wanted, str):
        return wanted in (case.patient, case.visit, case.image, file)
    # The eye is not compared: a picture may have got its side from a network.
    return (wanted.patient, wanted.visit, wanted.image) == (case.patient, case.visit, case.image)
