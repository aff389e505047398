"""How many lesions of each kind there are, how large they are, and how near to the fovea."""

from __future__ import annotations

import numpy as np

from pipeline.measurements.case import MeasuredCase, Places, Value
from pipeline.measurements.pieces import pieces
from pipeline.measurements.quantity import Quantity

ETDRS = "Early Treatment Diabetic Retinopathy Study report 10, Ophthalmology 98, 1991, doi:10.1016/S0161-6420(13)38009-9"
RINGS = (("centre", 0.0, 0.5), ("inner", 0.5, 1.5), ("outer", 1.5, 3.0))
"""(name, from, to), distances from the fovea in mm: circles of 1, 3 and 6 mm diameter."""
NO_FOVEA = "no model of this run found the fovea"
BOXES_ALONE = "the model marks boxes around lesions, no pixels of them"

NUMBER = Quantity(
    "lesion_number_{class}",
    "{class}: number",
    "1",
    "objects of {class}; of a model that marks pixels, pieces that touch by side or corner",
)
AREA = Quantity("lesion_area_{class}", "{class}: area", "mm2", "area of all {class}")
DISTANCE = Quantity(
    "lesion_fovea_distance_{class}", "{class}: distance to the fovea", "mm", "from the fovea to the nearest pixel, or box, of {class}"
)
LESION_QUANTITIES = (NUMBER, AREA, DISTANCE)
RING_QUANTITIES = tuple(
    Quantity(
        f"lesion_area_{name}_{{class}}",
        f"{{class}}: area in the ETDRS {name}" + ("" if name == "centre" else " ring"),
        "mm2",
        f"area of {{class}} {begin:g} to {end:g} mm from the fovea",
        ETDRS,
    )
    for name, begin, end in RINGS
)


def measure_lesions(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Number, area and distance to the fovea of one kind of lesion."""
    (name,), scale = case.names(places), case.scale
    mask = case.mask_of(places[0])
    boxes = case.objects.get(name)
    number = len(pieces(mask)) if boxes is None else len(boxes)
    marked = case.marks_pixels(name)
    area = Value(float(np.count_nonzero(mask)) * scale.rows * scale.columns, scale.area) if marked else Value.none(BOXES_ALONE)
    return {NUMBER.key: Value(number), AREA.key: area, DISTANCE.key: _distance(case, places, number)}


def measure_rings(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Area of one kind of lesion in each ETDRS ring; applies where the fovea is known."""
    why = None if case.marks_pixels(case.names(places)[0]) else BOXES_ALONE
    if case.fovea is None or case.scale.source == "unknown":
        why = NO_FOVEA if case.fovea is None else "ETDRS rings are in mm, and the size of a pixel is not known"
    if why is not None or case.fovea is None:
        return {quantity.key: Value.none(why or NO_FOVEA) for quantity in RING_QUANTITIES}
    rows, columns = np.nonzero(case.mask_of(places[0]))
    scale = case.scale
    away = np.hypot((rows - case.fovea[0]) * scale.rows, (columns - case.fovea[1]) * scale.columns)
    pixel = scale.rows * scale.columns
    return {
        quantity.key: Value(float(((away >= begin) & (away < end)).sum()) * pixel, scale.area)
        for quantity, (_, begin, end) in zip(RING_QUANTITIES, RINGS, strict=True)
    }


def _distance(case: MeasuredCase, places: Places, number: int) -> Value:
    name, scale, fovea = case.names(places)[0], case.scale, case.fovea
    if fovea is None:
        return Value.none(NO_FOVEA)
    if not number:
        return Value.none(f"there is no {name}")
    if case.marks_pixels(name):
        rows, columns = (own.astype(float) for own in np.nonzero(case.mask_of(places[0])))
        if not rows.size:
            return Value.none(f"there is no {name}")
    else:  # the nearest point of each box, whose pixel k reaches from k to k + 1
        x1, y1, x2, y2 = np.array(case.objects[name]).T
        rows, columns = np.clip(fovea[0], y1, y2 - 1), np.clip(fovea[1], x1, x2 - 1)
    away = np.hypot((rows - fovea[0]) * scale.rows, (columns - fovea[1]) * scale.columns)
    return Value(float(away.min()), scale.length)
