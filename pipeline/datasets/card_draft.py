"""A first draft of a data card for a folder of one's own, with what can be read off the files; a person completes it.

A card's text is copied into every run and its record, so a draft holds no word of a file's or folder's name but those that
name a kind of picture (images, masks, vessels, ...) or a part (train, test): all else may be a patient.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.datasets.labels import read_stored
from pipeline.datasets.patterns import Pattern, stem_of
from pipeline.datasets.tables import read_table
from pipeline.errors import CardError, OcusegError
from pipeline.scans.eyes import eye_of
from pipeline.scans.walk import names_below
from pipeline.types import Advance, Modality

# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart by people with any colour vision.
_PALETTE = ([213, 94, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [240, 228, 66])
_LOOKED_AT = 12
_MOST_VALUES = 16
UNFINISHED = "TO COMPLETE"
"""What a draft says wherever a person must."""
_LEVELS = ("{patient}", "{visit}", "{series}")
_PARTS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_VIEW = re.compile(r"fov|field.?of.?view|(?<![a-z])mask_fov", re.IGNORECASE)
_SECOND = re.compile(r"2nd|second|observer.?2|reader.?2", re.IGNORECASE)
# Only endings that name a format: what follows the last dot of "Doe.Jane" is no extension.
_EXTENSION = re.compile(
    r"\.(?:nii|dcm|dicom|ima|img|png|jpe?g|jp2|j2k|jls|tiff?|gif|bmp|p[bgnp]m|vol|e2e|fd[as]|txt|xml)(?:\.gz)?$", re.IGNORECASE
)
# Whole words that name a kind of file. Nothing open-ended: "seg.*" and "val.*" would also be Segers and Valentina.
_KIND = re.compile(
    r"(?:images?|imgs?|originals?|scans?|photos?|photographs?|pictures?|raw|data|datasets?|sets?|masks?|labels?|seg|segs|segmentations?"
    r"|gt|ground|truths?|groundtruths?|annotations?|manuals?|experts?|readers?|observers?|graders?|second|first|ho|fov|fundus|cfp|octa?"
    r"|slo|volumes?|bscans?|vessels?|arter(?:y|ies)|veins?|av|dis[ck]s?|cups?|optic|fovea|macula|lesions?|exudates?|ha?emorrhages?"
    r"|microaneurysms?|fluids?|layers?|train|training|val|valid|validation|test|testing)\d?|[12](?:st|nd)",
    re.IGNORECASE,
)


@dataclass
class _Group:
    """Files of one folder and extension; ``values`` where they look like labels: the stored values, or colours as tuples."""

    folder: str
    extension: str
    files: list[str]
    values: list[Any] | None
    shapes: Counter[tuple[int, ...]]

    @property
    def modality(self) -> Modality:
        """A guess: stacks of slices and files of an OCT device are OCT, all else photographs."""
        return "oct" if self.extension.lower() == ".vol" or any(len(s) == 3 and s[-1] != 3 for s in self.shapes) else "fundus"

    def pattern(self, middle: str) -> str:
        if not self.extension and not any("." in file.rpartition("/")[2] for file in self.files):
            middle = middle.replace("{name}", "{name:[^/.]+}")  # else it would fit every file of the folder
        return f"{self.folder}/{middle}{self.extension}" if self.folder else f"{middle}{self.extension}"


def draft_card(folder: Path, *, labels: Path | None = None, name: str | None = None, progress: Advance | None = None) -> str:
    """Markdown of a card for ``folder``.

    Parameters
    ----------
    labels: folder of the labels below ``folder``, or a CSV file in it with columns image and label (and patient, eye, visit, part
        where there are any). None: labels are the pictures with few different values whose names fit those of the scans.
    name: the card's; without it "my_data" (the folder's own name may be a patient's).

    Raises
    ------
    CardError: nothing that can be read, or no label belongs to any scan.
    """
    name = re.sub(r"[^a-z0-9_-]+", "_", (name or "").lower()).strip("_-")[:64] or "my_data"
    if labels is not None and labels.suffix.lower() == ".csv":
        return _from_table(folder, labels, name)
    where = None if labels is None else _relative(labels, folder)
    groups = _groups(folder, where, progress)
    if not groups:
        raise CardError("no file in the folder could be read as a scan; `ocuseg index` says why for each")
    if where is not None:
        chosen = [g for g in groups if g.files[0].startswith(where + "/")]
        images = [g for g in groups if g not in chosen]
    else:
        chosen = [g for g in groups if g.values is not None]
        images = [g for g in groups if g.values is None]
    if not images:
        raise CardError("every picture in the folder looks like a label; name the folder of the labels")
    image = max(images, key=lambda g: len(g.files))
    matched = [(g, text) for g in chosen if _same_size(image, g) and (text := _partner(image, g)) is not None]
    if where is not None and not matched:
        raise CardError("no label's name fits the name of a scan; make them alike, or list the pairs in a CSV with columns image,label")
    fits = Pattern.compile(image.pattern("{name}")).match
    others = sum(fits(file) is not None for g in groups if g is not image for file in g.files)
    front = _front(name, image.pattern("{name}"), image.files, others, image.modality)
    views = [(g, text) for g, text in matched if _VIEW.search(g.folder + "/" + stem_of(g.files[0]))]
    seconds = [(g, text) for g, text in matched if _SECOND.search(g.folder) and (g, text) not in views]
    firsts = [pair for pair in matched if pair not in views and pair not in seconds]
    front |= _label_part([(text, group.values) for group, text in firsts])
    if seconds:
        front["second_reader"] = _label_part([(text, group.values) for group, text in seconds])["labels"]
    if views:
        front["field_of_view"] = {"file": views[0][1]}
    return _markdown(front, _notes(image, groups, [g for g, _ in matched]))


def _groups(folder: Path, labels: str | None, progress: Advance | None) -> list[_Group]:
    top = Path(folder).absolute()
    files = [name for name in names_below(top)[0] if (top / name).is_file() and not Path(name).name.startswith(".")]
    by_place: dict[tuple[str, str], list[str]] = defaultdict(list)
    for relative, parent in zip(files, _general_folders(files, labels), strict=True):
        file = relative.rpartition("/")[2]
        extension = found[0] if (found := _EXTENSION.search(file)) else ""
        # Scans and labels often share a folder and differ by a suffix: the suffix is told from the stem's tail.
        by_place[parent, _tail(file.removesuffix(extension)) + extension].append(relative)
    groups = []
    for done, ((parent, ending), members) in enumerate(sorted(by_place.items()), 1):
        group = _look(top, parent, ending, members)
        if group is not None:
            groups.append(group)
        if progress is not None:
            progress(done, len(by_place))
    return groups


def _general_folders(files: Sequence[str], labels: str | None = None) -> list[str]:
    """The folder of each file: kinds of files as they are, official parts as {part}, eyes as {eye}, and every other level as
    {patient}, {visit}, ... or, where it has one folder only, as *. ``labels`` is a folder that the user has named: it stays."""
    named = (labels or "").split("/")
    split = [file.split("/")[:-1] for file in files]
    out: list[list[str]] = [[] for _ in files]
    for depth in range(max(map(len, split), default=0)):
        together: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, parents in enumerate(split):
            if len(parents) > depth:
                together[tuple(out[index])].append(index)
        for before, members in together.items():
            names = {split[index][depth] for index in members}
            kinds = {n for n in names if _names_a_kind(n)}
            if depth < len(named) and list(before) == named[:depth]:
                kinds.add(named[depth])
            field = "*"
            if len(names) > 1 and {n.lower() for n in names} <= set(_PARTS) and "{part}" not in before:
                field, kinds = "{part}", set()
            elif all(map(eye_of, names - kinds)) and "{eye}" not in before:
                field = "{eye}"
            elif len(names - kinds) > 1:
                known = sum(text in before for text in _LEVELS)
                field = _LEVELS[known] if known < len(_LEVELS) else "*"
            for index in members:
                out[index].append(split[index][depth] if split[index][depth] in kinds else field)
    return ["/".join(parents) for parents in out]


def _names_a_kind(text: str, *, alone: bool = True) -> bool:
    """Whether every word of ``text`` names a kind of file ("2nd_manual", "GroundTruth"), numbers below 100 aside.

    ``alone``: at least one must; a number by itself is somebody's.
    """
    words = [w for w in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", re.sub(r"field.?of.?view", "fov", text, flags=re.IGNORECASE)) if w]
    told = [bool(_KIND.fullmatch(word)) for word in words]
    return (
        text.isascii()
        and all(kind or re.fullmatch(r"\d{1,2}", w) for w, kind in zip(words, told, strict=True))
        and (any(told) or not alone)
    )


def _tail(stem: str) -> str:
    """ "_mask" of "0012_mask"; "" where the last part of the name is no word that labels are called by."""
    match = re.search(r"[_-](mask|masks|label|labels|seg|segmentation|gt|manual\d?|vessels?|fov|[12](?:st|nd)HO)$", stem, re.IGNORECASE)
    return match[0] if match else ""


def _look(top: Path, parent: str, extension: str, files: Sequence[str]) -> _Group | None:
    values: set[Any] = set()
    shapes: Counter[tuple[int, ...]] = Counter()
    few = True
    step = max(len(files) // _LOOKED_AT, 1)
    for relative in files[::step][:_LOOKED_AT]:
        try:
            stored = read_stored(top / relative)
        except OcusegError:
            continue
        shapes[stored.shape] += 1
        if few:
            if stored.ndim == 3 and stored.shape[-1] == 3:
                packed = stored.reshape(-1, 3).astype(np.int64) @ np.array([65536, 256, 1])
                values |= {(v >> 16, v >> 8 & 255, v & 255) for v in np.unique(packed)[: _MOST_VALUES + 1].tolist()}
            else:
                values |= set(np.unique(stored)[: _MOST_VALUES + 1].tolist())
            few = len(values) <= _MOST_VALUES
    if not shapes:
        return None
    return _Group(parent, extension, sorted(files), sorted(values, key=str) if few else None, shapes)


def _partner(image: _Group, label: _Group) -> str | None:
    """The label pattern in terms of the image's {name}, or None where the names have nothing in common."""
    names = sorted((_stem(image, f) for f in image.files), key=len, reverse=True)
    forms: Counter[tuple[str, str]] = Counter()
    for file in label.files:
        stem = _stem(label, file)
        found = next((n for n in names if n in stem), None)
        if found is not None:
            before, _, after = stem.partition(found)
            if _names_a_kind(before, alone=False) and _names_a_kind(after, alone=False):
                forms[before, after] += 1
    if not forms:
        return None
    (before, after), count = forms.most_common(1)[0]
    return label.pattern(f"{before}{{name}}{after}") if count * 2 > min(len(image.files), len(label.files)) else None


