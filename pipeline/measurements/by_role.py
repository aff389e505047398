"""Every measurement there is: a class is known by its role or code, never by how it is spelled.

A new measurement is a function from a :class:`MeasuredCase` to values, and one entry here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.measurements.case import MeasuredCase, Places, Value
from pipeline.measurements.disc import DISC_QUANTITIES, RATIO_QUANTITIES, measure_disc, measure_ratios
from pipeline.measurements.fluid_components import FLUID_QUANTITIES, measure_fluid
from pipeline.measurements.lesions import LESION_QUANTITIES, RING_QUANTITIES, measure_lesions, measure_rings
from pipeline.measurements.oct_sectors import (
    CIRCLE_QUANTITIES,
    ETDRS_QUANTITIES,
    RETINA_QUANTITIES,
    is_circle,
    is_macula,
    is_raster,
    measure_circle,
    measure_etdrs,
    measure_retina,
)
from pipeline.measurements.quantity import Measurement, Quantity
from pipeline.measurements.rim import RIM_QUANTITIES, measure_rim
from pipeline.measurements.thickness import THICKNESS, has_surfaces, measure_thickness
from pipeline.measurements.vessels import EQUIVALENT_QUANTITIES, VESSEL_QUANTITIES, measure_equivalents, measure_vessels
from pipeline.types import VESSELS, Geometry, LabelClass, LabelMap, Measure
from pipeline.types.assessment import MeasureRecord

DISC = Measurement(("optic_disc",), measure_disc, DISC_QUANTITIES)
RATIOS = Measurement(("optic_disc", "optic_cup"), measure_ratios, RATIO_QUANTITIES)
RIM = Measurement(("optic_disc", "optic_cup"), measure_rim, RIM_QUANTITIES)
LESIONS = Measurement(("lesion",), measure_lesions, LESION_QUANTITIES, per_class=True)
RINGS = Measurement(("lesion",), measure_rings, RING_QUANTITIES, lambda case: case.flat and case.fovea is not None, per_class=True)
SURFACES = Measurement(("layer",), measure_thickness, (THICKNESS,), has_surfaces, per_class=True)
RETINA = Measurement(("layer",), measure_retina, RETINA_QUANTITIES, is_macula)
MACULA = Measurement(("layer",), measure_etdrs, ETDRS_QUANTITIES, is_raster, per_class=True)
CIRCLE = Measurement(("layer",), measure_circle, CIRCLE_QUANTITIES, is_circle, per_class=True)
FLUID = Measurement(("fluid",), measure_fluid, FLUID_QUANTITIES, lambda case: not case.flat, per_class=True)
VESSEL_TREES = tuple(Measurement((role,), measure_vessels, VESSEL_QUANTITIES, per_class=True) for role in VESSELS)
EQUIVALENTS = Measurement(("artery", "vein"), measure_equivalents, EQUIVALENT_QUANTITIES)

_FUNDUS = (DISC, RATIOS, RIM, *VESSEL_TREES, EQUIVALENTS, LESIONS, RINGS)
_OCT = (RETINA, SURFACES, MACULA, CIRCLE, FLUID)
MEASUREMENTS: tuple[Measurement, ...] = (*_FUNDUS, *_OCT)
"""In the order in which a case's numbers are shown."""


def measure_case(case: MeasuredCase) -> tuple[MeasureRecord, ...]:
    """Every number that the classes and the kind of a scan allow."""
    return tuple(record for measurement in MEASUREMENTS for record in measurement.records(case))


def place_in_registry(key: str) -> int:
    """Of the quantity whose key, for whatever class, this is: the order of a table's columns. Past the last where there is none."""
    quantities = [quantity for measurement in MEASUREMENTS for quantity in measurement.quantities]
    parts = [quantity.key.split("{class}") for quantity in quantities]
    fitting = [place for place, own in enumerate(parts) if key == own[0] or (len(own) == 2 and _between(key, *own))]
    return max(fitting, key=lambda place: sum(map(len, parts[place])), default=len(parts))


def _between(key: str, start: str, end: str) -> bool:
    return key.startswith(start) and key.endswith(end) and len(key) > len(start) + len(end)


@dataclass(frozen=True)
class MaskMeasurement:
    """A quantity of a picture that evaluation compares with that of the reference masks. ``title`` and ``column`` where people read it."""

    measurement: Measurement
    quantity: Quantity
    title: str
    column: str

    @property
    def name(self) -> str:
        """Of its table, and its key in the summary."""
        return self.quantity.key

    @property
    def definition(self) -> str:
        return self.quantity.definition

    def places(self, label_map: LabelMap) -> Places:
        """Of the classes that it is measured on; none where a role is missing."""
        return next(iter(self.measurement.groups(label_map)), ())

    def measure(self, *masks: npt.NDArray[np.bool_]) -> Measure:
        """Of a mask bool (H, W) of each role."""
        classes = (LabelClass(k, role, (0, 0, 0), None, None, role) for k, role in enumerate(self.measurement.roles, 1))
        case = MeasuredCase(Geometry(masks[0].shape), LabelMap(tuple(classes), overlapping=True), masks.__getitem__)
        value: Value = self.measurement.measure(case, tuple(range(len(masks))))[self.name]
        return Measure(value.value, value.unit or self.quantity.unit, self.definition, value.undefined)


OF_MASKS = (MaskMeasurement(RATIOS, RATIO_QUANTITIES[0], "vertical CDR", "vCDR"),)
