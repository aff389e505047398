"""What a case folder holds of layers: the surfaces' depths, the layers' thickness, and the fluid between them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.measurements.by_role import FLUID_COMPONENTS
from pipeline.measurements.surfaces import Surfaces, thicknesses
from pipeline.scans.nifti import write_nifti
from pipeline.types import Geometry, LabelMap
from pipeline.types.case_record import FluidRecord, LayerRecord

SURFACE_FILE, FLUID_FILE, FLUID_TABLE = "surfaces.csv", "fluid_components.nii.gz", "fluid_components.csv"


def write_surfaces(folder: Path, surfaces: Surfaces, label_map: LabelMap, geometry: Geometry) -> dict[str, LayerRecord]:
    """Write ``surfaces.csv``: a line a slice and column with the depth of each surface in px from the picture's top edge, empty where
    it was not found.

    Returns
    -------
    Each layer's mean thickness, for case.json.
    """
    columns = surfaces.depth.shape[2]
    rows = np.moveaxis(surfaces.depth, 0, -1).reshape(-1, len(surfaces.names)).tolist()
    lines = ([at // columns, at % columns, *("" if math.isnan(depth) else f"{depth:.2f}" for depth in row)] for at, row in enumerate(rows))
    _write_table(folder / SURFACE_FILE, ["slice", "column", *surfaces.names], lines)
    measured = thicknesses(surfaces, label_map.layered, geometry.spacing_mm)
    return {
        name: LayerRecord.model_validate({"mean_thickness": None if m.value is None else round(m.value, 3), "unit": m.unit})
        for name, m in measured.items()
    }


def write_fluid_components(
    folder: Path, mask: npt.NDArray[np.unsignedinteger[Any]], label_map: LabelMap, geometry: Geometry
) -> dict[str, FluidRecord]:
    """Write ``fluid_components.nii.gz`` (D, H, W) and ``fluid_components.csv``: each connected component of the classes that are
    fluid by its number.

    Numbers begin with the largest component of the first of these classes. Nothing is written where no class is fluid.

    Returns
    -------
    Each of these classes' number of components and their volume, for case.json.
    """
    numbers = np.zeros(mask.shape, np.int32)
    spacing = geometry.voxel_mm
    size = 1 if spacing is None else math.prod(spacing)
    lines: list[list[Any]] = []
    found: dict[str, FluidRecord] = {}
    for place in FLUID_COMPONENTS.places(label_map):
        cls = label_map.classes[place]
        own, parts = FLUID_COMPONENTS.measure(mask == cls.index, start=len(lines) + 1)
        numbers += own
        lines += [[p.number, cls.name, p.voxels, "" if spacing is None else f"{p.voxels * size:.6g}", p.first, p.last] for p in parts]
        volume = size * sum(p.voxels for p in parts)
        found[cls.name] = FluidRecord(
            number=len(parts),
            volume=volume if spacing is None else float(f"{volume:.6g}"),
            unit="voxels" if spacing is None else "mm3",
        )
    if found:
        kind = np.uint8 if len(lines) <= np.iinfo(np.uint8).max else np.uint16 if len(lines) <= np.iinfo(np.uint16).max else np.uint32
        write_nifti(folder / FLUID_FILE, numbers.astype(kind), geometry)
        _write_table(folder / FLUID_TABLE, ["component", "class", "voxels", "volume_mm3", "first_slice", "last_slice"], lines)
    return found


def _write_table(path: Path, heading: Sequence[str], lines: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(lines)
