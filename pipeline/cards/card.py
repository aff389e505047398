"""Data cards: one Markdown file per data set states where its files are, what their labels mean, and their licence.

The YAML between the two "---" lines at the top is checked by :class:`CardFields`; the text below is for people.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.cards.labels import (
    BACKGROUND_NAME,
    IGNORE_NAME,
    ColoursLabel,
    FieldOfViewSource,
    InstancesLabel,
    LabelSource,
    MasksLabel,
    PixelSource,
    ValuesLabel,
    meanings,
    read_placed,
)
from pipeline.cards.patterns import Pattern, expressions
from pipeline.cards.picture_class import PictureClass
from pipeline.cards.places import InFolder
from pipeline.cards.plain_text import read_plain_text
from pipeline.errors import CardError, OcusegError
from pipeline.registry import Colour, Strict, explain
from pipeline.resources import shipped
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap, Laterality, Modality, Part, Scan, Spacing
from pipeline.yaml_mapping import read_mapping

log = logging.getLogger(__name__)


PatientSource = Literal["field", "tags", "folder", "name"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_ -]{0,63}$")]


class ClassFields(Strict):
    name: Name
    colour: Colour
    code: str | None = Field(None, description='DICOM code "SCHEME:VALUE", or null where no verified one exists')
    role: Literal["optic_disc", "optic_cup", "vessel", "artery", "vein", "fovea", "lesion", "fluid", "right_eye", "left_eye"] | None = (
        Field(None, description="what the class is, where its code does not say it; measurements are chosen by this, never by the name")
    )
    inside: str | None = Field(None, description="the class that this one is part of: a cup is kept only where its disc is found too")
    mirrors_to: str | None = Field(
        None, description="of whole pictures: the class that a left-right mirror makes of this one, as a right eye becomes a left one"
    )

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in (BACKGROUND_NAME, IGNORE_NAME):
            raise ValueError(f"{name!r} is not a class: it is always there")
        return name


class ImageFields(Strict):
    """Which files are images. With a table (CSV), each row is an image and its columns are the fields of all patterns."""

    file: str = Field(description="pattern of the image files; fields patient, eye, visit, part and name have a meaning")
    table: InFolder | None = Field(None, description="CSV file in the data set's folder; commas, semicolons or tabs")
    columns: dict[str, str] = Field(default_factory=dict, description="fields whose columns have other names: {patient: PatientNo}")


class PartFields(Strict):
    """Which cases belong to which official part, stated in exactly one way."""

    field: dict[str, Part] | None = Field(None, description="values of the pattern's or table's field {part}")
    patients: dict[Part, list[str]] | None = Field(None, description="IDs of patients, of private data also their pseudonyms")
    names: dict[Part, list[str]] | None = Field(None, description="image names without extension; * and ? and [abc] as in a shell")
    file: InFolder | None = Field(None, description="JSON file in the data set's folder: part -> list of image names")
    key: str | None = Field(None, description="key in that file that holds the parts")

    @model_validator(mode="after")
    def _one_way(self) -> PartFields:
        if sum(v is not None for v in (self.field, self.patients, self.names, self.file)) != 1:
            raise ValueError("give the parts in exactly one way: field, patients, names or file")
        return self


class CardFields(Strict):
    """The front matter of a data card."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    title: str
    modality: Modality
    identifiers: Literal["public", "private"] = Field(
        description="public: names in the data set may be shown; private: only keyed pseudonyms leave the scan"
    )
    licence: str
    citation: str
    source: str = Field(description="the data set's official location")
    how_to_get: str
    known_faults: list[str] = Field(default_factory=list)
    device: str | None = None
    spacing_mm: Spacing | None = Field(
        None, description="(rows, columns) or (slices, rows, columns), null for an axis of unknown spacing; used where a file states none"
    )
    laterality: Laterality | None = Field(None, description="set if every image shows the same eye")
    classes: list[ClassFields] = Field(
        default_factory=list, description="empty if no file labels anything: such a set can be read, but not trained on"
    )
    overlapping: bool = Field(False, description="whether one pixel may belong to several classes (the cup lies in the disc)")
    layers: list[str] = Field(
        default_factory=list,
        description="classes that are layers of the retina, each on the next, from the vitreous down; the others lie within (fluid)",
    )
    surfaces: list[Name] = Field(
        default_factory=list, description="names of the surfaces above, between and below the layers: [ILM, ..., BM]"
    )
    ordered: bool = Field(False, description="of whole pictures: classes are grades, from the lowest to the highest")
    images: ImageFields
    picture_class: PictureClass | None = Field(None, description="which class each picture as a whole is, in place of labels")
    labels: list[LabelSource] = Field(default_factory=list)
    second_reader: list[LabelSource] = Field(default_factory=list)
    field_of_view: FieldOfViewSource | None = None
    parts: PartFields | None = None
    record_of: str | None = Field(None, description="of a private card as a run has recorded it: SHA-256 of the card itself")
    counts: dict[Part, int] = Field(default_factory=dict, description="how many images each official part has")

    @model_validator(mode="after")
    def _consistent(self) -> CardFields:
        names = self.stored_map.names  # made here, so that its own checks are a card's, too
        if self.picture_class is not None:
            self.picture_class.check(self.stored_map, bool(self.labels or self.second_reader))
        elif self.ordered or self.stored_map.mirrors:
            raise ValueError("ordered and mirrors_to are of whole pictures: say by picture_class where the class of each is found")
        if not names and (self.labels or self.second_reader):
            raise ValueError("classes: is missing, but there are labels; name the classes that they hold")
        for source in (*self.labels, *self.second_reader):
            for name in meanings(source):
                if name not in names and name not in (BACKGROUND_NAME, IGNORE_NAME):
                    raise ValueError(f"labels name class {name!r}, but classes are: {', '.join(names)}")
            if not self.overlapping:
                said: list[Any] = []
                if isinstance(source, ColoursLabel):
                    said = [rule.means for rule in source.colours]
                elif isinstance(source, ValuesLabel):
                    said = list(source.values.values())
                if any(isinstance(meaning, list) and len(meaning) > 1 for meaning in said):
                    raise ValueError("one value means several classes, which needs overlapping: true")
        kinds: dict[str, str] = {}
        for name, way in ((name, s.objects) for s in self.labels if isinstance(s, PixelSource) for name in meanings(s)):
            if kinds.setdefault(name, way) != way:
                raise ValueError(f"labels give both components and one for the objects of class {name!r}; choose one")
        try:
            patterns = self.patterns
        except CardError as error:
            raise ValueError(str(error)) from None
        if self.images.table is None:
            known = {*patterns[0].fields, "stem"}
            sources = [*self.labels, *self.second_reader]
            for number, pattern in enumerate(patterns[1:]):
                several = number < len(sources) and isinstance(sources[number], MasksLabel)
                strange = set(pattern.fields) - known - ({"object"} if several else set())
                if number < len(sources) and getattr(sources[number], "match", "name") == "reference":
                    continue
                if number < len(sources) and isinstance(source := sources[number], InstancesLabel) and source.classes_from is not None:
                    strange |= set(Pattern.compile(source.classes_from.file).fields) - known
                if strange:
                    raise ValueError(f"pattern {pattern.text!r} uses {{{strange.pop()}}}, which the image pattern does not have")
            if self.picture_class is not None and self.picture_class.field not in patterns[0].fields:
                raise ValueError(f"picture_class.field needs {{{self.picture_class.field}}} in the image pattern")
            if self.parts is not None and self.parts.field is not None and "part" not in known:
                raise ValueError("parts.field needs {part} in the image pattern")
        return self

    @cached_property
    def stored_map(self) -> LabelMap:
        """All classes that the label files name."""
        classes = (LabelClass(i, c.name, c.colour, c.code, c.inside, c.role, c.mirrors_to) for i, c in enumerate(self.classes, 1))
        return LabelMap(tuple(classes), self.overlapping, tuple(self.layers), tuple(self.surfaces), self.ordered)

    @cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        """Compiled patterns: image, then labels, second reader and field of view in the order of the card."""
        stated = expressions(self.images.file)
        others = [source.file for source in (*self.labels, *self.second_reader)]
        if self.field_of_view is not None:
            others.append(self.field_of_view.file)
        return Pattern.compile(self.images.file), *(Pattern.compile(text, stated) for text in others)


