"""What a case folder holds of layers: the surfaces' depths, the layers' thickness, and the fluid between them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.measurements.device_lines import beside_device
from pipeline.measurements.fluid_components import FLUID_NUMBER, FLUID_VOLUME, find_fluid_components
from pipeline.measurements.surfaces import Surfaces
from pipeline.measurements.thickness import THICKNESS
from pipeline.scans.nifti import write_nifti
from pipeline.types import Geometry, LabelMap
from pipeline.types.assessment import MeasureRecord
from pipeline.types.case_record import DeviceRecord, FluidRecord, LayerRecord

SURFACE_FILE, DEVICE_FILE = "surfaces.csv", "device_surfaces.csv"
FLUID_FILE, FLUID_TABLE = "fluid_components.nii.gz", "fluid_components.csv"


def write_surfaces(folder: Path, surfaces: Surfaces, file: str = SURFACE_FILE) -> None:
    """Write ``surfaces.csv``, or ``file``: a line a slice and column with the depth of each surface in px from the picture's top edge,
    empty where it was not found."""
    columns = surfaces.depth.shape[2]
    rows = np.moveaxis(surfaces.depth, 0, -1).reshape(-1, len(surfaces.names)).tolist()
    lines = ([at // columns, at % columns, *("" if math.isnan(depth) else f"{depth:.2f}" for depth in row)] for at, row in enumerate(rows))
    _write_table(folder / file, ["slice", "column", *surfaces.names], lines)


def device_records(found: Surfaces, device: Surfaces, geometry: Geometry) -> dict[str, DeviceRecord]:
    """How far each surface lies from the device's, of those that both name."""
    errors = beside_device(found, device, geometry.spacing_mm)
    return {e.name: DeviceRecord(mean_abs=e.mean_abs, unit=e.unit, columns=e.columns) for e in errors}


def write_fluid_components(folder: Path, mask: npt.NDArray[np.unsignedinteger[Any]], label_map: LabelMap, geometry: Geometry) -> None:
    """Write ``fluid_components.nii.gz`` (D, H, W) and ``fluid_components.csv``: each connected component of the classes that are
    fluid by its number.

    Numbers begin with the largest component of the first of these classes. Nothing is written where no class is fluid.
    """
    numbers = np.zeros(mask.shape, np.int32)
    spacing = geometry.voxel_mm
    size = 1 if spacing is None else math.prod(spacing)
    lines: list[list[Any]] = []
    fluids = [cls for cls, role in zip(label_map.classes, label_map.roles, strict=True) if role == "fluid"]
    for cls in fluids:
        own, parts = find_fluid_components(mask == cls.index, start=len(lines) + 1)
        numbers += own
        lines += [[p.number, cls.name, p.voxels, "" if spacing is None else f"{p.voxels * size:.6g}", p.first, p.last] for p in parts]
    if fluids:
        kind = np.uint8 if len(lines) <= np.iinfo(np.uint8).max else np.uint16 if len(lines) <= np.iinfo(np.uint16).max else np.uint32
        write_nifti(folder / FLUID_FILE, numbers.astype(kind), geometry)
        _write_table(folder / FLUID_TABLE, ["component", "class", "voxels", "volume_mm3", "first_slice", "last_slice"], lines)


def layer_records(measures: Sequence[MeasureRecord], label_map: LabelMap) -> dict[str, LayerRecord]:
    """Each layer's mean thickness, as it was measured."""
    known = {measure.key: measure for measure in measures}
    found = {name: known.get(THICKNESS.key_of(label_map, label_map.names.index(name))) for name in label_map.layered}
    return {n: LayerRecord.model_validate({"mean_thickness": m.value, "unit": m.unit}) for n, m in found.items() if m is not None}


def fluid_records(measures: Sequence[MeasureRecord], label_map: LabelMap) -> dict[str, FluidRecord]:
    """Number and volume of the components of each class that is fluid, as they were measured; none of a class that is withheld."""
    known = {measure.key: measure for measure in measures}
    out = {}
    for place, cls in enumerate(label_map.classes):
        number, volume = (known.get(quantity.key_of(label_map, place)) for quantity in (FLUID_NUMBER, FLUID_VOLUME))
        if number is not None and volume is not None and number.value is not None:
            out[cls.name] = FluidRecord.model_validate({"number": int(number.value), "volume": volume.value, "unit": volume.unit})
    return out


def _write_table(path: Path, heading: Sequence[str], lines: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(lines)
