"""Options that several commands have, declared once: a dataclass of options, which a command takes as one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter
from typing import Any, get_type_hints


def spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as typer is to see it: each parameter that is a dataclass is replaced by that class's fields, which are options
    (``Annotated`` as typer wants it, with a default); fields may be such dataclasses themselves.

    Typer knows nothing of groups of options, but calls whatever has a signature by keywords.
    """
    groups: dict[str, type] = {}
    parameters: list[Parameter] = []
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            assert isinstance(kind, type)
            groups[parameter.name] = kind
            parameters += _options(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        alone = {name: value for name, value in given.items() if name in hints and name not in groups}
        return function(**alone, **{name: _made(kind, given) for name, kind in groups.items()})

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _fields(group: type) -> Iterator[tuple[Field[Any], Any]]:
    """Each field of a dataclass with its type."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        yield field, hints[field.name]


def _options(group: type) -> Iterator[Parameter]:
    for field, kind in _fields(group):
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _options(kind)
        else:
            assert field.default is not MISSING
            yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=kind)


def _made(group: Any, given: Mapping[str, Any]) -> Any:
    return group(**{field.name: _made(kind, given) if is_dataclass(kind) else given[field.name] for field, kind in _fields(group)})
