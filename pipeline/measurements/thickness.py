"""How thick the layers of the retina are, between the surfaces that bound them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.measurements.case import MeasuredCase, Places, Value
from pipeline.measurements.quantity import Quantity
from pipeline.measurements.surfaces import axial_scale, thickness_between

THICKNESS = Quantity(
    "thickness_{class}",
    "{class}: mean thickness",
    "um",
    "mean distance along the A-scan from the top of {class} to the next surface, fluid between them included, over all A-scans",
)
RETINA = ("ILM", "BM")
"""Surfaces, as devices and cards name them: the internal limiting and Bruch's membrane."""
NO_SURFACES = "no A-scan in which both of its surfaces lie in the picture"


def has_surfaces(case: MeasuredCase) -> bool:
    """Whether a model of layers looked at the scan."""
    return case.surfaces is not None and len(case.surfaces.names) == len(case.label_map.layered) + 1


def thickness_of(case: MeasuredCase, places: Places) -> npt.NDArray[np.float64]:
    """float64 (D, W) in pixels, of a layer by its place in the label map; NaN where one of its surfaces is not known."""
    assert case.surfaces is not None
    layer = case.label_map.layered.index(case.label_map.names[places[0]])
    return thickness_between(case.surfaces, layer, layer + 1, case.lean)


def has_retina(case: MeasuredCase) -> bool:
    """Whether both surfaces of the retina are among those of the layers."""
    return case.surfaces is not None and set(RETINA) <= set(case.surfaces.names)


def retina_of(case: MeasuredCase) -> npt.NDArray[np.float64]:
    """float64 (D, W) in pixels, of the retina; NaN where one of its surfaces is not known."""
    assert case.surfaces is not None
    upper, lower = map(case.surfaces.names.index, RETINA)
    return thickness_between(case.surfaces, upper, lower, case.lean)


def measure_thickness(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Mean thickness of one layer."""
    scale, unit = axial_scale(case.geometry.spacing_mm)
    thick = thickness_of(case, places)
    known = thick[~np.isnan(thick)]
    return {THICKNESS.key: Value(scale * float(known.mean()), unit) if known.size else Value.none(NO_SURFACES)}
