"""Named things a configuration may choose from: models, tasks, losses, normalisers.

A registry fills itself by importing the modules of one package when it is first asked, so adding a file adds a name, and
nothing depends on who imported what before.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from pipeline.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


class Strict(BaseModel):
    """Base of every configuration section: unknown keys are errors and values never change after they are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[_Byte, _Byte, _Byte]
"""Red, green, blue."""


class OneOrTwo:
    """Mark of a setting (rows, columns): one number stands for a square, in a file and in the schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def both(value: Any) -> Any:
            return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

        return core_schema.no_info_before_validator_function(both, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        pair = handler(core)
        return {"anyOf": [pair["prefixItems"][0], pair]}


@dataclass(frozen=True)
class Entry:
    """One registered builder and, where it has settings, the class that checks them."""

    name: str
    build: Callable[..., Any]
    config: type[Strict] | None


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """The sentence for a name nobody registered, with the nearest known one."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
    return f"{kind}: unknown {name!r}{hint}"


def explain(fault: Any, model: type[BaseModel]) -> str:
    """One of pydantic's faults as "dotted.key: what is wrong, what to do"; without a key where several do not go together."""
    location, siblings = _as_written(fault["loc"], model)
    place, kind, value = ".".join(location), fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        return f"{place}: unknown key{_near_key(location[-1], siblings)}"
    if kind == "missing":
        return f"{place}: is required and missing"
    if kind == "union_tag_invalid":
        known = [name.strip(" '") for name in fault["ctx"]["expected_tags"].split(",")]
        return unknown_name(f"{place}.{fault['ctx']['discriminator'].strip(chr(39))}", fault["ctx"]["tag"], known)
    if kind == "union_tag_not_found":
        return f"{place}.{fault['ctx']['discriminator'].strip(chr(39))}: is required and missing"
    if kind == "literal_error" and isinstance(value, str):
        known = [name.strip(" '") for name in fault["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return unknown_name(place, value, known)
    message = fault["msg"].removeprefix("Value error, ")
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool | list) and len(repr(value)) < 80 else ""
    text = f"{message[:1].lower()}{message[1:]}{shown}"
    return f"{place}: {text}" if place else text  # of the whole, and of no single key


def _as_written(location: Sequence[Any], model: type[BaseModel]) -> tuple[list[str], list[str]]:
    """Pydantic's location without the names of chosen union members, which it puts in and no file holds ("model.unet.widths"), and
    the keys that are known where its last part stands."""
    schema: dict[str, Any] = model.model_json_schema()
    node: dict[str, Any] = schema
    parts, known = [], []
    for part in location:
        node = _resolved(node, schema)
        mapping = node.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            node = {"$ref": mapping[part]}
            continue
        parts.append(str(part))
        known = sorted(node.get("properties", {}))
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return parts, known


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The definition that a node of a JSON schema refers to; of a value that may also be null, the value."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    choices = [choice for choice in node.get("anyOf", []) if choice.get("type") != "null"]
    return _resolved(choices[0], schema) if len(choices) == 1 else node


def _near_key(key: str, known: Sequence[str]) -> str:
    """The known key nearest to ``key``, as a hint."""
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class Registry:
    """Builders by name.

    Parameters
    ----------
    kind: what an entry is called in messages ("model").
    package: dotted name of the package or module whose import registers the entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def add(self, config: type[Strict] | str) -> Callable[[F], F]:
        """Decorator: register a builder under its config's ``name: Literal[...]``, or under a plain name."""
        if isinstance(config, str):
            name, config_type = config, None
        else:
            name, config_type = config.model_fields["name"].default, config

        def register(build: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, build, config_type)
            return build

        return register

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        module = importlib.import_module(self.package)
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            importlib.import_module(f"{self.package}.{found.name}")

    def __iter__(self) -> Iterator[Entry]:
        self._discover()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        return [entry.name for entry in self]

    def __getitem__(self, name: str) -> Entry:
        self._discover()
        if name not in self._entries:
            raise ConfigError(unknown_name(self.kind, name, self.names()))
        return self._entries[name]

    def union(self) -> Any:
        """The type "one of the registered configs", told apart by ``name``; a schema and an editor understand it."""
        configs = tuple(entry.config for entry in self if entry.config is not None)
        if len(configs) == 1:
            return configs[0]
        return Annotated[Union[configs], Field(discriminator="name")]  # noqa: UP007 (the members are only known now)