class DataCard(CardFields):
    """A checked card; ``sha256`` is of the whole text, ``body`` is the Markdown below the front matter.

    ``chosen``: names of the classes kept by :meth:`choosing`; empty: all.
    """

    body: str = ""
    sha256: str = ""
    chosen: tuple[str, ...] = ()

    @cached_property
    def label_map(self) -> LabelMap:
        """The classes that are read (``chosen``), in the card's order."""
        return self.stored_map.only([c.name for c in self.classes if c.name in self.chosen]) if self.chosen else self.stored_map

    def choosing(self, names: Sequence[str]) -> DataCard:
        """The same card with only these classes read from its labels; other classes become background.

        Raises
        ------
        CardError: the card has no such class.
        """
        known = self.stored_map.names
        strange = [name for name in names if name not in known]
        if strange:
            raise CardError(f"data.classes: card {self.name} has no class {strange[0]!r}; it has {', '.join(known)}")
        if apart := [c.name for c in self.classes if c.name in names and c.mirrors_to is not None and c.mirrors_to not in names]:
            raise CardError(f"data.classes: a mirrored {apart[0]} is of a class that is left out; choose both")
        card = DataCard(**{name: getattr(self, name) for name in DataCard.model_fields} | {"chosen": tuple(names)})
        within = [name for name in known if name not in (*self.layers, *names)]
        if set(self.layers) & set(names) and not card.label_map.layered:
            log.warning("card %s: data.classes leaves out a layer between others, so no surface is measured; choose all between", self.name)
        elif card.label_map.layered and within:
            much = "where there is much of it, surfaces are misplaced; choose it too"
            log.warning("card %s: data.classes leaves out %s, which may lie between layers: %s", self.name, ", ".join(within), much)
        return card


