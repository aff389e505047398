"""Keys and values from YAML text that anybody may have written: data alone, nothing twice, nothing that grows without end."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.errors import OcusegError

_CHARACTERS = 1_000_000
_VALUES = 1_000_000
_KEYS = 10_000
_WHOLE = 2**63
"""No setting is a larger whole number; Python cannot even print one of 6,000 digits."""


class _Loader(yaml.SafeLoader):
    """As YAML's safe loader, but a key that stands twice, a date that is none and a number without end are faults with a place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._as_written: dict[int, yaml.Node] = {}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            said = f"{error}; write text in quotes" if isinstance(node, yaml.ScalarNode) else str(error)
            raise yaml.constructor.ConstructorError(problem=said, problem_mark=node.start_mark) from None
        if isinstance(value, int) and abs(value) > _WHOLE:
            raise yaml.constructor.ConstructorError(problem="a number too large for any setting", problem_mark=node.start_mark)
        return value

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if id(node) not in self._as_written:  # a node that others merge comes again, with what it merges itself
            self._as_written[id(node)] = node
            seen = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")):
                if (key.tag, key.value) in seen:
                    said = f"the key {key.value!r} stands twice; keep one of them"
                    raise yaml.constructor.ConstructorError(problem=said, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        super().flatten_mapping(node)
        if len(node.value) > _KEYS:
            raise yaml.constructor.ConstructorError(problem="it grows without end by merging", problem_mark=node.start_mark)


def read_value(text: str) -> Any:
    """What YAML text says.

    Raises
    ------
    yaml.YAMLError: it is no YAML, or holds what no settings do.
    """
    if len(text) > _CHARACTERS:
        raise yaml.YAMLError(f"it is longer than {_CHARACTERS:,} characters, which no settings are")
    loader = _Loader(text)
    try:
        value = loader.get_single_data()
        _count(value, {})
    except RecursionError:
        raise yaml.YAMLError("its brackets are too deep") from None
    finally:
        loader.dispose()
    return value


def read_mapping(text: str, where: str, keys: str, error: type[OcusegError], first_line: int = 1) -> dict[str, Any]:
    """Keys and values of YAML text that begins at ``first_line`` of ``where``; what is wrong is raised as ``error``, in one sentence."""
    try:
        data = read_value(text)
    except yaml.YAMLError as fault:
        raise error(f"{where}: not valid YAML{described(fault, first_line)}") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise error(f"{where}: must hold keys and values ({keys})")
    return data


def described(fault: yaml.YAMLError, first_line: int = 1) -> str:
    """The place and the reason of a fault: " at line 3, column 5: the reason"."""
    mark = getattr(fault, "problem_mark", None)
    if isinstance(fault, yaml.reader.ReaderError):
        return f": it holds the character U+{int(fault.character):04X}, which no text does"
    place = f" at line {mark.line + first_line}, column {mark.column + 1}" if mark else ""
    reason = getattr(fault, "problem", None) or " ".join(str(fault).split()) or "malformed"
    return f"{place}: {reason}"


def _count(value: Any, counted: dict[int, int | None]) -> int:
    """How many values ``value`` holds with all that its aliases repeat; YAMLError where they never end. Each is gone through once."""
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) in counted:
        known = counted[id(value)]
        if known is None:
            raise yaml.YAMLError("an alias holds itself")
        return known
    counted[id(value)] = None
    members = (*value.keys(), *value.values()) if isinstance(value, dict) else value
    total = 1 + sum(_count(member, counted) for member in members)
    if total > _VALUES:
        raise yaml.YAMLError(f"its aliases stand for more than {_VALUES:,} values")
    counted[id(value)] = total
    return total