def _same_size(image: _Group, label: _Group) -> bool:
    """Whether any of the sizes seen are shared; a colour axis does not count."""
    planes = [{shape[:-1] if len(shape) == 3 and shape[-1] == 3 else shape for shape in group.shapes} for group in (image, label)]
    return bool(planes[0] & planes[1])


def _stem(group: _Group, file: str) -> str:
    return file.rpartition("/")[2].removesuffix(group.extension)


def _front(name: str, image_pattern: str, files: Sequence[str], others: int = 0, modality: Modality = "fundus") -> dict[str, Any]:
    open_points = []
    if others:
        open_points.append(f"the pattern of the images also fits {others} other files; make it exact, with {{name:REGEX}} for instance")
    if "{patient}" not in image_pattern:
        open_points.append("each name, less the eye, counts as a patient of its own; say where the patient stands in the name: {patient}")
    if "{eye}" not in image_pattern and any(eye_of(token) for token in re.split(r"[_\-./ ]", files[0])):
        open_points.append("say where the eye stands in the name: {eye}")
    front: dict[str, Any] = {
        "name": name,
        "title": f"{UNFINISHED}: what this is, in one line",
        "modality": modality,
        "identifiers": "private",
        "device": None,
        "licence": f"{UNFINISHED}: who may use it for what",
        "citation": f"{UNFINISHED}, or: none",
        "source": f"{UNFINISHED}: where it comes from",
        "how_to_get": UNFINISHED,
        "known_faults": [f"{UNFINISHED}: {point}" for point in open_points],
        "images": {"file": image_pattern},
    }
    if "{part}" in image_pattern:
        place = image_pattern.split("/").index("{part}")
        there = {file.split("/")[place] for file in files}
        front["parts"] = {"field": {word: _PARTS[word.lower()] for word in sorted(there)}}
    return front