@dataclass(frozen=True)
class CardCase:
    """One image of a data set with all its files. Paths are for reading; only ``key`` may be written anywhere.

    A label without a path is a file that may be missing by the card: the image has none of its classes. A source with one file per
    object has one entry per file. ``fields`` are the values of the patterns' fields for the image, ``root`` is the data set's folder.
    ``patient_from``: where the patient was read: the card's field, tags, a folder or the file's name. ``picture_class``: what the whole
    picture is, of a card that says it.
    """

    key: CaseKey
    image: Path
    labels: tuple[tuple[LabelSource, Path | None], ...] = ()
    field_of_view: Path | None = None
    second_reader: tuple[tuple[LabelSource, Path | None], ...] = ()
    part: Part | None = None
    root: Path = Path()
    fields: Mapping[str, str] = field(default_factory=dict, compare=False)
    patient_from: PatientSource = "field"
    picture_class: str | None = None


def card_folders() -> list[Path]:
    """Where cards are searched: the working folder, then those that come with ocuseg."""
    return [Path("data_cards"), shipped("data_cards")]


def load_card(name_or_path: str) -> DataCard:
    """A card by its name ("chase_db1") or by the path of its file.

    Raises
    ------
    CardError: no such card, or an invalid front matter; one sentence per fault.
    """
    import difflib

    path = Path(name_or_path)
    if path.suffix != ".md" and path.name == name_or_path:
        found = [folder / f"{name_or_path}.md" for folder in card_folders() if (folder / f"{name_or_path}.md").is_file()]
        if not found:
            known = _names()
            near = difflib.get_close_matches(name_or_path, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}; or give the path of a card's .md file"
            raise CardError(f"there is no data card {name_or_path!r}; {hint}")
        path = found[0]
    try:
        text = read_plain_text(path).replace("\r\n", "\n")
    except CardError as error:
        raise CardError(f"data card {name_or_path!r} cannot be read: {error}") from None
    except OSError as error:
        raise CardError(f"data card {name_or_path!r} cannot be read ({error.strerror or type(error).__name__})") from None
    return parse_card(text, where=path.name)


def list_cards() -> list[DataCard]:
    """The cards that come with ocuseg or are in the working folder, by name."""
    return [load_card(name) for name in _names()]


def _names() -> list[str]:
    return sorted({path.stem for folder in card_folders() if folder.is_dir() for path in folder.glob("*.md") if path.stem != "README"})


def parse_card(text: str, where: str = "card") -> DataCard:
    """A card from its text."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n?(.*)", text, flags=re.DOTALL)
    if match is None:
        raise CardError(f"{where}: must begin with a line '---', YAML, and a second line '---'")
    data = read_mapping(match[1], where, "name, modality, classes, images, labels", CardError, first_line=2)
    try:
        fields = CardFields.model_validate(data)
    except ValidationError as error:
        raise CardError("\n".join(f"{where}: {explain(fault, CardFields)}" for fault in error.errors())) from None
    checked = {name: getattr(fields, name) for name in CardFields.model_fields}
    return DataCard(**checked, body=match[2], sha256=fields.record_of or hashlib.sha256(text.encode()).hexdigest())


def read_scan(card: DataCard, case: CardCase) -> Scan:
    """The case's image as a Scan: the card's modality, and its spacing and laterality if the file itself has none.

    Raises
    ------
    ScanError: the file cannot become a Scan.
    """
    from pipeline.scans.open import open_scan

    scan = open_scan(case.image)
    geometry = scan.geometry
    if card.spacing_mm is not None and geometry.voxel_mm is None and len(card.spacing_mm) == len(geometry.shape):
        stated = geometry.spacing_mm or (None,) * len(geometry.shape)
        filled = tuple(theirs if own is None else own for own, theirs in zip(stated, card.spacing_mm, strict=True))
        if filled != stated:
            geometry = replace(geometry, spacing_mm=filled, spacing_source="user")
    if case.key.eye != "U" and geometry.laterality_source not in ("tag", "functional_group"):
        geometry = replace(geometry, laterality=case.key.eye, laterality_source="card")
    return replace(scan, geometry=geometry, modality=card.modality, modality_source="card", case=case.key)


def read_field_of_view(card: DataCard, case: CardCase, scan: Scan) -> npt.NDArray[np.bool_] | None:
    """The card's field of view, bool (H, W) in the frame of the case's scan, or None if the card has none for this case."""
    if case.field_of_view is None or card.field_of_view is None:
        return None
    try:
        stored = read_placed(case.field_of_view, scan.geometry, card.field_of_view.place)
    except OcusegError as error:
        raise CardError(f"case {case.key}: its field-of-view file cannot be used: {error}") from error
    if stored.ndim == 3 and stored.shape[-1] == 3:
        stored = stored.max(axis=-1)
    return np.asarray(stored >= card.field_of_view.at_least)


def check_sizes(geometry: Geometry, mask: npt.NDArray[Any], what: str) -> None:
    """Raise CardError if a label does not have its image's size."""
    if tuple(mask.shape) != geometry.shape:
        raise CardError(f"{what} is {' x '.join(map(str, mask.shape))}, but the image is {' x '.join(map(str, geometry.shape))}")
