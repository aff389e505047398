"""What text files contribute to a draft: YOLO boxes, COCO JSON, tables of objects' classes, official parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.cards.draft_groups import TEXTS, Group
from pipeline.cards.patterns import stem_of
from pipeline.cards.plain_text import read_plain_text, read_regular
from pipeline.errors import CardError
from pipeline.scans.segmentation import segment_labels

_LINE = re.compile(r"\s*(\d+)(?:\.0*)?(?:\s+-?[\d.]+(?:[eE]-?\d+)?){4}\s*")
_ID_KEYS = ("id", "instance_id", "object_id", "number")
_CLASS_KEYS = ("category", "category_name", "class", "class_name", "label", "type", "kind", "category_id")
_MOST_CLASSES = 64


def class_name(text: str) -> str:
    """A class name in the form that cards allow."""
    name = re.sub(r"[^A-Za-z0-9_ -]+", "_", text).strip("_ -")[:64]
    return name if name and name not in ("background", "ignore") else f"class_{name}" if name else "class"


def yolo_source(groups: Sequence[Group], images: Group, top: Path) -> dict[str, Any] | None:
    """The label source of text files with boxes, with the classes' names as values, or None."""
    for group in (g for g in groups if g.extension.lower() == ".txt" and g.named):
        matched = group.matched(images)
        if not matched or 2 * len(matched) < min(len(images.files), len(group.files)):
            continue
        numbers: set[int] = set()
        lines = [line for file in matched.values() for line in _text(top / file).splitlines() if line.strip()]
        found = [_LINE.fullmatch(line) for line in lines]
        if not lines or sum(m is not None for m in found) < 0.9 * len(lines):
            continue
        numbers = {int(m[1]) for m in found if m is not None}
        names = _names_file(groups, top)
        values = {n: class_name(names[n]) if n < len(names) else f"class_{n}" for n in sorted(numbers)}
        # Where there is nothing to box, tools write no file or an empty one.
        gaps = {"missing": "empty"} if len(matched) < len(images.files) else {}
        return {"kind": "yolo_boxes", "file": group.pattern(), "values": values, **gaps}
    return None


def _names_file(groups: Sequence[Group], top: Path) -> list[str]:
    files = [f for g in groups for f in g.files.values() if f.endswith(".names") or PurePosixPath(f).name.lower() == "classes.txt"]
    return [line.strip() for line in _text(top / files[0]).splitlines() if line.strip()] if len(files) == 1 else []


def coco_source(groups: Sequence[Group], images: Group, top: Path) -> dict[str, Any] | None:
    """The label source of a COCO file that lists most of the images, or None."""
    own = {PurePosixPath(file).name for file in images.files.values()}
    for pattern, path in _single_files(groups, top):
        data = _json(path)
        try:
            listed = {PurePosixPath(str(e["file_name"]).replace("\\", "/")).name for e in data["images"]}
            names = {str(e["name"]) for e in data["categories"] if any(a["category_id"] == e["id"] for a in data["annotations"])}
        except (KeyError, TypeError):
            continue
        if names and 2 * len(listed & own) >= len(own):
            gaps = {"missing": "empty"} if own - listed else {}
            return {"kind": "coco", "file": pattern, "categories": {n: class_name(n) for n in sorted(names)}, **gaps}
    return None


def seg_source(groups: Sequence[Group], images: Group, top: Path) -> dict[str, Any] | None:
    """The label source of DICOM segmentations, or None. Segment labels are free text, so only numbers go into the card."""
    for group in (g for g in groups if g.look is None and g.extension.lower() not in TEXTS and g.named):
        matched = group.matched(images)
        if not matched or 2 * len(matched) < min(len(images.files), len(group.files)):
            continue
        numbers = {number for file in matched.values() for number in segment_labels(top / file) or ()}
        gaps = {"missing": "empty"} if len(matched) < len(images.files) else {}
        return {"kind": "dicom_seg", "file": group.pattern(), "segments": {n: f"class_{n}" for n in sorted(numbers)}, **gaps}
    return None


def parts_file(groups: Sequence[Group], images: Group, top: Path) -> dict[str, Any] | None:
    """``parts`` of a card from a JSON that names every image under train, validation or test; None if there is none."""
    stems = {stem_of(file) for file in images.files.values()}
    for pattern, path in _single_files(groups, top):
        data = _json(path)
        if "*" in pattern or not isinstance(data, dict):
            continue
        for key in (None, *data):
            parts = data if key is None else data[key]
            if not isinstance(parts, dict):
                continue
            lists = [v for name, v in parts.items() if name in ("train", "validation", "test", "val", "valid") and isinstance(v, list)]
            if lists and {str(v) for values in lists for v in values} >= stems:
                return {"file": pattern} if key is None else {"file": pattern, "key": key}
    return None


def classes_from(groups: Sequence[Group], images: Group, top: Path) -> dict[str, Any] | None:
    """A table of the classes of numbered objects in JSON, one per image or one for all; None if none is found."""
    candidates: list[tuple[str, list[tuple[Path, str]]]] = []
    for group in (g for g in groups if g.extension.lower() == ".json" and g.named):
        matched = group.matched(images)
        if 2 * len(matched) >= len(images.files):
            candidates.append((group.pattern(), [(top / file, key[-1]) for key, file in matched.items()]))
    candidates += [(pattern, [(path, "")]) for pattern, path in _single_files(groups, top) if "*" not in pattern]
    middles = images.middles
    for pattern, files in candidates:
        found: dict[tuple[str, str, str], set[str]] = {}
        for path, _ in files:
            for steps, number, category, values in _tables(_json(path), (), middles):
                found.setdefault((steps, number, category), set()).update(values)
        for (steps, number, category), values in found.items():
            if len(values) <= _MOST_CLASSES:
                said = {"path": steps, "id": number, "category": category}
                defaults = {"path": "", "id": "id", "category": "category"}
                return {
                    "json": pattern,
                    **{key: value for key, value in said.items() if value != defaults[key]},
                    "values": {value: class_name(value) for value in sorted(values)},
                }
    return None


def _tables(node: Any, steps: tuple[str, ...], middles: set[str]) -> Iterator[tuple[str, str, str, set[str]]]:
    """(path, key of the number, key of the class, classes) of each list of numbered objects in JSON."""
    members = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    entries = [m for m in members if isinstance(m, dict)]
    if entries and len(entries) == len(members):
        category = next((key for key in _CLASS_KEYS if all(isinstance(m.get(key), str | int) for m in entries)), None)
        number = next((key for key in _ID_KEYS if all(isinstance(m.get(key), int) for m in entries)), None)
        if isinstance(node, dict) and all(str(key).isdigit() for key in node):
            number = "id"
        if category is not None and number is not None:
            yield ".".join(steps), number, category, {str(m[category]) for m in entries}
            return
    if isinstance(node, dict) and len(steps) < 4:
        for key, member in node.items():
            step = "{name}" if str(key) in middles else str(key)
            if "." not in step:
                yield from _tables(member, (*steps, step), middles)


def _single_files(groups: Sequence[Group], top: Path) -> Iterator[tuple[str, Path]]:
    """(pattern, path) of JSON files that words describe, or that are the only ones of their folder."""
    for group in (g for g in groups if g.extension.lower() == ".json" and "{" not in g.folder and g.named):
        if len(group.files) == 1:
            yield group.pattern("*"), top / next(iter(group.files.values()))


def _text(path: Path) -> str:
    try:
        return read_plain_text(path)
    except (OSError, CardError):
        return ""


def _json(path: Path) -> Any:
    try:
        return json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError, CardError):
        return None
