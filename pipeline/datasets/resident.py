"""Cases that lie on a device: a batch is gathered there in a handful of operations, however many samples it has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.datasets.augment import Plan
from pipeline.datasets.windows import Level, Source, Windows, gathered, torch_type


class DeviceStore:
    """A source of which some samples' planes lie on a device, all in two flat tensors: pixels, channel by channel, and labels, the
    field of view and then the mask's bytes, lowest first."""

    def __init__(self, store: Source, indices: Sequence[int], device: torch.device) -> None:
        self._store, self._device = store, device
        planes = [store.plane(index) for index in indices]
        kinds = {torch_type(plane.pixels.dtype) for plane in planes}
        kind = kinds.pop() if len(kinds) == 1 else torch.float32
        self._mask_type = None if planes[0].mask is None else torch_type(planes[0].mask.dtype)
        self._sizes = {index: plane.valid.shape for index, plane in zip(indices, planes, strict=True)}
        self._channels = {index: len(plane.pixels) for index, plane in zip(indices, planes, strict=True)}
        self._levels: dict[int, Level] = {index: (plane.offset, plane.scale) for index, plane in zip(indices, planes, strict=True)}
        # The bits of uint16, of which torch can do little, pass as int16.
        self._kind, stored = kind, torch.int16 if kind == torch.uint16 else kind
        pixels = [torch.from_numpy(np.array(plane.pixels)).to(kind).view(stored) for plane in planes]
        self._pixels, self._first_pixel = _flat(pixels, indices, device)
        self._labels, self._first_label = _flat([_label_planes(plane.valid, plane.mask) for plane in planes], indices, device)
        self._planes = 1 + (0 if self._mask_type is None else self._mask_type.itemsize)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def cut(self, wanted: Sequence[tuple[int, Plan]], slices: int | None = None, *, pinned: bool = False) -> Windows:
        """As windows.cut, and equal to it."""
        depth, channels = slices or 1, self._store.channels
        stacks = [list(self._store.block(index, depth)) for index, _ in wanted]
        sizes = [plan.canvas or plan.turn.size(*plan.region[2:]) for _, plan in wanted]
        rows, columns = max(size[0] for size in sizes), max(size[1] for size in sizes)
        # One transfer holds, for each plane: whether it is there, its size, the affine way from a place on the canvas to one on the plane,
        # the turned region's size, and where its pixels and labels begin.
        table = np.zeros((len(wanted), depth, _COLUMNS), dtype=np.int64)
        for entries, (_, plan), stack in zip(table, wanted, stacks, strict=True):
            way = _way(plan)
            for entry, index in zip(entries, stack, strict=False):
                h, w = self._sizes[index]
                entry[:] = (1, h, w, *way, self._first_pixel[index], self._first_label[index], h * w if self._channels[index] > 1 else 0)
        numbers = torch.from_numpy(table)
        if self._device.type == "cuda":
            numbers = numbers.pin_memory()
        columns_of = numbers.to(self._device, non_blocking=True).movedim(2, 0)[..., None, None].unbind(0)  # each (B, D, 1, 1)
        there, height, width, row0, row_down, row_across, column0, column_down, column_across = columns_of[:9]
        high, wide, pixel, label, step = columns_of[9:]
        down = torch.arange(rows, device=self._device)[:, None]
        across = torch.arange(columns, device=self._device)
        row = row0 + row_down * down + row_across * across
        column = column0 + column_down * down + column_across * across
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (down < high) & (across < wide) & (there > 0)
        place = torch.where(inside, row * width + column, 0)  # (B, D, rows, columns)
        channel = torch.arange(channels, device=self._device)[:, None, None, None]
        pixels = self._pixels[(place + pixel)[:, None] + step[:, None] * channel].mul_(inside[:, None]).view(self._kind)
        byte = torch.arange(self._planes, device=self._device)[:, None, None, None]
        labels = self._labels[(place + label)[:, None] + (height * width)[:, None] * byte]
        outside = torch.where(byte > 0, 0xFF, 0).to(torch.uint8)  # not valid, and all bytes of IGNORE
        labels = torch.where(inside[:, None], labels, outside)
        levels = [[self._levels[index] for index in stack] for stack in stacks]
        return gathered(self._store, wanted, slices, pixels, labels, levels, self._mask_type)


_COLUMNS = 14


def _way(plan: Plan) -> tuple[int, ...]:
    """How a place (i, j) of the turned region leads to one of the plane: row and column, each start + by i + by j; and the turned
    region's rows and columns."""
    top, left, rows, columns = plan.region
    high, wide = plan.turn.size(rows, columns)
    i = (high - 1, -1, 0) if plan.turn.upside_down else (0, 1, 0)
    j = (wide - 1, 0, -1) if plan.turn.mirrored else (0, 0, 1)
    row, column = (j, i) if plan.turn.transposed else (i, j)
    return (top + row[0], *row[1:], left + column[0], *column[1:], high, wide)


def _label_planes(valid: Any, mask: Any) -> Tensor:
    """uint8 (1 + M, h, w) of a plane's field of view and mask."""
    planes = [np.asarray(valid).astype(np.uint8)[None]]
    if mask is not None:
        stored = np.ascontiguousarray(mask)
        planes.append(np.moveaxis(stored.view(np.uint8).reshape(*stored.shape, -1), -1, 0))
    return torch.from_numpy(np.concatenate(planes))


def _flat(planes: Sequence[Tensor], indices: Sequence[int], device: torch.device) -> tuple[Tensor, dict[int, int]]:
    """All planes behind each other on the device, and where each begins."""
    starts = accumulate((plane.numel() for plane in planes[:-1]), initial=0)
    return torch.cat([plane.flatten() for plane in planes]).to(device), dict(zip(indices, starts, strict=True))
