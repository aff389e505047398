"""Text burned into a picture: a small network says of each four by four pixels whether they lie in a line of text.

No letter is read. The network is a U-Net (Ronneberger 2015) of 49,000 numbers that looks at a picture in up to four sizes, and at a small
one enlarged, too, so that letters of 6 to some 200 pixels are about as high for it. It runs in NumPy, as cleaning needs no PyTorch. How it
was trained and how much it finds is in docs/results/burned_in_text.md (workflows/burned_in_text_net.py, burned_in_text.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError

_WEIGHTS = Path(__file__).with_name("burned_in.npz")
_CELL = 4  # pixels of a cell of the answer, at its size of the picture
_TILE, _EDGE = 512, 64  # pixels: a picture is looked at in tiles, and what lies nearer than _EDGE to a cut is decided in the next
_SMALLEST = 240  # pixels: a picture is not halved below this, as letters are seldom higher than a twelfth of it
_SIZES = 4
_SMALL = 400  # pixels: a picture that is smaller is looked at enlarged, too
_LIKELY = 0.3  # a line is made of touching cells that are as likely
_SURE, _SURE_PART = 0.9, 0.15  # of many cells and of this part of its box the network is sure: a patch of noise has a few, here and there
_LEAST = 12  # cells that it is sure of; in a small picture, where letters are little more than noise, twice as many
_SEVERAL = 4  # times as many: of lines that touch each other at an angle
_FULL = 128  # of 255: a picture of eight bits whose brightest pixel is darker uses fewer bits, down to one
_FEW = 0.5  # per cent of the pixels, at either end, that may lie far from all others

Floats = npt.NDArray[np.float32]
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


def find_text(picture: npt.NDArray[Any]) -> list[Box]:
    """Boxes around lines of text in (H, W) or (H, W, C), from top to bottom; [] if there seems to be none.

    Raises
    ------
    ScanError: ``burned_in``, as the network has no answer.
    """
    if not picture.size:  # a .vol file without the scanning laser's picture
        return []
    found: set[Box] = set()
    for planes in _in_colour(picture):
        least = _LEAST * (2 if min(planes.shape[:2]) < _SMALL else 1)
        for scale, look in _looks(planes):
            some = lines(chances(look), least * max(1, 1 / scale))
            found |= {_around(line, int(_CELL * scale), picture.shape[:2]) for line in some}
    return sorted((box for box in found if not any(other.holds(box) for other in found)), key=lambda box: (box.top, box.left))


def _looks(planes: Planes) -> Iterator[tuple[float, Planes]]:
    """The picture in each size, and how many of its pixels are one there."""
    from PIL import Image

    if min(planes.shape[:2]) < _SMALL:
        yield 0.5, np.asarray(Image.fromarray(planes).resize((2 * planes.shape[1], 2 * planes.shape[0]), Image.Resampling.BILINEAR))
    for size in range(_SIZES):
        if size and min(planes.shape[:2]) < 2 * _SMALLEST:
            return
        planes = _halved(planes) if size else planes
        yield 1 << size, planes


def blacken(frames: npt.NDArray[Any], boxes: Sequence[Sequence[Box]], black: int = 0) -> None:
    """Set boxes (a list for each frame) of (D, H, W [, 3]) to ``black``, in place."""
    for frame, found in zip(frames, boxes, strict=True):
        for box in found:
            frame[box.top : box.bottom, box.left : box.right] = black


def _in_colour(picture: npt.NDArray[Any]) -> Iterator[Planes]:
    """(H, W, 3) uint8; where the planes are no colours, one after another."""
    for planes in _in_bytes(picture if picture.ndim == 3 else picture[..., None]):
        if planes.shape[2] == 3:
            yield planes
        else:
            yield from (np.repeat(planes[..., index : index + 1], 3, 2) for index in range(planes.shape[2]))


def _in_bytes(planes: npt.NDArray[Any]) -> Iterator[Planes]:
    """As uint8, stretched between the extremes where there were more bits or fewer; and once more without a few pixels that lie so far from
    all others that text would hardly stand out between these extremes."""
    low, high = float(planes.min()), float(planes.max())
    if planes.dtype == np.uint8 and high >= _FULL:
        yield planes
        return
    yield _stretched(planes, low, high)
    lower, upper = (float(value) for value in np.percentile(planes, (_FEW, 100 - _FEW)))
    if 0 < upper - lower < (high - low) / 2:
        yield _stretched(planes, lower, upper)


def _stretched(planes: npt.NDArray[Any], low: float, high: float) -> Planes:
    return ((np.clip(planes.astype(np.float64), low, high) - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


def _halved(planes: Planes) -> Planes:
    rows, columns = planes.shape[0] // 2 * 2, planes.shape[1] // 2 * 2
    even = planes[:rows, :columns].astype(np.uint16)
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4).astype(np.uint8)


def lines(chance: Floats, least: float) -> list[tuple[slice, slice]]:
    """Rows and columns, in cells, of each line of text; ``least``: cells of which the network is to be sure."""
    from scipy import ndimage

    labels, count = ndimage.label(chance >= _LIKELY, np.ones((3, 3), bool))
    sure = np.bincount(labels[chance >= _SURE], minlength=count + 1)
    out = []
    for number, where in enumerate(ndimage.find_objects(labels), 1):
        if sure[number] >= max(least, _SURE_PART * chance[where].size):
            out.append(where)
        elif sure[number] >= _SEVERAL * least:  # lines that touch at an angle, in a box that is empty for the most part: piece by piece
            rows, columns = where
            lying = columns.stop - columns.start >= rows.stop - rows.start
            middle = (columns.start + columns.stop if lying else rows.start + rows.stop) // 2
            for half in (np.s_[:, :middle], np.s_[:, middle:]) if lying else (np.s_[:middle], np.s_[middle:]):
                alone = np.zeros_like(chance)
                alone[half] = np.where(labels == number, chance, 0)[half]
                out += lines(alone, least)
    return out


def _around(line: tuple[slice, slice], cell: int, shape: tuple[int, ...]) -> Box:
    """The box around a line in pixels of the picture, with room for what is faint: half a line's height at its sides, one at its ends."""
    rows, columns = line
    height = min(rows.stop - rows.start, columns.stop - columns.start)
    lying = columns.stop - columns.start >= rows.stop - rows.start
    above, beside = (max(1, height // 2), height + 1) if lying else (height + 1, max(1, height // 2))
    top, bottom = (rows.start - above) * cell, (rows.stop + above) * cell
    left, right = (columns.start - beside) * cell, (columns.stop + beside) * cell
    return Box(max(0, top), max(0, left), min(shape[0], bottom), min(shape[1], right))


def chances(planes: Planes) -> Floats:
    """How likely each cell of (H, W, 3) uint8 lies in a line of text: (H / 4, W / 4), rounded up."""
    rows, columns = planes.shape[:2]
    out = np.zeros((-(-rows // _CELL), -(-columns // _CELL)), np.float32)
    step = _TILE - 2 * _EDGE
    for top in range(0, max(1, rows - 2 * _EDGE), step):
        for left in range(0, max(1, columns - 2 * _EDGE), step):
            tile = planes[top : top + _TILE, left : left + _TILE]
            padding = [(0, -size % 16) for size in tile.shape[:2]]
            answer = _network(np.pad(tile, [*padding, (0, 0)], "edge"))[: -(-tile.shape[0] // _CELL), : -(-tile.shape[1] // _CELL)]
            above, before = (_EDGE // _CELL if at else 0 for at in (top, left))
            first, second = top // _CELL + above, left // _CELL + before
            answer = answer[above:, before:]
            out[first : first + answer.shape[0], second : second + answer.shape[1]] = answer
    return out


@cache
def _weights() -> tuple[tuple[tuple[Floats, Floats], ...], Floats, float]:
    """Each layer's (9 x in, out) and (out,), and the head's."""
    with np.load(_WEIGHTS) as file:
        layers = tuple(
            (file[f"weight{number}"].astype(np.float32).reshape(-1, file[f"bias{number}"].size), file[f"bias{number}"])
            for number in range(10)
        )
        return layers, file["head"], float(file["head_bias"][0])


def _network(planes: Planes) -> Floats:
    """(H, W, 3), sides multiples of 16 -> (H / 4, W / 4)."""
    layers, head, head_bias = _weights()
    one, two, three, four, five, six, seven, eight, nine, ten = layers
    quarter = _conv(_conv(_pooled(_conv(_conv(_folded(planes), one), two)), three), four)
    eighth = _conv(_conv(_pooled(quarter), five), six)
    x = _conv(_conv(_pooled(eighth), seven), eight)
    x = _conv(np.concatenate((_larger(x), eighth), 2), nine)
    x = _conv(np.concatenate((_larger(x), quarter), 2), ten)
    logits = x @ head + head_bias
    if not np.isfinite(logits).all():
        raise ScanError("burned_in", "the network that looks for text gave no number for a part of this picture; look at it")
    chance: Floats = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
    return chance


def _folded(planes: Planes) -> Floats:
    """Two by two pixels become channels, in PyTorch's order (colour, row, column): (H, W, 3) -> (H / 2, W / 2, 12)."""
    rows, columns = planes.shape[0] // 2, planes.shape[1] // 2
    blocks = planes.reshape(rows, 2, columns, 2, 3).transpose(0, 2, 4, 1, 3).reshape(rows, columns, 12)
    return blocks.astype(np.float32) / np.float32(255) - np.float32(0.5)


def _conv(x: Floats, layer: tuple[Floats, Floats]) -> Floats:
    """A 3 x 3 convolution and max(0, .) of (H, W, C)."""
    weight, bias = layer
    rows, columns, channels = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1)).transpose(0, 1, 3, 4, 2)
    out: Floats = (windows.reshape(-1, 9 * channels) @ weight + bias).reshape(rows, columns, -1)
    return np.maximum(out, 0, out=out)


def _pooled(x: Floats) -> Floats:
    rows, columns, channels = x.shape
    out: Floats = x.reshape(rows // 2, 2, columns // 2, 2, channels).max((1, 3))
    return out


def _larger(x: Floats) -> Floats:
    return x.repeat(2, 0).repeat(2, 1)
