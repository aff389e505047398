"""What a case folder holds of layers: the surfaces' depths, the layers' thickness, and the pockets of fluid between them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.measurements.pockets import find_pockets
from pipeline.measurements.surfaces import Surfaces, thicknesses
from pipeline.scans.nifti import write_nifti
from pipeline.types import Geometry, LabelMap

SURFACE_FILE, POCKET_FILE, POCKET_TABLE = "surfaces.csv", "pockets.nii.gz", "pockets.csv"


def write_surfaces(folder: Path, surfaces: Surfaces, label_map: LabelMap, geometry: Geometry) -> dict[str, Any]:
    """Write ``surfaces.csv``: a line a slice and column with the depth of each surface in px from the picture's top edge, empty where
    it was not found.

    Returns
    -------
    {layer: {"mean_thickness": number or None, "unit": "um" or "px"}}, for case.json.
    """
    columns = surfaces.depth.shape[2]
    rows = np.moveaxis(surfaces.depth, 0, -1).reshape(-1, len(surfaces.names)).tolist()
    lines = ([at // columns, at % columns, *("" if math.isnan(depth) else f"{depth:.2f}" for depth in row)] for at, row in enumerate(rows))
    _write_table(folder / SURFACE_FILE, ["slice", "column", *surfaces.names], lines)
    measured = thicknesses(surfaces, label_map.layered, geometry.spacing_mm)
    return {name: {"mean_thickness": None if m.value is None else round(m.value, 3), "unit": m.unit} for name, m in measured.items()}


def write_pockets(folder: Path, mask: npt.NDArray[np.unsignedinteger[Any]], label_map: LabelMap, geometry: Geometry) -> dict[str, Any]:
    """Write ``pockets.nii.gz`` (D, H, W) and ``pockets.csv``: each pocket of the classes that are no layers by its number.

    Numbers begin with the largest pocket of the first of these classes. Nothing is written where all classes are layers.

    Returns
    -------
    {class: {"number": pockets, "volume": number, "unit": "mm3" or "voxels"}}, for case.json.
    """
    numbers = np.zeros(mask.shape, np.int32)
    spacing = geometry.voxel_mm
    size, unit = (1, "voxels") if spacing is None else (math.prod(spacing), "mm3")
    lines: list[list[Any]] = []
    found: dict[str, Any] = {}
    for cls in label_map.classes:
        if cls.name in label_map.layered:
            continue
        own, pockets = find_pockets(mask == cls.index, start=len(lines) + 1)
        numbers += own
        lines += [[p.number, cls.name, p.voxels, "" if spacing is None else f"{p.voxels * size:.6g}", p.first, p.last] for p in pockets]
        volume = size * sum(p.voxels for p in pockets)
        found[cls.name] = {"number": len(pockets), "volume": volume if spacing is None else float(f"{volume:.6g}"), "unit": unit}
    if found:
        kind = np.uint8 if len(lines) <= np.iinfo(np.uint8).max else np.uint16 if len(lines) <= np.iinfo(np.uint16).max else np.uint32
        write_nifti(folder / POCKET_FILE, numbers.astype(kind), geometry)
        _write_table(folder / POCKET_TABLE, ["pocket", "class", "voxels", "volume_mm3", "first_slice", "last_slice"], lines)
    return found


def _write_table(path: Path, heading: Sequence[str], lines: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(lines)
