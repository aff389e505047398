"""What a measurement is made from, and the number that it yields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.measurements.surfaces import Surfaces
from pipeline.types import Geometry, LabelMap, Role, Unit
from pipeline.types.scan import ScanPattern, SlicesRun, SpacingSource

BoolArray = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
Lean = Literal[-1, 0, 1]
"""Whether a result holds less of each class than the one that is measured, or more."""
Places = tuple[int, ...]
"""Of classes in the label map, from 0."""


@dataclass(frozen=True)
class Value:
    """One number, or why there is none. ``unit``: where it is not the quantity's own (px where mm is not available) · ``low``, ``high``
    and what this ``interval`` is: where the measurement knows it itself, from a fit for example · ``reference`` for this very case."""

    value: float | None
    unit: Unit | None = None
    undefined: str | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    reference: str = ""

    @classmethod
    def none(cls, reason: str) -> Value:
        return cls(None, undefined=reason)


@dataclass(frozen=True)
class Scale:
    """Size of a pixel along rows and columns in ``length``, whose square is ``area``; 1 px where it is unknown."""

    rows: float
    columns: float
    length: Unit
    area: Unit
    per_length: Unit
    source: SpacingSource

    @property
    def trusted(self) -> bool:
        """Whether a published size may be held against a measured one: an estimated spacing does not do for that."""
        return self.source not in ("unknown", "estimated")


@dataclass(frozen=True, eq=False)
class Alternative:
    """Another result that would have been as good a guess: what differs between it and the result is in doubt. ``lean``: -1 where it
    holds less of every class than the result, 1 more, 0 neither."""

    mask_of: Callable[[int], BoolArray]
    lean: Lean = 0


@dataclass(frozen=True, eq=False)
class MeasuredCase:
    """One segmented scan, as measurements see it.

    ``mask_of`` gives the mask bool ([D,] H, W) of a class by its place · ``find_field`` the field of view of a picture, bool (H, W), or
    None · ``surfaces`` of layers, or None · ``objects``: boxes xyxy in px of the objects of each class that is found as objects, by name,
    with ``has_masks`` False where the model marks no pixels of them · ``withheld``: {class: why no number of it is given} · ``pattern`` of
    OCT, and whether its slices run up or down the eye · ``alternatives``, which ``spread`` says what they are; ``lean`` of one of them.
    """

    geometry: Geometry
    label_map: LabelMap
    mask_of: Callable[[int], BoolArray]
    find_field: Callable[[], BoolArray] | None = None
    surfaces: Surfaces | None = None
    objects: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    has_masks: bool = True
    withheld: Mapping[str, str] = field(default_factory=dict)
    pattern: ScanPattern = "unknown"
    slices_run: SlicesRun = "unknown"
    alternatives: tuple[Alternative, ...] = ()
    spread: str = ""
    lean: Lean = 0

    @property
    def flat(self) -> bool:
        """A picture, and no volume."""
        return len(self.geometry.shape) == 2

    @property
    def scale(self) -> Scale:
        size = self.geometry.pixel_mm
        if size is None:
            return Scale(1.0, 1.0, "px", "px2", "1/px", "unknown")
        return Scale(*size, "mm", "mm2", "1/mm", self.geometry.spacing_source)

    @cached_property
    def field(self) -> BoolArray:
        """Field of view of a picture, bool (H, W); all of it where nobody can tell."""
        return self.find_field() if self.find_field is not None and self.flat else np.ones(self.geometry.plane, dtype=bool)

    @cached_property
    def fovea(self) -> tuple[float, float] | None:
        """(row, column) of the centre of the fovea, where a model marks it."""
        mask = self.of_role("fovea")
        return None if mask is None else (float(np.nonzero(mask)[0].mean()), float(np.nonzero(mask)[1].mean()))

    def marks_pixels(self, name: str) -> bool:
        """Whether a class has a mask, and not boxes alone."""
        return self.has_masks or name not in self.objects

    def places(self, role: Role) -> Places:
        """Of the classes of a role."""
        return tuple(place for place, own in enumerate(self.label_map.roles) if own == role)

    def of_role(self, role: Role) -> BoolArray | None:
        """The mask of the first class of a role, for a measure of another class that needs it; None where there is none, or where it
        is empty or withheld."""
        for place in self.places(role)[:1]:
            mask = self.mask_of(place)
            if self.label_map.names[place] not in self.withheld and mask.any():
                return mask
        return None

    def names(self, places: Places) -> tuple[str, ...]:
        return tuple(self.label_map.names[place] for place in places)

    def with_alternative(self, other: Alternative) -> MeasuredCase:
        """The case as it would be with another result,"""
        return replace(self, mask_of=other.mask_of, lean=other.lean, alternatives=())


def encoded(label_map: LabelMap, mask: npt.NDArray[Any]) -> Callable[[int], BoolArray]:
    """``mask_of`` a mask in the encoding of a label map, without ignored pixels: one class at a time, because all of a volume are large."""

    def mask_of(place: int) -> BoolArray:
        index = label_map.classes[place].index
        return ((mask >> (index - 1)) & 1).astype(bool) if label_map.overlapping else mask == index

    return mask_of
