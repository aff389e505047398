"""Thickness of a layer by sector: the nine ETDRS fields of a raster over the macula, the quadrants of a circle around the disc.

No published thickness is held against them: each device places its surfaces and measures its own normal eyes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.measurements.case import MeasuredCase, Places, Value
from pipeline.measurements.quantity import Quantity
from pipeline.measurements.rim import NO_SIDE
from pipeline.measurements.surfaces import axial_scale
from pipeline.measurements.thickness import RETINA, has_retina, has_surfaces, retina_of, thickness_of

Floats = npt.NDArray[np.floating[Any]]

ETDRS = "Early Treatment Diabetic Retinopathy Study report 10, Ophthalmology 98, 1991, doi:10.1016/S0161-6420(13)38009-9"
RADII_MM = (0.5, 1.5, 3.0)
"""Of the circles that bound the centre, the inner ring and the outer ring."""
_QUADRANTS = ("superior", "nasal", "inferior", "temporal")
FIELDS = ("centre", *(f"{ring}_{side}" for ring in ("inner", "outer") for side in _QUADRANTS))
_RINGS = {"centre": "up to 0.5 mm", "inner": "0.5 to 1.5 mm", "outer": "1.5 to 3 mm"}
LEAST_COVERED = 0.9
"""Of a field's area that the raster must cover, and of its A-scans in it that both surfaces must be known in."""


def _where(field: str) -> str:
    ring, _, side = field.partition("_")
    place = f"{_RINGS[ring]} from the middle of the raster, where the eye fixates"
    return place + (f", within 45 degrees of {side}" if side else "")


ETDRS_QUANTITIES = tuple(
    Quantity(
        f"etdrs_{field}_{{class}}",
        f"{{class}}: ETDRS {field.replace('_', ' ')}",
        "um",
        f"mean thickness of {{class}} over the A-scans {_where(field)}",
        ETDRS,
    )
    for field in FIELDS
)
RETINA_QUANTITIES = tuple(
    Quantity(
        f"retina_{field}",
        "central subfield thickness" if field == "centre" else f"retina: ETDRS {field.replace('_', ' ')}",
        "um",
        f"mean distance along the A-scan from {RETINA[0]} to {RETINA[1]} over the A-scans {_where(field)}; devices whose lower line is "
        "another surface give other numbers",
        ETDRS,
    )
    for field in FIELDS
)
CIRCLE_QUANTITIES = tuple(
    Quantity(
        f"circle_{side}_{{class}}",
        f"{{class}}: {side} quadrant",
        "um",
        f"mean thickness of {{class}} over the A-scans of a circle around the disc within 45 degrees of {side}",
    )
    for side in ("temporal", "superior", "nasal", "inferior")
)


def is_raster(case: MeasuredCase) -> bool:
    """Layers in parallel B-scans, more than one."""
    return has_surfaces(case) and not case.flat and case.geometry.slices > 1 and case.pattern in ("raster", "unknown")


def is_circle(case: MeasuredCase) -> bool:
    """Layers in one circle around the disc."""
    return has_surfaces(case) and case.flat and case.pattern == "circle"


def measure_etdrs(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Nine fields of one layer."""
    values = _nine_fields(case, thickness_of(case, places))
    return {f"etdrs_{field}_{{class}}": value for field, value in values.items()}


def is_macula(case: MeasuredCase) -> bool:
    """A raster with both surfaces of the retina."""
    return is_raster(case) and has_retina(case)


def measure_retina(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Nine fields of the whole retina; none where any of its layers is withheld."""
    why = next((case.withheld[name] for name in case.label_map.layered if name in case.withheld), None)
    values = _nine_fields(case, retina_of(case)) if why is None else dict.fromkeys(FIELDS, Value.none(why))
    return {f"retina_{field}": value for field, value in values.items()}


def _nine_fields(case: MeasuredCase, thick: Floats) -> dict[str, Value]:
    """Mean of a thickness (D, W) in px over each field; superior and inferior ones where it is known which slice lies higher, nasal and
    temporal ones where the side of the eye is. Columns run as a photograph shows the eye."""
    voxel, eye = case.geometry.voxel_mm, case.geometry.laterality
    if voxel is None:
        return {field: Value.none("the distance of slices or of A-scans is not known") for field in FIELDS}
    scale, unit = axial_scale(case.geometry.spacing_mm)
    (slices, columns), right, up = thick.shape, voxel[2] if eye != "L" else -voxel[2], voxel[0] if case.slices_run == "up" else -voxel[0]
    y, x = np.meshgrid((np.arange(slices) - (slices - 1) / 2) * up, (np.arange(columns) - (columns - 1) / 2) * right, indexing="ij")
    of_scans = _fields(y, x)
    covered = _covered(slices * voxel[0] / 2, columns * voxel[2] / 2)
    out = {}
    for number, field in enumerate(FIELDS):
        if field.endswith(("superior", "inferior")) and case.slices_run == "unknown":
            out[field] = Value.none("it is not known which slices lie higher in the eye")
        elif field.endswith(("nasal", "temporal")) and eye is None:
            out[field] = Value.none(NO_SIDE)
        elif covered[number] < LEAST_COVERED:
            out[field] = Value.none(f"the raster covers {100 * covered[number]:.0f} % of this field")
        else:
            out[field] = _mean(thick[of_scans == number], scale, unit)
    return out


def measure_circle(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Four quadrants of one layer; A-scans run from temporal over superior, nasal and inferior (TSNIT) in either eye."""
    thick = thickness_of(case, places)[0]
    scale, unit = axial_scale(case.geometry.spacing_mm)
    quadrant = np.rint((np.arange(thick.size) + 0.5) * 4 / thick.size).astype(int) % 4
    return {q.key: _mean(thick[quadrant == number], scale, unit) for number, q in enumerate(CIRCLE_QUANTITIES)}


def _fields(y: Floats, x: Floats) -> npt.NDArray[np.int64]:
    """Number in FIELDS of places ``y`` mm above and ``x`` mm nasal of the middle; -1 outside."""
    radius = np.hypot(y, x)
    ring = np.searchsorted(RADII_MM, radius, side="left")
    # 0 superior, 1 nasal, 2 inferior, 3 temporal: clockwise from above in a right eye.
    side = np.floor((np.degrees(np.arctan2(x, y)) + 45) / 90).astype(int) % 4
    return np.where(ring == 0, 0, np.where(ring == 3, -1, 1 + 4 * (ring - 1) + side))


def _covered(half_height: float, half_width: float) -> list[float]:
    """Fraction of each field's area that lies in a raster of these half sides in mm."""
    y, x = np.mgrid[-3:3:151j, -3:3:151j]
    fields, inside = _fields(y, x), (np.abs(y) <= half_height) & (np.abs(x) <= half_width)
    return [float(inside[fields == number].mean()) for number in range(len(FIELDS))]


def _mean(thick: Floats, scale: float, unit: Any) -> Value:
    known = thick[~np.isnan(thick)]
    if not known.size or known.size < LEAST_COVERED * thick.size:
        return Value.none(f"both surfaces are known in {known.size} of {thick.size} A-scans")
    return Value(scale * float(known.mean()), unit)
