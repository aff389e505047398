"""A first draft of a data card for a user's folder, from what the files show; a person completes it.

A card's text is copied into every run and its record, so a draft contains only those words of file and folder names that
name a kind of image (images, masks, vessels, ...) or a part (train, test): anything else may be a patient. Names that the user gives,
and all names of a set that the user calls public, may appear.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.cards.draft_groups import TEXTS, Group, Key, Looks, groups_of, make_exact, with_looks
from pipeline.cards.draft_looks import Look, look_at
from pipeline.cards.draft_objects import classes_from, coco_source, parts_file, seg_source, yolo_source
from pipeline.cards.draft_roles import OpenQuestionError, Question, Roles, Takes, assign
from pipeline.cards.draft_words import eye_at_end, part_of, shape, states_eye, words
from pipeline.cards.tables import read_table
from pipeline.errors import CardError
from pipeline.scans.archive_survey import archives_below
from pipeline.scans.archives import archives_line
from pipeline.scans.walk import names_below
from pipeline.types import Modality, ProgressCallback
from pipeline.types.palette import class_colour

UNFINISHED = "TO COMPLETE"
"""Placeholder for what a person must fill in."""


def draft_card(
    folder: Path,
    *,
    labels: Path | Sequence[Path] | None = None,
    name: str | None = None,
    takes: Takes | None = None,
    public: bool = False,
    looks: Looks | None = None,
    progress: ProgressCallback | None = None,
) -> str:
    """Markdown of a card for ``folder``.

    Parameters
    ----------
    labels: folders of the labels below ``folder``, or a CSV file in it with columns image and label (and optionally patient, eye,
        visit, part). None: labels are pictures whose pixels look like labels and whose names fit those of the images.
    name: the card's; without it "my_data" (the folder's own name may be a patient's).
    takes: the role of a folder or group of files, as in :mod:`draft_roles`; overrides what the pixels suggest.
    public: names of files and folders identify nobody.
    looks: what the pixels of the files show; a cache for further calls on the same folder, after a question is answered.

    Raises
    ------
    CardError: nothing can be read, or no label belongs to any image.
    OpenQuestionError: two readings are possible; call again with one of its answers among ``takes``.
    """
    name = re.sub(r"[^a-z0-9_-]+", "_", (name or "").lower()).strip("_-")[:64] or "my_data"
    chosen = [labels] if isinstance(labels, Path) else list(labels or ())
    if len(chosen) == 1 and chosen[0].suffix.lower() == ".csv":
        return _from_table(folder, chosen[0], name)
    takes = {**{_relative(path, folder): "labels" for path in chosen}, **(takes or {})}
    top = Path(folder).absolute()
    literal = [key.rstrip("/") for key in takes if "*" not in key]
    groups = with_looks(groups_of(_files(top), top, literal, public=public), top, {} if looks is None else looks, progress)
    make_exact(groups)
    if not any(g.look is not None for g in groups):
        why = archives_line(*archives_below(top)) or "`ocuseg index` says why for each"
        raise CardError(f"no file in the folder could be read as a scan; {why}")
    roles = assign(groups, top, takes)
    if isinstance(roles, Question):
        raise OpenQuestionError(roles)
    return _Draft(top, groups, roles, public).markdown(name)


def _files(top: Path) -> list[str]:
    return [name for name in names_below(top)[0] if (top / name).is_file() and not Path(name).name.startswith(".")]


@dataclass
class _Draft:
    top: Path
    groups: list[Group]
    roles: Roles
    public: bool

    def __post_init__(self) -> None:
        self.classes: list[dict[str, Any]] = []
        self.open: list[str] = []
        self.bases: list[str] = []
        self.name = self._name()

    def markdown(self, name: str) -> str:
        front = self._front(name)
        sources, seconds = self._sources()
        for find in (yolo_source, coco_source, seg_source):
            if not sources and (source := find(self.groups, self.roles.images, self.top)) is not None:
                for key in ("values", "categories", "segments"):
                    source |= {key: {k: self._new_class(v) for k, v in source[key].items()}} if key in source else {}
                sources.append(source | {"file": self._renamed(source["file"])})
        if not self.classes:
            self._new_class("class_1")
        lost = [why for group, why in self.roles.left_out if group.is_label and why.startswith(("no label's name", "of another size"))]
        if lost and not sources:
            self.open.append(f"files that look like labels are left out ({', '.join(sorted(set(lost)))}): see the table below")
        front |= {"classes": self.classes, "labels": sources}
        if len(sources) > 1 or any(s["kind"] in ("yolo_boxes", "coco", "dicom_seg") for s in sources):
            front["overlapping"] = True
        if seconds:
            front["second_reader"] = seconds
        view = self.roles.view
        if view is not None:
            lossy = {"at_least": 128} if view.look is not None and view.look.kind == "agreement" else {}
            front["field_of_view"] = {"file": view.pattern(self.name), **lossy}
        front["known_faults"] = [f"{UNFINISHED}: {point}" for point in self.open]
        return _markdown(front, self._notes())

    def _name(self) -> str:
        """How the patterns tell the images of a folder apart: by {name}, or by the {patient} and {eye} that the names hold."""
        images = self.roles.images
        known = images.names[:-1]
        if "eye" not in known:
            if {"patient"} <= set(known) and images.middles and all(map(states_eye, images.middles)):
                return "{eye}"
            told = eye_at_end(images.middles)
            if told is not None and "patient" in known:
                return told.replace("{patient}", "{name}")
            if told is not None:
                if "name" in images.shapes:  # then the names are told from others by their shape, and so are the patients'
                    images.shapes["patient"] = shape({re.sub("[A-Za-z]+$", "", middle).rstrip("_-. ") for middle in images.middles})
                return told
        return "{name}"

    def _renamed(self, pattern: str) -> str:
        return pattern.replace("{name}", self.name)

    def _front(self, name: str) -> dict[str, Any]:
        images = self.roles.images
        pattern = images.pattern(self.name)
        if "{patient" not in pattern and not self.public:
            self.open.append("each name, without the eye, counts as a patient of its own; mark the patient's part of the name: {patient}")
        if not images.named:
            self.open.append("the pattern of the images also fits other files; make it exact, with {name:REGEX} for instance")
        if "{eye}" not in pattern and any(states_eye(token) for token in re.split(r"[_\-./ ]", next(iter(images.files.values())))):
            self.open.append("mark the eye's part of the name: {eye}")
        front: dict[str, Any] = {
            "name": name,
            "title": f"{UNFINISHED}: what this is, in one line",
            "modality": _modality(images),
            "identifiers": "public" if self.public else "private",
            "device": None,
            "licence": f"{UNFINISHED}: who may use it for what",
            "citation": f"{UNFINISHED}, or: none",
            "source": f"{UNFINISHED}: where it comes from",
            "how_to_get": UNFINISHED,
            "known_faults": [],
            "images": {"file": pattern},
        }
        if "part" in images.names:
            there = {key[images.names.index("part")] for key in images.files}
            front["parts"] = {"field": {word: part_of(word) for word in sorted(there)}}
        elif (parts := parts_file(self.groups, images, self.top)) is not None:
            front["parts"] = parts
        return front

    def _new_class(self, text: str) -> str:
        if all(c["name"] != text for c in self.classes):
            self.classes.append({"name": text, "colour": list(class_colour(len(self.classes) + 1)), "code": None, "role": None})
        return text

    def _sources(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Sources of the first and the second reader; one class per stored value, or one per file if there are several binary files."""
        several = len(self.roles.labels) > 1
        sources, seconds = [], []
        for group in self.roles.labels:
            again = [g for g, first in self.roles.second if first is group]
            look = _together([g.look for g in (group, *again)])
            if look is None or (look.kind == "classes" and not look.values):
                self.open.append("the files of a group that looks like labels hold no labelled pixel: see the table below")
                self.roles.left_out.append((group, "no labelled pixel"))
                continue
            source = self._source(group, look, self._base(group) if several else "class")
            if group.shown in self.roles.missing:
                source["missing"] = self.roles.missing[group.shown]
            sources.append(source)
            seconds += [copy.deepcopy(source) | {"file": g.pattern(self.name)} for g in again]
        return sources, [{key: value for key, value in second.items() if key != "missing"} for second in seconds]

    def _base(self, group: Group) -> str:
        """The words of a group's pattern that the other labels' patterns do not have."""
        said = {id(g): words(re.sub(r"\{[^}]*\}|\.\w+$", " ", g.pattern())) for g in self.roles.labels}
        own = [word for word in said[id(group)] if not all(word in others for others in said.values())]
        base = re.sub("^[^A-Za-z]+", "", "_".join(dict.fromkeys(own)))[:50].lower() or "class"
        self.bases.append(base)
        return base if self.bases.count(base) == 1 else f"{base}_of_{self.bases.count(base)}"

    def _source(self, group: Group, look: Look, base: str) -> dict[str, Any]:
        file = group.pattern(self.name)
        one = base if base != "class" else "class_1"
        if look.kind == "agreement":
            half = 128 if look.top > 127 else look.top / 2
            self.open.append(f"pixels of {base} count from value {half} up (the highest is {look.top:g}); set at_least as it is meant")
            return {"kind": "threshold", "file": file, "means": self._new_class(one), "at_least": half}
        if look.kind == "objects":
            source: dict[str, Any] = {"kind": "instances", "file": file}
            table: dict[str, Any] | None = classes_from(self.groups, self.roles.images, self.top)
            if table is None:
                return source | {"means": self._new_class(one)}
            values = {value: self._new_class(meaning) for value, meaning in table["values"].items()}
            moved = {key: self._renamed(table[key]) for key in ("json", "path") if key in table}
            source["classes_from"] = table | moved | {"values": values}
            return source
        if look.kind == "colours":
            rules = [{"rgb": list(v), "means": self._new_class(f"{base}_{n}")} for n, v in enumerate(look.values, 1)]
            return {"kind": "colours", "file": file, "colours": rules}
        if len(look.values) == 1:
            return {"kind": "values", "file": file, "values": {int(look.values[0]): self._new_class(one)}}
        return {"kind": "values", "file": file, "values": {int(v): self._new_class(f"{base}_{n}") for n, v in enumerate(look.values, 1)}}

    def _notes(self) -> list[str]:
        roles = self.roles
        used: dict[int, str] = {id(roles.images): "images"}
        used |= {id(g): "labels" for g in roles.labels} | {id(g): "second reader" for g, _ in roles.second}
        used |= {id(g): f"left out: {why}" for g, why in roles.left_out}
        if roles.view is not None:
            used[id(roles.view)] = "fields of view"
        lines = []
        for group in (g for g in self.groups if g.extension.lower() not in TEXTS and g.look is not None):
            assert group.look is not None
            sizes = ", ".join(f"{' x '.join(map(str, size))} ({n})" for size, n in group.look.shapes.most_common(3))
            shown = ", ".join(map(str, group.look.values[:16])) + (", ..." if len(group.look.values) > 16 else "")
            what = f"{group.look.kind} {shown}".strip()
            lines.append(f"| `{_discreet(group)}` | {len(group.files)} | {sizes} | {what} | {used.get(id(group), 'left out')} |")
        out = ["| files | number | sizes (of those looked at) | by their pixels | taken for |", "|---|---|---|---|---|", *lines]
        if any(len(g.look.values) > 1 for g in roles.labels if g.look is not None):
            out += [
                "",
                "Of OCT: where classes are layers of the retina, say which, from the vitreous down, by `layers: [NAME, NAME, ...]`.",
            ]
        return out