def _label_part(labels: Sequence[tuple[str, list[Any] | None]]) -> dict[str, Any]:
    """classes and labels; one class a stored value, or one class a file where there are several binary files."""
    classes: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []

    def new_class(text: str) -> str:
        if all(c["name"] != text for c in classes):
            classes.append({"name": text, "colour": list(_PALETTE[len(classes) % len(_PALETTE)]), "code": None})
        return text

    several = len(labels) > 1
    for pattern, values in labels:
        base = re.sub(r"[^A-Za-z0-9]+", "_", re.sub(r"\{[^}]*\}|\.\w+$", "", pattern)).strip("_") or "class" if several else "class"
        if values is None:
            sources.append({"kind": "threshold", "file": pattern, "means": new_class(f"{base}_1"), "at_least": 128})
        elif values and isinstance(values[0], tuple):
            colours = [v for v in values if v != (0, 0, 0)]
            rules = [{"rgb": list(v), "means": new_class(f"{base}_{n}")} for n, v in enumerate(colours, 1)]
            sources.append({"kind": "colours", "file": pattern, "colours": rules})
        else:
            numbers = sorted(int(v) for v in values if v)
            sources.append({"kind": "values", "file": pattern, "values": {v: new_class(f"{base}_{n}") for n, v in enumerate(numbers, 1)}})
    if not classes:
        new_class("class_1")
    part: dict[str, Any] = {"classes": classes, "labels": [s for s in sources if s.get("values", True) and s.get("colours", True)]}
    if several:
        part["overlapping"] = True
    return part


