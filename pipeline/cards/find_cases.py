"""From a card's patterns and a folder to cases: which files belong together, and what is left over."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pipeline.cards.card import CardCase, CardFields, DataCard, PatientSource
from pipeline.cards.labels import LabelSource
from pipeline.cards.matching import NameMatcher, matcher_of
from pipeline.cards.patterns import fill, stem_of
from pipeline.cards.places import composed, file_below, place_below
from pipeline.cards.plain_text import read_plain_text
from pipeline.cards.tables import read_table
from pipeline.errors import CardError, ScanError
from pipeline.scans.eyes import eye_of, eyes_in_names, laterality_from_name
from pipeline.scans.identity import NO_VISIT
from pipeline.scans.place import patient_and_visit_from_place, read_folders
from pipeline.scans.walk import is_sidecar, names_below
from pipeline.types import CaseKey, Part

if TYPE_CHECKING:
    from pipeline.scans.identity import Pseudonyms

log = logging.getLogger(__name__)


@dataclass
class FolderCases:
    """``cases`` sorted by key; ``left_over`` are (relative file, why) for images without labels, labels without images, private
    DICOM files whose tags cannot be read, links that leave the folder and folders that cannot be listed; ``unlabelled`` counts the images
    without a label that the card announces (``missing: skip``), ``sidecars`` macOS sidecar files (._*), which are not images whatever
    their extension."""

    cases: list[CardCase]
    left_over: list[tuple[str, str]] = field(default_factory=list)
    unlabelled: int = 0
    sidecars: int = 0


def find_cases(card: DataCard, root: Path, *, pseudonyms: Pseudonyms | None = None) -> list[CardCase]:
    """Every image below ``root`` with labels, sorted by key. ``check_card`` lists those without.

    ``pseudonyms`` matter for private cards only; None uses the site's key.

    Raises
    ------
    CardError: nothing matches, two files are one case, or the table or part file does not match the card.
    """
    found = search_folder(card, root, pseudonyms=pseudonyms)
    if found.left_over:
        log.info("card %s: %d files do not fit and are left out; `ocuseg card check` lists them", card.name, len(found.left_over))
    if card.picture_class is not None:  # pictures of classes that data.classes leaves out
        found.cases = [case for case in found.cases if case.picture_class in card.label_map.names]
    if not found.cases:
        raise CardError(
            f"card {card.name}: no image with its label fits {card.images.file!r} in the given folder; "
            "see the card's how_to_get, or run `ocuseg card check`"
        )
    return found.cases


def search_folder(card: CardFields, root: Path, *, pseudonyms: Pseudonyms | None = None) -> FolderCases:
    """Match the files below ``root`` with the card."""
    everything, left_out = names_below(root)
    files = [name for name in everything if not is_sidecar(name)]
    rows = dict(_images(card, root, files))
    sources = [*card.labels, *card.second_reader]
    labels = [matcher_of(card, root, files, index + 1) for index in range(len(sources))]
    view = NameMatcher(card, files, len(sources) + 1) if card.field_of_view is not None else None
    if card.identifiers == "private" and pseudonyms is None:
        from pipeline.scans.identity import Pseudonyms, default_key_path

        pseudonyms = Pseudonyms.load_or_create(default_key_path())

    parts = _PartFinder(card, root, pseudonyms)
    namer = _Namer(card, root, rows, pseudonyms)
    found = FolderCases([], left_out, sidecars=len(everything) - len(files))
    listed = set(files)
    keys: dict[CaseKey, str] = {}
    for path, fields in rows.items():
        if card.images.table is not None and path not in listed:
            found.left_over.append((path, "is named in the table but does not exist"))
            continue
        matched: list[list[tuple[LabelSource, Path | None]]] = []
        missing: list[int] = []
        for number, (source, matcher) in enumerate(zip(sources, labels, strict=True)):
            files_of = matcher.files(path, fields)
            matched.append([(source, root / file) for file in files_of] or [(source, None)])
            if not files_of and source.missing == "skip":
                missing.append(number)
        first, second = ([pair for pairs in part for pair in pairs] for part in (matched[: len(card.labels)], matched[len(card.labels) :]))
        view_file = next(iter(view.files(path, fields)), None) if view else None
        if view and view_file is None:
            found.left_over.append((path, f"no field of view fits {view.pattern.text!r}"))
        # A second reader often read only a part of the images: no fault.
        without = [card.labels[number].file for number in missing if number < len(card.labels)]
        if without and all("missing" in card.labels[n].model_fields_set for n in missing if n < len(card.labels)):
            found.unlabelled += 1
            continue
        if without:
            found.left_over.append((path, f"no label fits {without[0]!r}"))
            continue
        if any(number >= len(card.labels) for number in missing):
            second = []
        try:
            named = None if card.picture_class is None else card.picture_class.of(fields, card.stored_map.names)
            key, told_by = namer.key(path, fields)
        except (CardError, ScanError) as error:
            found.left_over.append((path, str(error)))
            continue
        if card.picture_class is not None and named is None:
            found.unlabelled += 1
            continue
        if key in keys:
            raise CardError(f"card {card.name}: files {keys[key]!r} and {path!r} both become case {key}; let the pattern tell them apart")
        keys[key] = path
        found.cases.append(
            CardCase(
                key,
                root / path,
                tuple(first),
                root / view_file if view_file else None,
                tuple(second),
                parts.part(path, fields, key),
                root,
                {**fields, "stem": stem_of(composed(path))},
                patient_from=told_by,
                picture_class=named,
            )
        )
    for matcher in (*labels, *([view] if view else [])):
        found.left_over += matcher.unused()
    found.cases.sort(key=lambda case: case.key)
    found.left_over.sort()
    return found


def _images(card: CardFields, root: Path, files: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(relative path, fields) of every image."""
    if card.images.table is None:
        pattern = card.patterns[0]
        for path in files:
            fields = pattern.match(path)
            if fields is not None:
                yield path, fields
        return
    names = {composed(path): path for path in files}
    lines: dict[str, int] = {}
    for line, fields in _rows(card, root):
        for name, column in card.images.columns.items():
            if column not in fields:
                raise CardError(f"card {card.name}: table {card.images.table!r} has no column {column!r} (line {line})")
            fields[name] = fields[column]
        if "eye" in fields:
            fields["eye"] = eye_of(fields["eye"]) or fields["eye"]
        where = f"table {card.images.table!r}, line {line}"
        empty = [name for name in card.patterns[0].fields if not fields.get(name, " ")]
        if empty:
            raise CardError(f"card {card.name}: {where}: column {empty[0]!r} is empty; fill it in, or take the row out")
        place = place_below(fill(card.images.file, fields), where)
        if place in lines:
            raise CardError(f"card {card.name}: {where}: line {lines[place]} has the same image {place!r}; give each image one row")
        lines[place] = line
        yield names.get(place, place), fields


