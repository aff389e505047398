"""Windows of stored images, cut and turned but otherwise as stored: what travels to the device, in few tensors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.cards.objects import Objects
from pipeline.datasets.augment import Numbers, Plan
from pipeline.datasets.geometric import clipped_boxes, remains, warp_boxes
from pipeline.types import CaseKey, Placement

_EIGHT = 8
Level = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Offset and scale of a plane, float32 (C) each."""


@dataclass(frozen=True, eq=False)
class StoredPlane:
    """One picture or slice in the working frame: ``pixels`` (C, h, w), ``valid`` bool (h, w) and ``mask`` int (h, w) or None, all
    arrays; ``offset`` and ``scale`` float32 (C), as in :class:`normalise.CompactImage`. A sample with objects has no mask."""

    pixels: Any
    valid: Any
    mask: Any
    offset: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]


class Source(Protocol):
    """What windows are cut from (store.CaseStore, resident.DeviceStore)."""

    @property
    def channels(self) -> int: ...
    @property
    def clamp(self) -> bool: ...
    def plane(self, index: int) -> StoredPlane: ...
    def cut(self, wanted: Sequence[tuple[int, Plan]], slices: int | None = None, *, pinned: bool = False) -> Windows: ...
    def case_of(self, index: int) -> CaseKey: ...
    def block(self, index: int, slices: int) -> Sequence[int]: ...
    def placement(self, index: int) -> Placement: ...
    def working_objects(self, index: int) -> Objects | None: ...
    def grade(self, index: int, *, mirrored: bool = False) -> int | None: ...
    def proposals(self, index: int) -> Objects | None: ...


@dataclass(frozen=True, eq=False)
class Windows:
    """Regions of B samples on one canvas of (R, Q) pixels, each in its upper left corner.

    ``pixels`` (B, C, D, R, Q) as stored, D slices (1 of pictures) · ``labels`` uint8 (B, 1 + M, D, R, Q): valid, and the M bytes of the
    mask, lowest first · ``numbers`` float32 (B, N): all small numbers, laid out as ``layout`` (name, shape) says · ``size`` (rows, columns)
    of the results. Around a region pixels are 0 and not valid, and the mask is IGNORE.

    ``found``: the objects of all samples, ``proposed``: their proposals, None where none were asked for. ``mask_type``: of the mask's
    bytes, None without masks.
    ``grades``: of each picture as a whole, after its turn. ``seeds``: of each plan.
    """

    pixels: Tensor
    labels: Tensor
    numbers: Tensor
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    size: tuple[int, int]
    clamp: bool
    volumes: bool
    mask_type: torch.dtype | None
    cases: tuple[CaseKey, ...]
    placements: tuple[Placement, ...]
    found: FoundObjects | None = None
    grades: tuple[int | None, ...] = ()
    proposed: FoundObjects | None = None
    seeds: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def canvas(self) -> tuple[int, int]:
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def named(self) -> dict[str, Tensor]:
        """Each of the small numbers, (B, *shape)."""
        parts = self.numbers.split([int(np.prod(shape)) for _, shape in self.layout], dim=1)
        return {name: part.view(len(self), *shape) for (name, shape), part in zip(self.layout, parts, strict=True)}

    def to(self, device: torch.device) -> Windows:
        """The same on a device, by way of page-locked memory where that is a GPU."""

        def move(tensor: Tensor) -> Tensor:
            if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True)

        found, proposed = (None if objects is None else objects.to(move) for objects in (self.found, self.proposed))
        pixels, labels, numbers = move(self.pixels), move(self.labels), move(self.numbers)
        return replace(self, pixels=pixels, labels=labels, numbers=numbers, found=found, proposed=proposed)


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """The objects of B samples, one after the other: ``boxes`` float32 (N, 4), ``labels`` int64 (N), ``counts`` of each sample.

    ``bits`` uint8 (B, P, R, Q), or None without instance masks: mask n of a sample is bit n % 8 of plane n // 8. Where a warp is yet
    to move them, boxes are of the canvas, and ``areas`` float32 (N), on the CPU, are what the moved masks would have uncut.
    """

    boxes: Tensor
    labels: Tensor
    counts: tuple[int, ...]
    areas: Tensor
    bits: Tensor | None = None

    def to(self, move: Any) -> FoundObjects:
        bits = None if self.bits is None else move(self.bits)
        return replace(self, boxes=move(self.boxes), labels=move(self.labels), bits=bits)


