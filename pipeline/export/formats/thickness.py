"""Thickness maps of a volume of OCT, seen from the vitreous: a line a B-scan, a column an A-scan; and its ETDRS sectors as a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.atomic import atomic_path
from pipeline.export.case import ExportCase, Settings
from pipeline.export.exporter import EXPORTERS, Document, LeftOut
from pipeline.measurements.surfaces import Surfaces, axial_scale, thickness_between
from pipeline.measurements.thickness import RETINA
from pipeline.reports.surface_lines import read_surface_lines
from pipeline.scans.raster import write_png

_WHITE = {"um": 500.0, "px": 128.0}
"""Thickness that is drawn white, of every case alike, so that maps compare; thicker is white, too, and unknown is black."""
_SECTORS = ("etdrs_", "retina_")


@EXPORTERS.add("thickness")
def export_thickness(case: ExportCase, settings: Settings) -> Iterator[Document]:
    """``thickness.npz`` (float32 (B-scans, columns) a layer, NaN where unknown; ``unit``), a PNG of each, ``etdrs.csv``."""
    maps, unit = thickness_maps(case)
    yield Document("thickness.npz", lambda path: _write_maps(maps, unit, path))
    for number, thick in enumerate(maps.values()):
        yield Document(f"thickness_{number:02d}.png", lambda path, thick=thick: write_png(path, _drawn(thick, unit)))  # type: ignore[misc]
    yield Document("etdrs.csv", lambda path: _write_sectors(case, path))


def thickness_maps(case: ExportCase) -> tuple[dict[str, npt.NDArray[np.float32]], str]:
    """Along the A-scan, of each layer that is not withheld, and of the retina where its surfaces are there; and their unit, um or px.

    Raises
    ------
    LeftOut: it is no volume with surfaces, they were corrected since, or all layers are withheld.
    """
    if not case.case.volume or not case.label_map.layered:
        raise LeftOut("it is no volume in which layers were looked for")
    if case.reviewed.edited:
        raise LeftOut("a reviewer corrected it, and thickness is of the surfaces that the model found")
    drawn = read_surface_lines(case.case, case.label_map)
    if drawn is None:
        raise LeftOut("its surfaces.csv is missing or damaged")
    scale, unit = axial_scale(case.case.geometry.trusted().spacing_mm)
    layered, names = case.label_map.layered, case.label_map.surface_names
    surfaces = Surfaces(names, drawn.depth)
    between = {name: (at, at + 1) for at, name in enumerate(layered) if not case.case.record.withheld(name)}
    if set(RETINA) <= set(names) and len(between) == len(layered):
        between["retina"] = (names.index(RETINA[0]), names.index(RETINA[1]))
    thick = {name: thickness_between(surfaces, *pair) for name, pair in between.items()}
    if not thick:
        raise LeftOut("its numbers are withheld")
    return {name: np.asarray(scale * own, np.float32) for name, own in thick.items()}, unit


def _drawn(thick: npt.NDArray[np.float32], unit: str) -> npt.NDArray[np.uint8]:
    grey: npt.NDArray[np.float32] = np.rint(255 * np.clip(np.nan_to_num(thick) / _WHITE[unit], 0, 1))
    return grey.astype(np.uint8)


def _write_maps(maps: Mapping[str, npt.NDArray[np.float32]], unit: str, path: Path) -> None:
    pictures = [f"thickness_{number:02d}.png" for number in range(len(maps))]
    words = {"unit": np.array(unit), "layers": np.array(list(maps)), "pictures": np.array(pictures), "white": np.array(_WHITE[unit])}
    with atomic_path(path) as staged, staged.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{f"map_{name}": own for name, own in maps.items()}, **words)


def _write_sectors(case: ExportCase, path: Path) -> None:
    """Each sector as it was measured (measurements/oct_sectors.py), with why there is no number."""
    with atomic_path(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "eye", "key", "name", "value", "unit", "reason"])
        for one in case.case.record.measures:
            if one.key.startswith(_SECTORS):
                value = "" if one.value is None else f"{one.value:.6g}"
                writer.writerow([case.name, case.eye or "", one.key, one.title, value, one.unit, one.undefined or ""])
