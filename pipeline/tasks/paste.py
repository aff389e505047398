"""From a mask on a small grid over its box to pixels of the source image, at its own resolution."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

MASK_THRESHOLD = 0.5
"""A pixel belongs to an object where its mask's probability is at least this (He et al. 2017, arXiv:1703.06870, section 3)."""


class _Limits(NamedTuple):
    """Of windows that are resampled together: their pixels (some 16 bytes each), padding included, and how many times those that are
    asked for they may be."""

    pixels: int
    padding: float


_CPU = _Limits(2**20, 1.5)
_GPU = _Limits(2**22, 8.0)  # where a launch costs more than pixels that nobody asked for


@dataclass(frozen=True)
class _Window:
    """Pixels of an object: where they lie, and which row of the boxes and masks shows them."""

    number: int
    row: int
    top: int
    left: int
    rows: int
    columns: int


def paste(objects: Sequence[Sequence[int]], boxes: Tensor, masks: Tensor, size: tuple[int, int], limits: Tensor) -> npt.NDArray[np.bool_]:
    """Masks bool (N, H, W) of N objects in an image of ``size`` (H, W).

    Parameters
    ----------
    objects: of each object the rows of ``boxes`` and ``masks`` that show it; an object is where any of them is.
    boxes: float32 (P, 4) xyxy in source pixels, on the CPU; they may reach past the image, what lies outside is left out.
    masks: float32 (P, M, M), probabilities on a grid over the box, on any device: they are resampled there, many objects at a time.
    limits: float32 (N, 4): the box of each object, beyond which nothing of it is drawn; on the CPU.

    A pixel whose centre lies in no box belongs to no object.
    """
    out = blank((len(objects), *size))
    most = _CPU if masks.device.type == "cpu" else _GPU
    for group in _together(_windows(objects, boxes.tolist(), size, limits.tolist(), most), most):
        rows = torch.tensor([window.row for window in group])
        corners = torch.tensor([(window.top, window.left) for window in group])
        extent = max(window.rows for window in group), max(window.columns for window in group)
        inside = probabilities(masks[rows.to(masks.device)], boxes[rows], corners, extent) >= MASK_THRESHOLD
        for window, pixels in zip(group, inside.cpu().numpy(), strict=True):
            there = slice(window.top, window.top + window.rows), slice(window.left, window.left + window.columns)
            out[window.number][there] |= pixels[: window.rows, : window.columns]
    return out


def probabilities(masks: Tensor, boxes: Tensor, corners: Tensor, extent: tuple[int, int]) -> Tensor:
    """Masks (N, M, M) over ``boxes`` (N, 4, xyxy, pixel areas half open) -> float32 (N, rows, columns) at the centres of the pixels of
    windows that begin at ``corners`` (N, 2: top, left) and are ``extent`` (rows, columns) large.

    Bilinear between the centres of the grid's cells; the outermost cells reach to the box's edge (torchvision lets them fade to 0 there,
    which takes the corners off a mask that fills its box).
    """
    table = torch.cat([boxes.float(), corners.float()], dim=1).to(masks.device)  # one transfer
    x1, y1, x2, y2, top, left = table[:, :, None].unbind(1)
    rows, columns = extent
    x = left + torch.arange(columns, device=masks.device) + 0.5
    y = top + torch.arange(rows, device=masks.device) + 0.5
    across, down = 2 * (x - x1) / (x2 - x1).clamp(min=1e-6) - 1, 2 * (y - y1) / (y2 - y1).clamp(min=1e-6) - 1
    shape = len(masks), rows, columns
    places = torch.stack([across[:, None].expand(shape), down[:, :, None].expand(shape)], dim=-1)
    return functional.grid_sample(masks[:, None].float(), places, padding_mode="border", align_corners=False)[:, 0]


def _windows(
    objects: Sequence[Sequence[int]],
    boxes: Sequence[Sequence[float]],
    size: tuple[int, int],
    limits: Sequence[Sequence[float]],
    most: _Limits,
) -> Iterator[_Window]:
    """What is to be drawn of all objects, in windows of at most ``most`` pixels or of one row."""
    for number, (rows, limit) in enumerate(zip(objects, limits, strict=True)):
        inner = _centres(limit, (0, 0, size[1], size[0]))
        for row in rows:
            left, top, right, bottom = _centres(boxes[row], inner)
            step = max(1, most.pixels // max(1, right - left))
            for start in range(top, bottom if right > left else top, step):
                yield _Window(number, row, start, left, min(step, bottom - start), right - left)


def _together(windows: Iterable[_Window], most: _Limits) -> Iterator[list[_Window]]:
    """Groups of windows of similar size: a device is asked once a group, not once an object."""
    group: list[_Window] = []
    held = rows = columns = 0
    for window in sorted(windows, key=lambda window: window.rows * window.columns):
        pixels = window.rows * window.columns
        padded = (len(group) + 1) * max(rows, window.rows) * max(columns, window.columns)
        if group and padded > min(most.pixels, most.padding * (held + pixels)):
            yield group
            group, held, rows, columns = [], 0, 0, 0
        group.append(window)
        held, rows, columns = held + pixels, max(rows, window.rows), max(columns, window.columns)
    if group:
        yield group


def blank(shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """All False, of memory that the system only gives out where something is written.

    A hundred masks of a photograph of 12 megapixels are 1.2 GB, of which the objects' boxes cover a few MB; numpy's own zeros
    may be old memory that has to be cleared, all of it.
    """
    if not math.prod(shape):
        return np.zeros(shape, dtype=np.bool_)
    # Private: pages that are only read stay the system's one page of zeros. Windows knows no such flags.
    private: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return np.frombuffer(mmap.mmap(-1, math.prod(shape), **private), dtype=np.bool_).reshape(shape)


def _centres(box: Sequence[float], within: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the pixels whose centres lie in a box, inside ``within``."""
    x1, y1, x2, y2 = (math.ceil(edge - 0.5) for edge in box)
    return max(x1, within[0]), max(y1, within[1]), min(x2, within[2]), min(y2, within[3])