def cut(source: Source, wanted: Sequence[tuple[int, Plan]], slices: int | None = None, *, pinned: bool = False) -> Windows:
    """The regions that plans ask for of samples by their index; ``slices`` of each, from that one on, make a volume.

    All results are of one size. ``pinned``: in page-locked memory, from which a GPU copies beside its work.
    """
    plans = [plan for _, plan in wanted]
    stacks = [[source.plane(place) for place in source.block(index, slices or 1)] for index, _ in wanted]
    depth = slices or 1
    sizes = [plan.canvas or plan.turn.size(*plan.region[2:]) for plan in plans]
    canvas = max(rows for rows, _ in sizes), max(columns for _, columns in sizes)
    kinds = {torch_type(stack[0].pixels.dtype) for stack in stacks}
    mask_type = one_mask_type({None if plane.mask is None else plane.mask.dtype for stack in stacks for plane in stack})
    pixels = torch.empty(
        len(plans), source.channels, depth, *canvas, dtype=kinds.pop() if len(kinds) == 1 else torch.float32, pin_memory=pinned
    )
    planes = 1 + (0 if mask_type is None else mask_type.itemsize)
    labels = torch.empty(len(plans), planes, depth, *canvas, dtype=torch.uint8, pin_memory=pinned)
    # Arrays are copied by numpy, which turns them on the way.
    pixels_to, labels_to = pixels.numpy(), labels.numpy()
    for slot, (plan, stack) in enumerate(zip(plans, stacks, strict=True)):
        for level in range(depth):
            _paste(pixels_to[slot, :, level], labels_to[slot, :, level], stack[level] if level < len(stack) else None, plan)
    levels = [[(plane.offset, plane.scale) for plane in stack] for stack in stacks]
    return gathered(source, wanted, slices, pixels, labels, levels, mask_type)


def gathered(
    source: Source,
    wanted: Sequence[tuple[int, Plan]],
    slices: int | None,
    pixels: Tensor,
    labels: Tensor,
    levels: Sequence[Sequence[Level]],
    mask_type: torch.dtype | None,
) -> Windows:
    """Windows of pixels and labels that are cut already, with all that goes with them; ``levels`` of each sample's slices."""
    plans = [plan for _, plan in wanted]
    named = _numbers(plans, levels, source.channels, slices or 1)
    layout = tuple((name, number.shape[1:]) for name, number in named.items())
    numbers = torch.from_numpy(np.concatenate([number.reshape(len(plans), -1) for number in named.values()], axis=1))
    itself = {plan.size: Placement.identity(*plan.size) for plan in plans}
    placements = tuple(source.placement(index) if plan.whole else itself[plan.size] for index, plan in wanted)
    cases = tuple(source.case_of(index) for index, _ in wanted)
    canvas = int(pixels.shape[-2]), int(pixels.shape[-1])
    found = proposed = None
    if slices is None:
        found = _objects([source.working_objects(index) for index, _ in wanted], plans, canvas)
        proposed = _objects([source.proposals(index) for index, _ in wanted], plans, canvas)
    grades = tuple(source.grade(index, mirrored=plan.turn.mirrored) for index, plan in wanted)
    volumes, size = slices is not None, plans[0].size
    seeds = tuple(plan.seed for plan in plans)
    return Windows(
        pixels, labels, numbers, layout, size, source.clamp, volumes, mask_type, cases, placements, found, grades, proposed, seeds
    )


def torch_type(kind: Any) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype=kind)).dtype


def one_mask_type(kinds: Collection[Any]) -> torch.dtype | None:
    """The type of the masks of all samples, of which ``kinds`` are the array types, None standing for a sample without a mask.

    Raises
    ------
    ValueError: there is more than one; what lies under a mask that is not there is unknown, too.
    """
    if len(kinds) > 1:
        raise ValueError("samples with a mask and without one, or with masks of several types, cannot be cut together")
    (kind,) = kinds
    return None if kind is None else torch_type(kind)


