"""Which label files belong to an image: by the fields of their names, or by the image that they refer to."""

from __future__ import annotations

from pathlib import Path

from pipeline.cards.card import CardFields
from pipeline.cards.label_file import DicomSegLabel
from pipeline.cards.labels import MasksLabel
from pipeline.cards.patterns import fill, stem_of
from pipeline.cards.places import composed, place_below
from pipeline.errors import CardError, ScanError
from pipeline.scans.segmentation import instance_uid, referred_images


def matcher_of(card: CardFields, root: Path, files: list[str], index: int) -> NameMatcher | ReferenceMatcher:
    """Of the card's label source ``index`` (from 1, second readers last)."""
    source = [*card.labels, *card.second_reader][index - 1]
    by_reference = isinstance(source, DicomSegLabel) and source.match == "reference"
    return ReferenceMatcher(card, root, files, index) if by_reference else NameMatcher(card, files, index)


class NameMatcher:
    """Finds the files of one label source for an image: one, or one per object (field {object})."""

    def __init__(self, card: CardFields, files: list[str], index: int) -> None:
        self.pattern = card.patterns[index]
        self._card = card
        self._files: dict[tuple[str, ...], list[str]] = {}
        self._used: set[str] = set()
        sources = [*card.labels, *card.second_reader]
        several = index <= len(sources) and isinstance(sources[index - 1], MasksLabel)
        self._fields = [name for name in self.pattern.fields if not several or name != "object"]
        if card.images.table is not None:
            self._names = {composed(path): path for path in files}
        else:
            seen: dict[tuple[str, ...], str] = {}
            for path in files:
                fields = self.pattern.match(path)
                if fields is None:
                    continue
                values = tuple(fields[name] for name in self.pattern.fields)
                if values in seen:
                    both = f"{seen[values]!r} and {path!r}"
                    raise CardError(f"card {card.name}: {both} both fit {self.pattern.text!r} for one image; make it exact")
                seen[values] = path
                self._files.setdefault(tuple(fields[name] for name in self._fields), []).append(path)

    def files(self, image: str, fields: dict[str, str]) -> list[str]:
        known = {**fields, "stem": stem_of(composed(image))}
        if self._card.images.table is not None:
            place = self._names.get(place_below(fill(self.pattern.text, known), f"table {self._card.images.table!r}"))
            return [place] if place else []
        found = sorted(self._files.get(tuple(known[name] for name in self._fields), []))
        self._used.update(found)
        return found

    def unused(self) -> list[tuple[str, str]]:
        """Files of no image, each with why."""
        return [(file, "no image belongs to it") for file in sorted({f for files in self._files.values() for f in files} - self._used)]


class ReferenceMatcher:
    """Finds the DICOM segmentations that refer to an image by its SOP Instance UID: none, one or several."""

    def __init__(self, card: CardFields, root: Path, files: list[str], index: int) -> None:
        self.pattern, self._root = card.patterns[index], root
        self._files: dict[str, list[str]] = {}
        self._without: list[tuple[str, str]] = []
        self._used: set[str] = set()
        for path in files:
            if self.pattern.match(path) is None:
                continue
            try:
                images = referred_images(root / path)
            except ScanError as error:
                self._without.append((path, str(error)))
                continue
            if not images:
                self._without.append((path, "it refers to no image, so nothing says whose it is; match it by name"))
            for uid in images:
                self._files.setdefault(uid, []).append(path)

    def files(self, image: str, fields: dict[str, str]) -> list[str]:
        uid = instance_uid(self._root / image)
        found = sorted(self._files.get(uid, [])) if uid else []
        self._used.update(found)
        return found

    def unused(self) -> list[tuple[str, str]]:
        """Files of no image, each with why."""
        left = sorted({file for files in self._files.values() for file in files} - self._used)
        return [*self._without, *((file, "the image that it refers to is not here") for file in left)]
