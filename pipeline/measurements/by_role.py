"""Which measurement is made of which classes: a class is known by its role or code, never by how it is spelled.

A new measurement is a function and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.measurements.disc import VERTICAL, vcdr
from pipeline.measurements.fluid_components import find_fluid_components
from pipeline.measurements.surfaces import find_surfaces
from pipeline.types import LabelMap, Measure, Role


@dataclass(frozen=True)
class Measurement:
    """``roles``: one class of each of several, or every class of a single one. ``measure`` takes what its own docstring says."""

    roles: tuple[Role, ...]
    measure: Callable[..., Any]

    def places(self, label_map: LabelMap) -> tuple[int, ...]:
        """Places, in the label map, of the classes that are measured, in the order of the roles; none where a role is missing."""
        found = [[place for place, role in enumerate(label_map.roles) if role == wanted] for wanted in self.roles]
        if not all(found):
            return ()
        return tuple(found[0]) if len(found) == 1 else tuple(own[0] for own in found)


@dataclass(frozen=True)
class MaskMeasurement(Measurement):
    """One number of a picture, from a mask bool (H, W) of each role: evaluation compares it with that of the reference masks.

    ``name`` of its table and key in the summary, ``title`` and ``column`` where people read it.
    """

    measure: Callable[..., Measure]
    name: str
    title: str
    column: str
    definition: str


SURFACES = Measurement(("layer",), find_surfaces)
FLUID_COMPONENTS = Measurement(("fluid",), find_fluid_components)
OF_MASKS = (MaskMeasurement(("optic_disc", "optic_cup"), vcdr, "vcdr", "vertical CDR", "vCDR", VERTICAL),)
