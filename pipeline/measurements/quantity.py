"""What a number is, whatever scan it is of: the part of a :class:`MeasureRecord` that is the same for all cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.measurements.case import MeasuredCase, Places, Value
from pipeline.types import LabelMap, Role, Unit
from pipeline.types.assessment import MeasureRecord
from pipeline.types.scan import SpacingSource

SIGNIFICANT = 6
"""Digits of a recorded number: more than any measurement is worth, few enough to be read."""
_SCALED = ("mm", "mm2", "mm3", "um", "1/mm", "1/mm2")
_LONGEST_NAME = 24


@dataclass(frozen=True)
class Quantity:
    """``key`` names it in tables, ``title`` on pages; "{class}" in them stands for the class's name, where each class of a role has a
    number of its own · ``unit`` where the spacing is known · ``source`` of the definition · ``reference``: the cited normal range, or "".
    """

    key: str
    title: str
    unit: Unit
    definition: str
    source: str = ""
    reference: str = ""

    def key_of(self, label_map: LabelMap, place: int) -> str:
        """Its key for the class at a place."""
        return self.key.replace("{class}", class_key(label_map, place))

    def record(self, value: Value, key: str, names: tuple[str, ...], scale: SpacingSource, bounds: Mapping[str, Any]) -> MeasureRecord:
        """Of one case, measured on the classes ``names``; ``bounds``: low, high and interval, where they are known."""
        unit = value.unit or self.unit
        more: dict[str, Any] = {"undefined": value.undefined} if value.value is None else dict(bounds)
        if value.value is not None and unit in _SCALED:
            more["scale"] = scale
        texts = {"source": self.source, "reference": value.reference or self.reference}
        return MeasureRecord(
            key=key,
            title=self.title.replace("{class}", names[0]),
            value=rounded(value.value),
            unit=unit,
            definition=self.definition.replace("{class}", names[0]),
            classes=names,
            **{name: text for name, text in texts.items() if text},
            **more,
        )


@dataclass(frozen=True)
class Measurement:
    """``roles``: one class of each · ``per_class``: every class of the one role has numbers of its own · ``measure`` takes the case and
    the places of the classes, in the order of the roles, and gives a value of each quantity, by its key · ``applies``: to which kinds of
    scans · ``with_interval``: whether it is measured on alternative results, too."""

    roles: tuple[Role, ...]
    measure: Callable[[MeasuredCase, Places], Mapping[str, Value]]
    quantities: tuple[Quantity, ...]
    applies: Callable[[MeasuredCase], bool] = lambda case: case.flat
    per_class: bool = False
    with_interval: bool = True

    def groups(self, label_map: LabelMap) -> list[Places]:
        """Places of the classes that are measured together; none where a role is missing."""
        of_roles = [tuple(place for place, own in enumerate(label_map.roles) if own == role) for role in self.roles]
        if not all(of_roles):
            return []
        return [(place,) for place in of_roles[0]] if self.per_class else [tuple(own[0] for own in of_roles)]

    def records(self, case: MeasuredCase) -> list[MeasureRecord]:
        """Of one case, every quantity of every class; those of a withheld class without a value."""
        out = []
        for group in self.groups(case.label_map) if self.applies(case) else ():
            names = case.names(group)
            why = next((case.withheld[name] for name in names if name in case.withheld), None)
            values = self.measure(case, group) if why is None else {q.key: Value.none(why) for q in self.quantities}
            others = [self.measure(case.with_alternative(one), group) for one in self._alternatives(case, why)]
            for quantity in self.quantities:
                value = values[quantity.key]
                bounds = interval(value, [other[quantity.key] for other in others], case.spread)
                out.append(quantity.record(value, quantity.key_of(case.label_map, group[0]), names, case.geometry.spacing_source, bounds))
        return out

    def _alternatives(self, case: MeasuredCase, withheld: str | None) -> tuple[Any, ...]:
        return case.alternatives if self.with_interval and withheld is None else ()


def interval(value: Value, others: list[Value], spread: str) -> dict[str, Any]:
    """low, high and interval of a value: its own, else the least and greatest of the alternatives' and its own."""
    if value.low is not None and value.high is not None:
        return {"low": rounded(value.low), "high": rounded(value.high), "interval": value.interval}
    if value.value is None or not others:
        return {}
    lost = next((other.undefined for other in others if other.value is None), None)
    if lost is not None:
        return {"interval": f"none: over {spread}, it is not always defined ({lost})"}
    values = [value.value, *(other.value for other in others if other.value is not None)]
    return {"low": rounded(min(values)), "high": rounded(max(values)), "interval": f"least and greatest over {spread}"}


def class_key(label_map: LabelMap, place: int) -> str:
    """A class's name as a part of keys: lower-case letters, digits and underscores, another one for each class."""

    def short(name: str) -> str:
        return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:_LONGEST_NAME].strip("_")

    own = short(label_map.names[place])
    alike = [short(name) for name in label_map.names].count(own) > 1
    return f"{own or 'class'}_{place + 1}" if alike or not own else own


def rounded(value: float | None) -> float | None:
    """To :data:`SIGNIFICANT` digits, so that record, page and table show one number."""
    return None if value is None else float(f"{value:.{SIGNIFICANT}g}")
