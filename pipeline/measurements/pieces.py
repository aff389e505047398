"""Connected pieces of a mask: pixels touch by a side or a corner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_EIGHT = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Piece:
    """``pixels`` of one piece, its centre of area (row, column) and its box."""

    pixels: int
    centre: tuple[float, float]
    rows: slice
    columns: slice


def largest_piece(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mask bool (H, W) -> its largest piece; of equally large ones the first from the top."""
    numbers, count = labelled(mask)
    if count < 2:
        return mask
    largest: npt.NDArray[np.bool_] = numbers == 1 + int(np.bincount(numbers.ravel())[1:].argmax())
    return largest


def pieces(mask: npt.NDArray[np.bool_]) -> list[Piece]:
    """Every piece of a mask bool (H, W), from the top."""
    from scipy.ndimage import center_of_mass, find_objects

    numbers, count = labelled(mask)
    if not count:
        return []
    sizes = np.bincount(numbers.ravel())[1:].tolist()
    centres = center_of_mass(mask, numbers, range(1, count + 1))
    boxes = find_objects(numbers)
    return [Piece(size, (float(y), float(x)), *box) for size, (y, x), box in zip(sizes, centres, boxes, strict=True)]


def labelled(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], int]:
    """int32 (H, W) with each piece's number from 1, and how many there are."""
    from scipy.ndimage import label

    numbers, count = label(mask, structure=_EIGHT, output=np.int32)
    return numbers, int(count)
