"""Cases that lie on a device: a batch is gathered there in a handful of operations, however many samples it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.datasets.augment import Plan
from pipeline.datasets.windows import Level, Source, Windows, gathered, one_mask_type, torch_type


@dataclass(frozen=True, eq=False)
class PlaneInfo:
    """What is known of a plane without its arrays; ``first_pixel`` and ``first_label`` are its places in the two flat tensors."""

    size: tuple[int, int]
    channels: int
    level: Level
    first_pixel: int
    first_label: int


@dataclass(frozen=True, eq=False)
class Layout:
    """How planes lie in two flat tensors: ``pixels`` numbers of one ``kind``, channel by channel, and ``labels`` bytes, the field of
    view and then the mask's bytes, lowest first. Of images of several kinds all become float32."""

    kind: torch.dtype
    mask_type: torch.dtype | None
    planes: Mapping[int, PlaneInfo]
    pixels: int
    labels: int

    @classmethod
    def of(cls, store: Source, indices: Sequence[int]) -> Layout:
        """Of these samples, which are looked at one by one: a set may hold more files than a process may have open."""
        planes: dict[int, PlaneInfo] = {}
        kinds, mask_kinds = set[torch.dtype](), set[Any]()
        pixels = labels = 0
        for index in indices:
            plane = store.plane(index)
            rows, columns = plane.valid.shape
            planes[index] = PlaneInfo((rows, columns), len(plane.pixels), (plane.offset, plane.scale), pixels, labels)
            kinds.add(torch_type(plane.pixels.dtype))
            mask_kinds.add(None if plane.mask is None else plane.mask.dtype)
            pixels += len(plane.pixels) * rows * columns
            labels += rows * columns * (1 if plane.mask is None else 1 + plane.mask.dtype.itemsize)
        return cls(kinds.pop() if len(kinds) == 1 else torch.float32, one_mask_type(mask_kinds), planes, pixels, labels)

    @property
    def nbytes(self) -> int:
        return self.pixels * self.kind.itemsize + self.labels


class DeviceStore:
    """A source of which some samples' planes lie on a device, as their layout says."""

    def __init__(self, store: Source, layout: Layout, device: torch.device) -> None:
        self._store, self._layout, self._device = store, layout, device
        # The bits of uint16, of which torch can do little, pass as int16.
        stored = torch.int16 if layout.kind == torch.uint16 else layout.kind
        self._pixels = torch.empty(layout.pixels, dtype=stored, device=device)
        self._labels = torch.empty(layout.labels, dtype=torch.uint8, device=device)
        # One plane after the other: neither memory nor open files for a second copy of the whole set.
        for index, info in layout.planes.items():
            plane = store.plane(index)
            _put(self._pixels, info.first_pixel, torch.from_numpy(np.array(plane.pixels)).to(layout.kind).view(stored))
            _put(self._labels, info.first_label, _label_planes(plane.valid, plane.mask))

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
                plane = self._layout.planes[index]
                h, w = plane.size
                entry[:] = (1, h, w, *way, plane.first_pixel, plane.first_label, h * w if plane.channels > 1 else 0)
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
        pixels = self._pixels[(place + pixel)[:, None] + step[:, None] * channel].mul_(inside[:, None]).view(self._layout.kind)
        mask_type = self._layout.mask_type
        byte = torch.arange(1 if mask_type is None else 1 + mask_type.itemsize, device=self._device)[:, None, None, None]
        labels = self._labels[(place + label)[:, None] + (height * width)[:, None] * byte]
        outside = torch.where(byte > 0, 0xFF, 0).to(torch.uint8)  # not valid, and all bytes of IGNORE
        labels = torch.where(inside[:, None], labels, outside)
        levels = [[self._layout.planes[index].level for index in stack] for stack in stacks]
        return gathered(self._store, wanted, slices, pixels, labels, levels, mask_type)


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


def _put(flat: Tensor, start: int, piece: Tensor) -> None:
    flat[start : start + piece.numel()].copy_(piece.flatten())
