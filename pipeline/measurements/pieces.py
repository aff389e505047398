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
    numbers, count, (rows, columns) = labelled(mask)
    if count < 2:
        return mask
    out = np.zeros_like(mask)
    out[rows, columns] = numbers == 1 + int(np.bincount(numbers.ravel())[1:].argmax())
    return out


def pieces(mask: npt.NDArray[np.bool_]) -> list[Piece]:
    """Every piece of a mask bool (H, W), from the top."""
    from scipy.ndimage import center_of_mass, find_objects

    numbers, count, (rows, columns) = labelled(mask)
    if not count:
        return []
    top, left = rows.start, columns.start
    sizes = np.bincount(numbers.ravel())[1:].tolist()
    centres = center_of_mass(numbers > 0, numbers, range(1, count + 1))
    boxes = [(slice(y.start + top, y.stop + top), slice(x.start + left, x.stop + left)) for y, x in find_objects(numbers)]
    return [Piece(size, (float(y) + top, float(x) + left), *box) for size, (y, x), box in zip(sizes, centres, boxes, strict=True)]


def labelled(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], int, tuple[slice, slice]]:
    """int32 with each piece's number from 1, how many there are, and of which part of a mask (H, W) these are the numbers: the box
    around all of it, because most structures fill little of a photograph."""
    from scipy.ndimage import label

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros((0, 0), np.int32), 0, (slice(0, 0), slice(0, 0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    numbers, count = label(mask[box], structure=_EIGHT, output=np.int32)
    return numbers, int(count), box
