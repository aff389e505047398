"""File patterns of a data card: "images/Image_{patient:\\d\\d}{eye:[LR]}.jpg" finds files and says what their names mean.

``{field}`` stands for a part of the path and gives it a name, ``{field:REGEX}`` says what it may match, ``*`` stands for
anything within one folder, a trailing ``.*`` for any file extension (".nii.gz" and ".ppm.gz" count as one), and a pattern that ends in "/"
for every file below that folder. All else is literal. Paths are relative to the data set's folder, with "/" between folders.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

import regex

from pipeline.cards.places import composed
from pipeline.errors import CardError
from pipeline.scans.eyes import eye_of

_FIELD = re.compile(r"\{(?P<name>[a-z_][a-z0-9_]*)(?::(?P<regex>(?:[^{}]|\{[\d,]+\})+))?\}")
_EXTENSION = r"\.(?:[A-Za-z0-9]+\.gz|[^./]+)"
_REPEATED = re.compile(r"\{(\d+)[,\d]*\}")
_SECONDS = 1.0
"""CPU seconds that a pattern may take on one name; ordinary ones take microseconds."""
_COPIES = 100_000
"""How many copies the repeats of a pattern, such as {8}, may make in total."""
_DEFAULTS = {"eye": "(?i:OD|OS|OI|OG|RE|LE|right|left|[RLDG])", "path": ".+?"}


def stem_of(path: str) -> str:
    """File name without its extension: "a/b.c.png" -> "b.c", "a/b.nii.gz" -> "b"."""
    name = PurePosixPath(path).name
    return re.sub(_EXTENSION + "$", "", name) or name


@dataclass(frozen=True)
class Pattern:
    """One compiled pattern; ``fields`` are the names it captures."""

    text: str
    regex: regex.Pattern[str]
    fields: tuple[str, ...]

    @classmethod
    def compile(cls, text: str, known: Mapping[str, str] | None = None) -> Pattern:
        """Compile ``text``; ``known``: regular expressions that other patterns of the card give for a field.

        Raises
        ------
        CardError: an unmatched brace, an invalid regular expression, or a path outside the data set's folder.
        """
        known = known or {}
        if re.match(r"/|[A-Za-z]:[/\\]", text) or ".." in text.split("/"):
            raise CardError(f"pattern {text!r} does not lie in the data set's folder; patterns are relative to it")
        source = composed(text + "{path}.*" if text.endswith("/") else text)
        any_extension = source.endswith(".*")
        source = source.removesuffix(".*") if any_extension else source
        parts: list[str] = []
        fields: list[str] = []
        position = 0
        for match in _FIELD.finditer(source):
            parts.append(_literal(source[position : match.start()], text))
            name = match["name"]
            expression = match["regex"] or known.get(name) or _DEFAULTS.get(name, "[^/]+?")
            parts.append(f"(?P={name})" if name in fields else f"(?P<{name}>{expression})")
            if name not in fields:
                fields.append(name)
            position = match.end()
        parts.append(_literal(source[position:], text))
        whole = "".join(parts) + (_EXTENSION if any_extension else "")
        if sum(map(len, _REPEATED.findall(whole))) > 200 or math.prod(max(1, int(n)) for n in _REPEATED.findall(whole)) > _COPIES:
            raise CardError(f"pattern {text!r} repeats too much; write + in place of large numbers in braces")
        try:
            return cls(text, regex.compile(whole), tuple(fields))
        except (regex.error, RecursionError, OverflowError) as error:
            raise CardError(f"pattern {text!r} is not valid: {str(error) or type(error).__name__}") from None

    def fits_but_for_case(self, path: str) -> bool:
        """Whether a relative path would fit if case were ignored, as on some systems."""
        with suppress(TimeoutError):
            any_case = regex.compile(self.regex.pattern, regex.IGNORECASE)
            return not self.regex.fullmatch(composed(path), timeout=_SECONDS) and bool(any_case.fullmatch(composed(path), timeout=_SECONDS))
        return False

    def match(self, path: str) -> dict[str, str] | None:
        """Fields of a relative path, or None if the pattern does not fit; ``eye`` as "R" or "L" if known.

        Raises
        ------
        CardError: matching takes longer than any ordinary pattern does.
        """
        try:
            match = self.regex.fullmatch(composed(path), timeout=_SECONDS)
        except TimeoutError:
            raise CardError(
                f"pattern {self.text!r} takes more than {_SECONDS:g} s on one file name; simplify it: a repeat holds another, as in (a+)+"
            ) from None
        if match is None:
            return None
        fields = dict(match.groupdict())
        if "eye" in fields:
            fields["eye"] = eye_of(fields["eye"]) or fields["eye"]
        return fields


def expressions(text: str) -> dict[str, str]:
    """The regular expressions that a pattern states for its fields."""
    return {match["name"]: match["regex"] for match in _FIELD.finditer(text) if match["regex"]}


def fill(text: str, fields: Mapping[str, str]) -> str:
    """The path that a pattern without ``*`` gives for these fields (tables).

    Raises
    ------
    CardError: a field is missing.
    """

    def value(match: re.Match[str]) -> str:
        if match["name"] not in fields:
            raise CardError(f"pattern {text!r} needs a column {match['name']!r}; the table has: {', '.join(sorted(fields))}")
        return fields[match["name"]]

    return _FIELD.sub(value, text)


def _literal(text: str, whole: str) -> str:
    if "{" in text or "}" in text:
        raise CardError(f"pattern {whole!r} has a brace that opens or closes no field; write fields as {{name}} or {{name:REGEX}}")
    if "\\" in text:
        raise CardError(f"pattern {whole!r} has a backslash between its fields; write / between folders")
    return "[^/]*".join(re.escape(piece) for piece in text.split("*"))
