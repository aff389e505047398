"""Cases that lie on a device: a batch is gathered there in a handful of operations, however many samples it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
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
    """How planes lie in two flat tensors, behind what stands for places outside: ``pixels`` numbers of one ``kind``, channel by channel,
    and ``labels`` bytes, the field of view and then the mask's bytes, lowest first. Of images of several kinds all become float32."""

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
        pixels, labels = 1, 2  # the first entries stand for what is outside
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
        self._bytes = 1 if layout.mask_type is None else 1 + layout.mask_type.itemsize
        self._pixels[:1], self._labels[:1], self._labels[1:2] = 0, 0, 0xFF  # not valid, and all bytes of IGNORE
        self._outside = torch.tensor([0] + [1] * (self._bytes - 1), device=device)[:, None, None, None]
        # One plane after the other: neither memory nor open files for a second copy of the whole set.
        for index, info in layout.planes.items():
            plane = store.plane(index)
            _put(self._pixels, info.first_pixel, torch.from_numpy(np.array(plane.pixels)).to(layout.kind).view(stored))
            _put(self._labels, info.first_label, _label_planes(plane.valid, plane.mask))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def cut(self, wanted: Sequence[tuple[int, Plan]], slices: int | None = None, *, pinned: bool = False) -> Windows:
        """As windows.cut, and equal to it."""
        depth = slices or 1
        stacks = [list(self._store.block(index, depth)) for index, _ in wanted]
        sizes = [plan.canvas or plan.turn.size(*plan.region[2:]) for _, plan in wanted]
        canvas = max(size[0] for size in sizes), max(size[1] for size in sizes)
        ways = np.zeros((len(wanted), depth, _COLUMNS), dtype=np.int64)
        for own, (_, plan), stack in zip(ways, wanted, stacks, strict=True):
            for way, index in zip(own, stack, strict=False):
                way[:] = _way(plan, self._layout.planes[index])
        pixels, labels = self._gather(ways, canvas)
        levels = [[self._layout.planes[index].level for index in stack] for stack in stacks]
        return gathered(self._store, wanted, slices, pixels, labels, levels, self._layout.mask_type)

    def _gather(self, ways: npt.NDArray[np.int64], canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pixels (B, C, D, R, Q) and labels (B, 1 + M, D, R, Q) of canvases.

        A place on a canvas is the sum of where its row and its column lie in the flat tensors, so that one addition of two short tensors
        says where all of them lie. What is outside becomes less than 0, for which the first entries of the flat tensors stand.
        """
        first_pixel, first_label, plane, step = np.moveaxis(ways[..., :4], 2, 0)[..., None]  # each (B, D, 1)
        rows, columns = (_places(ways[..., first : first + 5], length) for first, length in zip((4, 9), canvas, strict=True))
        channel = np.arange(self._store.channels)[:, None, None]
        byte = np.arange(self._bytes)[:, None, None]
        tables = (first_pixel + rows)[:, None] + step[:, None] * channel, (first_label + rows)[:, None] + plane[:, None] * byte, columns
        flat = torch.from_numpy(np.concatenate([table.ravel() for table in tables]))
        if self._device.type == "cuda":
            flat = flat.pin_memory()
        parts = flat.to(self._device, non_blocking=True).split([table.size for table in tables])
        of_pixels, of_labels, of_columns = (part.view(table.shape) for part, table in zip(parts, tables, strict=True))
        across = of_columns[:, None, :, None, :]
        pixels = torch.take(self._pixels, (of_pixels[..., None] + across).clamp_(min=0))
        labels = torch.take(self._labels, torch.maximum(of_labels[..., None] + across, self._outside))
        return pixels.view(self._layout.kind), labels


_FAR = -(2**60)
_COLUMNS = 14


def _way(plan: Plan, plane: PlaneInfo) -> tuple[int, ...]:
    """Where a plane's pixels and its labels begin, how far those of one kind are apart, and of rows and of columns on the canvas:
    the row (column) of the plane that the first one shows, the step to the next one's, how many the plane has, how far they are apart,
    and how many the turned region has."""
    (top, left, rows, columns), (height, width), turn = plan.region, plane.size, plan.turn
    high, wide = turn.size(rows, columns)
    down, across = (top, height, width), (left, width, 1)
    if turn.transposed:
        down, across = across, down
    axes = []
    for (start, count, apart), length, reversed_ in ((down, high, turn.upside_down), (across, wide, turn.mirrored)):
        axes += [start + length - 1 if reversed_ else start, -1 if reversed_ else 1, count, apart, length]
    return plane.first_pixel, plane.first_label, height * width, height * width if plane.channels > 1 else 0, *axes


def _places(way: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """How far behind its first entry a plane has what each of ``length`` rows (columns) of the canvas shows: (B, D, ``length``), far below
    0 for those beside the plane or the region."""
    start, step, count, apart, there = np.moveaxis(way, 2, 0)[..., None]
    number = np.arange(length)
    place = start + step * number
    return np.where((place >= 0) & (place < count) & (number < there), place * apart, _FAR)


def _label_planes(valid: Any, mask: Any) -> Tensor:
    """uint8 (1 + M, h, w) of a plane's field of view and mask."""
    planes = [np.asarray(valid).astype(np.uint8)[None]]
    if mask is not None:
        stored = np.ascontiguousarray(mask)
        planes.append(np.moveaxis(stored.view(np.uint8).reshape(*stored.shape, -1), -1, 0))
    return torch.from_numpy(np.concatenate(planes))


def _put(flat: Tensor, start: int, piece: Tensor) -> None:
    flat[start : start + piece.numel()].copy_(piece.flatten())