def _rows(card: CardFields, root: Path) -> list[tuple[int, dict[str, str]]]:
    assert card.images.table is not None
    try:
        return read_table(file_below(root, card.images.table, "images.table"))
    except CardError as error:
        raise CardError(f"card {card.name}: table {card.images.table!r}: {error}") from None
    except OSError as error:
        raise CardError(
            f"card {card.name}: table {card.images.table!r} cannot be read ({error.strerror or type(error).__name__})"
        ) from None


class _PartFinder:
    """The official part of an image. In private data, names of patients and images may be pseudonyms, as recorded by a run."""

    def __init__(self, card: CardFields, root: Path, pseudonyms: Pseudonyms | None) -> None:
        self.card, self.private = card, card.identifiers == "private"
        listed = card.parts.patients if card.parts is not None and card.parts.patients is not None else {}
        tokens = {part: [pseudonyms.patient(name) for name in names] for part, names in listed.items()} if pseudonyms else {}
        self._patients = {part: {*map(composed, names), *tokens.get(part, ())} for part, names in listed.items()}
        names = card.parts.names if card.parts else None
        if card.parts is not None and card.parts.file is not None:
            names = _part_file(card, root)
        self._names = {part: [composed(name) for name in named] for part, named in (names or {}).items()}

    def part(self, path: str, fields: dict[str, str], key: CaseKey) -> Part | None:
        parts = self.card.parts
        if parts is None:
            return None
        if parts.field is not None:
            value = fields.get("part", "")
            return parts.field.get(value)
        if parts.patients is not None:
            called = {fields.get("patient", stem_of(composed(path))), key.patient}
            return next((part for part, patients in self._patients.items() if called & patients), None)
        called = {stem_of(composed(path)), key.image} if self.private else {stem_of(composed(path))}
        listed = self._names.items()
        return next((part for part, names in listed if any(fnmatch.fnmatchcase(own, name) for name in names for own in called)), None)


