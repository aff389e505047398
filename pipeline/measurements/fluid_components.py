"""Connected components of fluid: what hangs together in a volume is one component, with one number on all of its slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