def _from_table(folder: Path, table: Path, name: str) -> str:
    where = _relative(table, folder)
    try:
        rows = [row for _, row in read_table(table)]
    except (OSError, CardError) as error:
        raise CardError(f"table {where!r} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not rows or not {"image", "label"} <= set(rows[0]):
        raise CardError(f"table {where!r} needs columns image and label, and at least one row")
    files = [row["label"] for row in rows if row.get("label") and (folder / row["label"]).is_file()]
    group = _look(Path(folder).absolute(), "", "", files) if files else None
    if group is None:
        raise CardError(f"no label that table {where!r} names can be read; paths are relative to the data set's folder")
    front = _front(name, "{image}", [rows[0]["image"]])
    front["images"]["table"] = where
    front |= _label_part([("{label}", group.values)])
    if {"patient"} & set(rows[0]):
        front["known_faults"] = []
    return _markdown(front, [f"{len(rows)} rows in `{where}`; {len(files)} labels are there."])


def _relative(path: Path, folder: Path) -> str:
    """``path`` below ``folder``, given either from the working folder or from ``folder``."""
    for candidate in (path, folder / path):
        if candidate.exists() and candidate.resolve().is_relative_to(folder.resolve()):
            return candidate.resolve().relative_to(folder.resolve()).as_posix()
    raise CardError("the labels must lie inside the data set's folder")


def _notes(image: _Group, groups: Sequence[_Group], matched: Sequence[_Group]) -> list[str]:
    lines = []
    for group in groups:
        role = "scans" if group is image else "matched" if group in matched else "not used"
        sizes = ", ".join(f"{' x '.join(map(str, shape))} ({n})" for shape, n in group.shapes.most_common(3))
        what = f"values {', '.join(map(str, group.values))}" if group.values is not None else "many values"
        lines.append(f"| `{group.pattern('*')}` | {len(group.files)} | {sizes} | {what} | {role} |")
    out = ["| files | number | sizes (of those looked at) | stored values | role |", "|---|---|---|---|---|", *lines]
    if any(len(set(group.values or ()) - {0}) > 1 for group in matched):
        out += ["", "Of OCT: where classes are layers of the retina, say which, from the vitreous down, by `layers: [NAME, NAME, ...]`."]
    return out


def _markdown(front: dict[str, Any], notes: Sequence[str]) -> str:
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    body = "\n".join(notes)
    return (
        f"---\n{text}---\n\n# {front['name']}\n\nDrafted by `ocuseg card new`. Complete every {UNFINISHED}, name the classes, then run "
        f"`ocuseg card check`.\n\n{body}\n"
    )
