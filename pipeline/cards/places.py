"""Paths of a data set's files: below its folder, with names that are the same whichever system wrote them."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from pipeline.errors import CardError
from pipeline.scans.walk import FOLLOW_LINKS


def composed(name: str) -> str:
    """A name with its letters composed (NFC): macOS and some archives hold "é" as "e" and an accent, which other systems do not."""
    return unicodedata.normalize("NFC", name)


def place_below(text: str, what: str) -> str:
    """A path as written in a table or card on any system -> the same below the data set's folder, composed, with "/".

    Raises
    ------
    CardError: it is absolute, leads out of the folder, or is not a path; the message begins with ``what`` ("images.table").
    """
    place = composed(text).replace("\\", "/")
    if "\0" in place:
        raise CardError(f"{what}: {text!r} is not a path")
    short = posixpath.normpath(place) if place else ""
    if short.startswith("/") or short == ".." or short.startswith("../") or re.match(r"[A-Za-z]:", short):
        raise CardError(f"{what}: {text!r} does not lie in the data set's folder; paths are relative to it, and all files lie below it")
    return short


def file_below(root: Path, text: str, what: str) -> Path:
    """The path of a file that a card names, which must stay below ``root`` after following links (unless ``$OCUSEG_FOLLOW_LINKS``
    is 1); it need not exist.

    Raises
    ------
    CardError: as :func:`place_below`, or a link leads out of the folder.
    """
    path = root / place_below(text, what)
    if not path.exists() and (root / text).exists():
        path = root / text  # a name with other letters than it is written with
    if os.environ.get(FOLLOW_LINKS) != "1" and not path.resolve().is_relative_to(root.resolve()):
        raise CardError(f"{what}: {text!r} is a link that leads out of the data set's folder; put the file itself there")
    return path


def _in_folder(text: str) -> str:
    try:
        place_below(text, "it")
    except CardError as error:
        raise ValueError(str(error).removeprefix("it: ")) from None
    return text


InFolder = Annotated[str, AfterValidator(_in_folder)]
"""A card's field with the path of one file of the data set."""
