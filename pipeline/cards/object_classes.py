"""The class of each numbered object of an instance image, from a JSON or CSV table, one per image or one for many."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.cards.labels import ClassesFrom
from pipeline.cards.patterns import fill, stem_of
from pipeline.cards.places import composed
from pipeline.cards.plain_text import read_regular
from pipeline.cards.tables import read_table
from pipeline.errors import CardError, LabelFileError

_lock = threading.Lock()


def classes_by_number(source: ClassesFrom, path: Path, image: Path, fields: Mapping[str, str]) -> dict[int, str]:
    """Object number -> class, or "background" to leave it out.

    Parameters
    ----------
    path: the table. ``image``: the photograph; a table of many images refers to it by file name.
    fields: the image's pattern fields; they fill ``source.path``.

    Raises
    ------
    LabelFileError: the table is missing, cannot be read, or does not match the card.
    """
    found: dict[int, str] = {}
    for entry in _entries(source, path, fields):
        if source.image is not None and not _names(_value(entry, source.image, path), image):
            continue
        number = _value(entry, source.id, path)
        try:
            index = int(str(number))
        except ValueError:
            raise LabelFileError(path, f"{source.id} {number!r} is not the number of an object") from None
        value = _text(_value(entry, source.category, path))
        meaning = source.values.get(value)
        if meaning is None:
            raise LabelFileError(path, f"{source.category} {value!r} is no class that the card names under classes_from.values")
        left_out = any(_text(_value(entry, key, path)) in map(_text, values) for key, values in source.leave_out.items())
        found[index] = "background" if left_out else meaning
    return found


def _entries(source: ClassesFrom, path: Path, fields: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    try:
        about = path.stat()
    except OSError:
        raise LabelFileError(path, "does not exist, though the card takes the objects' classes from it") from None
    with _lock:  # one thread parses, the others wait for it
        data = _parse(path, source.csv is not None, about.st_mtime_ns, about.st_size)
    if isinstance(data, str):
        raise LabelFileError(path, data)
    steps = [fill(step, fields) for step in source.path.split(".") if step]
    yield from _descend(data.content, steps, {}, source, path)


def _descend(node: Any, steps: list[str], outer: Mapping[str, Any], source: ClassesFrom, path: Path) -> Iterator[Mapping[str, Any]]:
    """Entries below ``node``. Lists on the way are searched, and the values of a list's member apply to all entries in it."""
    if steps and isinstance(node, list):
        for member in node:
            said = {key: value for key, value in member.items() if not isinstance(value, list | dict)} if isinstance(member, dict) else {}
            yield from _descend(member, steps, {**outer, **said}, source, path)
    elif steps:
        if not isinstance(node, dict) or steps[0] not in node:
            raise LabelFileError(path, f"the key {steps[0]!r} is missing (path {source.path!r})")
        yield from _descend(node[steps[0]], steps[1:], outer, source, path)
    elif isinstance(node, list):
        for member in node:
            if not isinstance(member, dict):
                raise LabelFileError(path, f"under {source.path or 'its top'!r} there are no entries with keys and values")
            yield {**outer, **member}
    elif isinstance(node, dict):
        for number, member in node.items():
            yield {**outer, source.id: number} | (member if isinstance(member, dict) else {source.category: member})
    else:
        raise LabelFileError(path, f"under {source.path or 'its top'!r} there is no list of objects")


class _Parsed:
    def __init__(self, content: Any) -> None:
        self.content = content


@lru_cache(maxsize=4)
def _parse(path: Path, is_csv: bool, _changed: int, _size: int) -> _Parsed | str:
    """The file's content, or what is wrong with it; cached, so that a large file is not parsed again for each image."""
    try:
        return _Parsed([row for _, row in read_table(path)] if is_csv else json.loads(read_regular(path)))
    except CardError as error:
        return str(error)
    except (OSError, ValueError, RecursionError) as error:
        return f"this is not {'CSV' if is_csv else 'JSON'} that can be read ({type(error).__name__})"


def _value(entry: Mapping[str, Any], key: str, path: Path) -> Any:
    """The value under a key, or under a dotted path of keys."""
    node: Any = entry
    for step in [key] if key in entry else key.split("."):
        if not isinstance(node, Mapping) or step not in node:
            raise LabelFileError(path, f"the key {key!r} is missing in an object's entry; it has: {', '.join(sorted(map(str, entry)))}")
        node = node[step]
    return node


def _text(value: Any) -> str:
    """A value as text, so that JSON's 3, 3.0 and "3" are equal, as are true and "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _names(text: Any, image: Path) -> bool:
    name, own = PurePosixPath(composed(str(text)).replace("\\", "/")).name, composed(image.name)
    return name == own or stem_of(name) == stem_of(own)