def _discreet(group: Group) -> str:
    """The group's pattern, without words that may identify somebody."""
    return re.sub(r"(^|/)\*[^/]+/", r"\1*/", group.pattern("*"))


def _together(looks: Sequence[Look | None]) -> Look | None:
    """The first group's look, with the values of all: a second reader may use a class that the first never did."""
    first = looks[0]
    if first is None:
        return None
    values = tuple(sorted({v for look in looks if look is not None for v in look.values}))
    return Look(first.kind, first.shapes, values, max(look.top for look in looks if look is not None))


def _modality(images: Group) -> Modality:
    """A guess: stacks of slices and files of an OCT device are OCT, files named so angiography, everything else photographs."""
    shapes = images.look.shapes if images.look is not None else ()
    if images.extension.lower() == ".vol" or any(len(s) == 3 and s[-1] != 3 for s in shapes):
        return "oct"
    return "octa" if "octa" in re.split(r"[^a-z]+", images.pattern().lower()) else "fundus"


def _from_table(folder: Path, table: Path, name: str) -> str:
    where = _relative(table, folder)
    try:
        rows = [row for _, row in read_table(folder / where)]
    except (OSError, CardError) as error:
        raise CardError(f"table {where!r} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not rows or not {"image", "label"} <= set(rows[0]):
        raise CardError(f"table {where!r} needs columns image and label, and at least one row")
    top = Path(folder).absolute()
    columns = ("image", "label")
    found: dict[str, dict[Key, str]] = {
        column: {(row[column],): row[column] for row in rows if row.get(column) and (top / row[column]).is_file()} for column in columns
    }
    groups = [Group("", "", "", "", files, f"{{{column}}}", look_at([top / f for f in files.values()])) for column, files in found.items()]
    if groups[1].look is None:
        raise CardError(f"no label that table {where!r} names can be read; paths are relative to the data set's folder")
    draft = _Draft(top, [], Roles(groups[0], [groups[1]]), public=False)
    draft.name = "{image}"
    front = draft._front(name)
    front["images"] = {"file": "{image}", "table": where}
    draft.name = "{label}"
    front["labels"], _ = draft._sources()
    front["classes"] = draft.classes
    if "patient" in rows[0]:
        draft.open = []
    front["known_faults"] = [f"{UNFINISHED}: {point}" for point in draft.open]
    return _markdown(front, [f"{len(rows)} rows in `{where}`; {len(found['label'])} labels are there."])


def _relative(path: Path, folder: Path) -> str:
    """``path`` below ``folder``, given either from the working folder or from ``folder``."""
    for candidate in (folder / path, path):
        if candidate.exists() and candidate.resolve().is_relative_to(folder.resolve()):
            return candidate.resolve().relative_to(folder.resolve()).as_posix()
    raise CardError("the labels must lie inside the data set's folder")


def _markdown(front: dict[str, Any], notes: Sequence[str]) -> str:
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    body = "\n".join(notes)
    return (
        f"---\n{text}---\n\n# {front['name']}\n\nDrafted by `ocuseg card new`. Complete every {UNFINISHED}, name the classes, then run "
        f"`ocuseg card check`.\n\n{body}\n"
    )
