"""Whether the layers that were found in an OCT scan can be a retina's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.measurements.surfaces import Surfaces, axial_scale
from pipeline.types import Geometry, LabelMap
from pipeline.types.assessment import FlagRecord

RETINA_UM = (100.0, 700.0)
"""Mean from the inner limiting membrane to Bruch's membrane: below is an atrophy beyond all reports, above an oedema beyond most."""
WITH_CHOROID_UM = 1400.0
RETINA_OF_HEIGHT = (0.03, 0.75)
"""The same where the size of a pixel is unknown, of the picture's height; B-scans are mostly 1.9 to 2.6 mm deep."""
THINNEST_UM, THINNEST_PX = 8.0, 1.0
"""A layer of less is thinner than the axial resolution of the devices (5 to 7 um in tissue), so none of it was seen."""
COVERED = 0.6
"""Of the A-scans in which the retina must have been found."""
JUMP, JUMPS = 0.05, 0.05
"""A surface that moves by this fraction of the picture's height from one A-scan to the next, in this fraction of them, is none."""
_BRUCH = "BM"


def layer_flags(surfaces: Surfaces, label_map: LabelMap, geometry: Geometry) -> list[FlagRecord]:
    """What is wrong with the surfaces of a scan; all flags withhold every layer's thickness, but those of a single layer its own."""
    top, bottom = surfaces.depth[0], surfaces.depth[_bruch(surfaces)]
    rows = geometry.plane[0]
    seen = ~np.isnan(top) & ~np.isnan(bottom)
    names = label_map.layered
    if not seen.any():
        return [_flag("layers_missing", "No retina was found in the scan.", *names)]
    flags = []
    if seen.mean() < COVERED:
        flags.append(_flag("layers_incomplete", f"The retina was found in only {seen.mean():.0%} of the A-scans.", *names))
    flags += _retina_flags(float((bottom - top)[seen].mean()), surfaces, geometry, names)
    steps = np.abs(np.diff(top, axis=1))
    steps = steps[~np.isnan(steps)]
    if steps.size and float((steps > JUMP * rows).mean()) > JUMPS:
        flags.append(_flag("layers_ragged", "The retina's surface jumps up and down from one A-scan to the next.", *names))
    return [*flags, *_thin(surfaces, label_map, geometry)]


def _retina_flags(pixels: float, surfaces: Surfaces, geometry: Geometry, names: tuple[str, ...]) -> Iterator[FlagRecord]:
    scale, unit = axial_scale(geometry.spacing_mm)
    if unit == "um":
        (low, high), thickness, words = RETINA_UM, scale * pixels, f"{scale * pixels:.0f} µm"
        if surfaces.names[_bruch(surfaces)] != _BRUCH:
            high = WITH_CHOROID_UM  # nobody says whether the last surface is the retina's or the choroid's
    else:
        (low, high), thickness = RETINA_OF_HEIGHT, pixels / geometry.plane[0]
        words = f"{thickness:.0%} of the picture's height"
    if not low <= thickness <= high:
        what = "thin" if thickness < low else "thick"
        yield _flag("retina_thickness", f"The retina is {words} thick on average, too {what} for any eye.", *names)


def _thin(surfaces: Surfaces, label_map: LabelMap, geometry: Geometry) -> Iterator[FlagRecord]:
    scale, unit = axial_scale(geometry.spacing_mm)
    least = THINNEST_UM if unit == "um" else THINNEST_PX
    for name, top, bottom in zip(label_map.layered, surfaces.depth[:-1], surfaces.depth[1:], strict=True):
        thick = (bottom - top)[~np.isnan(bottom - top)]
        if thick.size and (mean := scale * float(thick.mean())) < least:
            words = f"{mean:.1f} {'µm' if unit == 'um' else 'px'}"
            yield _flag("layer_too_thin", f"{name} is {words} thick on average, thinner than a scan can show.", name)


def _bruch(surfaces: Surfaces) -> int:
    """The place of Bruch's membrane, by the name that everybody gives it; the last surface where none has it."""
    return surfaces.names.index(_BRUCH) if _BRUCH in surfaces.names else len(surfaces.names) - 1


def _flag(code: str, text: str, *classes: str) -> FlagRecord:
    return FlagRecord(code=code, text=text, withholds=True, classes=classes)