def _paste(pixels: Any, labels: Any, plane: StoredPlane | None, plan: Plan) -> None:
    """Copy the region of ``plan``, turned, to the upper left of a canvas: ``pixels`` (C, R, Q), ``labels`` (1 + M, R, Q)."""
    top, left, rows, columns = plan.region
    height, width = (0, 0) if plane is None else plane.valid.shape
    first, last = max(top, 0), max(min(top + rows, height), max(top, 0))
    start, stop = max(left, 0), max(min(left + columns, width), max(left, 0))
    place = np.array([[start - left, first - top, stop - left, last - top]])
    x1, y1, x2, y2 = plan.turn.boxes(place, rows, columns)[0].tolist()
    if plane is None or (y1, x1, y2, x2) != (0, 0, *pixels.shape[1:]):
        pixels[:], labels[:1], labels[1:] = 0, 0, 0xFF  # all bytes of IGNORE
    if plane is None or first == last or start == stop:
        return
    inside = (Ellipsis, slice(first, last), slice(start, stop))
    pixels[:, y1:y2, x1:x2] = plan.turn.array(plane.pixels[inside])
    labels[0, y1:y2, x1:x2] = plan.turn.array(plane.valid[inside])
    if plane.mask is not None:
        wide = len(labels) - 1
        as_bytes = plane.mask[inside].view(np.uint8)
        for byte in range(wide):
            labels[1 + byte, y1:y2, x1:x2] = plan.turn.array(as_bytes[..., byte::wide])


def _numbers(plans: Sequence[Plan], stacks: Sequence[Sequence[Level]], channels: int, depth: int) -> Numbers:
    """What samples need on the device beside pixels, (B, ...) each; grey images count as colour ones, and slices behind the last as it."""
    levels = np.empty((2, len(plans), channels, depth), dtype=np.float32)
    for sample, stack in enumerate(stacks):
        for level in range(depth):
            levels[0, sample, :, level], levels[1, sample, :, level] = stack[min(level, len(stack) - 1)]
    sizes = [plan.turn.size(*plan.region[2:]) for plan in plans]
    middle = np.array([(columns / 2, rows / 2) for rows, columns in sizes], dtype=np.float32)
    drawn = {name: np.stack([plan.numbers[name] for plan in plans]) for name in plans[0].numbers}
    return {"offset": levels[0], "scale": levels[1], "middle": middle, **drawn}


def _objects(every: Sequence[Objects | None], plans: Sequence[Plan], canvas: tuple[int, int]) -> FoundObjects | None:
    """All samples' objects: moved to the end where they are boxes alone, else with the bits of their masks; None where one has none."""
    regions: list[Objects] = []
    for objects, plan in zip(every, plans, strict=True):
        if objects is None:
            return None
        regions.append(objects if plan.region == (0, 0, *objects.plane) else objects.window(*plan.region))
    with_masks = all(objects.masks is not None for objects in regions)
    moved = [_moved(objects, plan, with_masks) for objects, plan in zip(regions, plans, strict=True)]
    boxes, labels, areas = (torch.cat(parts) for parts in zip(*moved, strict=True))
    bits = _bits(regions, plans, canvas) if with_masks else None
    return FoundObjects(boxes, labels, tuple(len(box) for box, _, _ in moved), areas, bits)


def _moved(objects: Objects, plan: Plan, with_masks: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, labels and areas of one sample's region, as :class:`FoundObjects` has them."""
    boxes = torch.from_numpy(plan.turn.boxes(objects.boxes, *objects.plane))
    labels, areas = torch.from_numpy(objects.labels), torch.zeros(len(objects))
    if plan.matrix is None:
        return boxes, labels, areas
    if with_masks:
        a, b, c, d = plan.matrix
        return boxes, labels, torch.tensor([float(mask.sum()) for mask in objects.masks or ()]) / (a * d - b * c)
    control = torch.from_numpy(plan.numbers["control"]) if "control" in plan.numbers else None
    uncut = warp_boxes(boxes, plan.matrix, plan.turn.size(*objects.plane), control, plan.size)
    boxes = clipped_boxes(uncut, plan.size)
    left = remains(boxes, _sides(boxes), _sides(uncut))
    return boxes[left], labels[left], areas[left]


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def _bits(regions: Sequence[Objects], plans: Sequence[Plan], canvas: tuple[int, int]) -> Tensor:
    """Instance masks on the turned canvas, eight in a plane."""
    most = max(map(len, regions))
    bits = np.zeros((len(regions), -(-most // _EIGHT), *canvas), dtype=np.uint8)
    for planes, objects, plan in zip(bits, regions, plans, strict=True):
        places = plan.turn.boxes(objects.touched()[:, [1, 0, 3, 2]], *objects.plane)
        for number, ((x1, y1, x2, y2), mask) in enumerate(zip(places, objects.masks or (), strict=True)):
            planes[number // _EIGHT, y1:y2, x1:x2] |= plan.turn.array(mask).astype(np.uint8) << (number % _EIGHT)
    return torch.from_numpy(bits)
