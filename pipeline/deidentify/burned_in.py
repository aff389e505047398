"""Text burned into a picture: rows of strokes of one height and one colour.

No letter is read. Letters are strokes that are brighter or darker than what is around them (a top hat, Meyer 1979), by more than any
vessel or exudate; they stand in a row, are about as high as each other and have one colour. The picture is looked at in three sizes,
each of its colours for itself. In speckle (OCT, angiography) a stroke has to stand out of the noise, and a row has to be longer. How the
thresholds were chosen, and how much is found, is in docs/results/burned_in_text.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_STROKE = 11  # pixels: what is wider is no stroke at this size of the picture
_CONTRAST, _MOST_CONTRAST = 60, 185  # of 255: what stands out less is no stroke, in a quiet picture and in the noisiest
_QUIET = 12  # how far four fifths of a photograph's pixels at most stand out; speckle has 18 and more
_FOR_NOISE = 4  # by how much more a stroke has to stand out for each level of noise
_HEIGHTS = (6, 44)  # of letters, in pixels, at one of the sizes
_WIDEST = 8  # letters that touch each other: their width by their height
_SAME_COLOUR = 40
_SMALLEST = 120  # pixels: a picture is not halved below this
_SIZES = 3

Planes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Box:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` (exclusive) of a picture, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    def holds(self, other: Box) -> bool:
        inside = self.top <= other.top and self.left <= other.left and self.bottom >= other.bottom and self.right >= other.right
        return inside and self != other


@dataclass(frozen=True)
class _Mark:
    """One stroke or letter, or several that touch; ``colour`` is that of its strongest pixels."""

    box: Box
    colour: npt.NDArray[np.float32]

    @property
    def height(self) -> int:
        return self.box.bottom - self.box.top

    @property
    def width(self) -> int:
        return self.box.right - self.box.left


def find_text(picture: npt.NDArray[Any]) -> list[Box]:
    """Boxes around rows of text in (H, W) or (H, W, C), from top to bottom; [] if there seems to be none."""
    planes = _as_bytes(picture)
    found: set[Box] = set()
    for size in range(_SIZES):
        if size and min(planes.shape[:2]) < 2 * _SMALLEST:
            break
        planes = _halved(planes) if size else planes
        for plane in np.moveaxis(planes, 2, 0):
            for bright in (True, False):
                found |= {_around(row, 1 << size, picture.shape[:2]) for row in _rows_of_text(plane, planes, bright)}
    return sorted((box for box in found if not any(other.holds(box) for other in found)), key=lambda box: (box.top, box.left))


def _as_bytes(picture: npt.NDArray[Any]) -> Planes:
    """(H, W, C) uint8, one plane where all are alike, stretched between the extremes where there were more bits."""
    planes = picture if picture.ndim == 3 else picture[..., None]
    if planes.shape[2] > 1 and (planes[..., :1] == planes).all():
        planes = planes[..., :1]
    if planes.dtype == np.uint8:
        return planes
    low, high = float(planes.min()), float(planes.max())
    return np.asarray((planes.astype(np.float32) - low) * (255 / max(high - low, 1e-9)), np.uint8)


def _halved(planes: Planes) -> Planes:
    rows, columns = planes.shape[0] // 2 * 2, planes.shape[1] // 2 * 2
    even = planes[:rows, :columns].astype(np.uint16)
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4).astype(np.uint8)


def _rows_of_text(plane: Planes, planes: Planes, bright: bool) -> list[list[_Mark]]:
    hat = _hat(plane, bright)
    noise = float(np.percentile(hat[::3, ::3], 80))
    contrast = min(_CONTRAST + _FOR_NOISE * max(0.0, noise - _QUIET), _MOST_CONTRAST)
    is_text = _is_text if noise <= _QUIET else _is_text_in_noise
    return [row for row in _rows(list(_marks(hat, contrast, planes))) if is_text(row)]


def _hat(plane: Planes, bright: bool) -> Planes:
    """How much brighter (or darker) each pixel is than everything wider than a stroke around it."""
    from scipy.ndimage import maximum_filter, minimum_filter

    first, second = (minimum_filter, maximum_filter) if bright else (maximum_filter, minimum_filter)
    around = second(first(plane, _STROKE), _STROKE)
    hat: Planes = plane - around if bright else around - plane
    return hat


def _marks(hat: Planes, contrast: float, planes: Planes) -> Iterator[_Mark]:
    from scipy import ndimage

    labels, _ = ndimage.label(hat >= contrast, np.ones((3, 3), bool))
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not (_HEIGHTS[0] <= height <= _HEIGHTS[1] and width <= _WIDEST * height):
            continue
        strength = np.where(labels[rows, columns] == number, hat[rows, columns], 0)
        core = planes[rows, columns][strength >= 0.85 * strength.max()]
        yield _Mark(Box(rows.start, columns.start, rows.stop, columns.stop), core.mean(0, dtype=np.float32))


def _rows(marks: list[_Mark]) -> list[list[_Mark]]:
    """Marks that stand beside each other, as chains from left to right."""
    marks = sorted(marks, key=lambda mark: mark.box.left)
    owner = list(range(len(marks)))

    def root(n: int) -> int:
        while owner[n] != n:
            n = owner[n]
        return n

    for a, mark in enumerate(marks):
        for b in range(a + 1, len(marks)):
            if marks[b].box.left > mark.box.right + 2 * _HEIGHTS[1]:
                break
            if _beside(mark, marks[b]):
                owner[root(b)] = root(a)
    chains: dict[int, list[_Mark]] = {}
    for n, mark in enumerate(marks):
        chains.setdefault(root(n), []).append(mark)
    return list(chains.values())


def _beside(a: _Mark, b: _Mark) -> bool:
    """On one line (its top or its base), about as high, near, and of one colour."""
    low, high = sorted((a.height, b.height))
    overlap = min(a.box.bottom, b.box.bottom) - max(a.box.top, b.box.top)
    gap = b.box.left - a.box.right
    level = min(abs(a.box.top - b.box.top), abs(a.box.bottom - b.box.bottom)) <= max(1, 0.2 * high)
    near = overlap >= 0.5 * low and high <= 2 * low and -0.5 * low <= gap <= 1.5 * high
    return level and near and float(np.abs(a.colour - b.colour).max()) <= _SAME_COLOUR


def _is_text(row: list[_Mark]) -> bool:
    return len(row) >= 4


def _is_text_in_noise(row: list[_Mark]) -> bool:
    """Longer, on one line, and of letters that are neither blobs nor of all heights."""
    heights = np.array([mark.height for mark in row])
    usual = float(np.median(heights))
    tall = max(mark.box.bottom for mark in row) - min(mark.box.top for mark in row)
    wide = float(np.mean([mark.width for mark in row]))
    return len(row) >= 6 and tall <= 2.2 * usual and heights.std() < 0.35 * usual and wide < 1.6 * usual


def _around(row: list[_Mark], scale: int, shape: tuple[int, ...]) -> Box:
    """The box around a row in pixels of the picture, with room for what has faint or no marks at its ends."""
    height = int(np.median([mark.height for mark in row]))
    top, bottom = min(mark.box.top for mark in row) - height // 2, max(mark.box.bottom for mark in row) + height // 2
    left, right = min(mark.box.left for mark in row) - 2 * height, max(mark.box.right for mark in row) + 2 * height
    return Box(max(0, top * scale), max(0, left * scale), min(shape[0], bottom * scale), min(shape[1], right * scale))
