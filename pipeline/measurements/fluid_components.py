"""Connected components of fluid: what hangs together in a volume is one component, with one number on all of its slices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.measurements.case import MeasuredCase, Places, Value
from pipeline.measurements.quantity import Quantity

FLUID_NUMBER = Quantity("fluid_number_{class}", "{class}: components", "1", "pieces of {class} that touch by a face, an edge or a corner")
FLUID_VOLUME = Quantity("fluid_volume_{class}", "{class}: volume", "mm3", "voxels of {class}, times the size of a voxel")
FLUID_QUANTITIES = (FLUID_NUMBER, FLUID_VOLUME)


def measure_fluid(case: MeasuredCase, places: Places) -> dict[str, Value]:
    """Components and volume of one kind of fluid."""
    present = case.mask_of(places[0])
    size = case.geometry.voxel_mm
    volume = float(present.sum()) * (1 if size is None else math.prod(size))
    number = len(find_fluid_components(present)[1])
    return {FLUID_NUMBER.key: Value(number), FLUID_VOLUME.key: Value(volume, "voxels" if size is None else "mm3")}


@dataclass(frozen=True)
class FluidComponent:
    """``voxels`` of a component, and the slices that it begins and ends on (0 based, both hold some of it)."""

    number: int
    voxels: int
    first: int
    last: int


def find_fluid_components(present: npt.NDArray[np.bool_], start: int = 1) -> tuple[npt.NDArray[np.int32], list[FluidComponent]]:
    """Number the connected components of a class, the largest first.

    Voxels touch by a face, an edge or a corner (26 neighbours), as pixels of an object do by 8: slices lie much further apart than
    pixels, so fluid that is oblique to them would fall apart by faces alone.

    Parameters
    ----------
    present: bool (D, H, W). start: the first number.

    Returns
    -------
    int32 (D, H, W), 0 where there is none, and the components in the order of their numbers. Of equally large ones the first in the
    order of voxels comes first.
    """
    from scipy import ndimage

    parts, count = ndimage.label(present, structure=np.ones((3, 3, 3), dtype=bool), output=np.int32)
    # Only what is present: bincount makes int64 of what it counts, eight bytes a voxel of a whole volume.
    voxels = np.bincount(parts[present], minlength=count + 1)[1:]
    order = np.argsort(-voxels, kind="stable")
    numbers = np.zeros(count + 1, np.int32)
    numbers[order + 1] = np.arange(start, start + count, dtype=np.int32)
    boxes = [part[0] for part in ndimage.find_objects(parts)]
    found = [FluidComponent(start + n, int(voxels[at]), boxes[at].start, boxes[at].stop - 1) for n, at in enumerate(order.tolist())]
    return numbers[parts], found