def _part_file(card: CardFields, root: Path) -> dict[Part, list[str]]:
    assert card.parts is not None
    assert card.parts.file is not None
    synonyms: dict[str, Part] = {part: part for part in get_args(Part)} | {"val": "validation", "valid": "validation"}
    where = f"card {card.name}: part file {card.parts.file!r}"
    path = file_below(root, card.parts.file, f"card {card.name}: parts.file")
    try:
        data = json.loads(read_plain_text(path))
    except CardError as error:
        raise CardError(f"{where}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        said = getattr(error, "strerror", None) or "it is not JSON"
        raise CardError(f"{where} cannot be read ({said})") from None
    if card.parts.key is not None:
        data = data.get(card.parts.key) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not all(isinstance(names, list) for name, names in data.items() if name in synonyms):
        under = f" under {card.parts.key!r}" if card.parts.key else ""
        raise CardError(f"{where} holds no lists of names by part{under}: {{train: [...], test: [...]}}")
    return {synonyms[name]: [str(v) for v in names] for name, names in data.items() if name in synonyms}


class _Namer:
    """Gives each image its key: patient, eye and visit.

    Without a field {patient}: DICOM tags of private files, else the folders of {path}, else the image's name without the eye, so that
    both eyes share a patient. The eyes of names are read from all names at once (scans/eyes.py).
    """

    def __init__(self, card: CardFields, root: Path, rows: Mapping[str, dict[str, str]], pseudonyms: Pseudonyms | None) -> None:
        self.card, self.root, self.pseudonyms = card, root, pseudonyms
        self.places = {path: read_folders(fields.get("path", "").split("/")[:-1]) for path, fields in rows.items()}
        by_name = [path for path, fields in rows.items() if not fields.get("patient") and not self.places[path].patient]
        self.eyes = eyes_in_names(_name(path, rows[path]) for path in by_name)
        if self.eyes.rule:
            log.info("card %s: eyes and patients are read from the names of the images: %s", card.name, self.eyes.rule)
        strange = [text for fields in rows.values() if (text := fields.get("eye", "")) and not eye_of(text)]
        strange = [text for text in strange if not re.fullmatch(r"u|ou|b|both|unknown|n/?a|none|-", text.strip().lower())]
        if strange:
            shown = f" ({', '.join(sorted(set(strange))[:3])})" if card.identifiers == "public" else ""
            log.warning(
                "card %s: of %d images the field {eye} is not understood%s; write OD / OS, R / L or left / right",
                card.name,
                len(strange),
                shown,
            )

    def key(self, path: str, fields: Mapping[str, str]) -> tuple[CaseKey, PatientSource]:
        """The image's key, and where its patient was read.

        Raises
        ------
        ScanError: a private DICOM file whose tags cannot be read.
        """
        card, place, name = self.card, self.places[path], _name(path, fields)
        named_eye, rest = self.eyes.of.get(name) or laterality_from_name(name)
        patient = fields.get("patient") or place.patient or rest
        source: PatientSource = "field" if fields.get("patient") else "folder" if place.patient else "name"
        visit = fields.get("visit") or place.visit or NO_VISIT
        eye = eye_of(fields.get("eye")) or card.laterality or named_eye or place.eye or "U"
        if card.identifiers == "public":
            return CaseKey(_safe(patient), eye, _safe(visit), _safe(fields.get("name") or stem_of(composed(path)))), source
        assert self.pseudonyms is not None
        if not fields.get("patient"):
            from pipeline.scans.open import case_by_tags

            file = self.root / path
            case = case_by_tags(file, pseudonyms=self.pseudonyms, root=self.root)
            if case is not None:
                if case.patient != self.pseudonyms.patient(patient_and_visit_from_place(file, self.root)[0]):
                    source = "tags"
                return (case if case.eye != "U" else replace(case, eye=eye)), source
        key = CaseKey(
            self.pseudonyms.patient(patient),
            eye,
            self.pseudonyms.token("visit", visit) if visit != NO_VISIT else NO_VISIT,
            self.pseudonyms.token("image", os.fsencode(path)),
        )
        return key, source


def _name(path: str, fields: Mapping[str, str]) -> str:
    """The patient if nothing else states it: the image's name, without the eye if the pattern has {eye}."""
    return (fields.get("eye") and fields.get("name")) or stem_of(composed(path))


def _safe(text: str) -> str:
    """A readable name made of letters, digits, dots and dashes only, where "_" and " " are dashes.

    If more than that is lost (other letters, several signs in a row, the end of a long name), a hash of the whole name is appended:
    Müller and Muller are two people.
    """
    whole = composed(text)
    kept = re.sub(r"[^A-Za-z0-9.-]+", "-", whole).strip("-.")
    if kept and len(kept) <= 64 and kept == re.sub("[_ ]", "-", whole):
        return kept
    return f"{kept[:51].strip('-.') or 'x'}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]}"
