"""The objects of one image: boxes and labels, and, where pixels are known, each object's mask cut to its box.

A photograph of 12 megapixels with a hundred lesions would need a gigabyte of whole masks; cut to their boxes they need less than
the photograph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import CardError
from pipeline.types import LabelMap, OnDisk, Placement, Target

Boxes = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MIN_FRACTION_LEFT = 0.15
"""A crop drops an object of which it keeps less than this fraction: the sliver does not look like its class, and a loss for missing it,
or a reward for finding it, would teach the crop's edge. A round lesion cut to this fraction is a cap a fifth of its diameter high."""

_REACH = 0.01
"""Boxes may reach past the image by this fraction of its side (annotation tools round and let the mouse slip), and are clipped."""


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects in a frame of ``plane`` (rows, columns); N may be 0.

    ``boxes`` float32 (N, 4) xyxy pixels, half open · ``labels`` int64 (N), 1..K · ``masks``: N bool arrays over the pixels that each
    box touches (:meth:`touched`), or None if only boxes are known.
    """

    plane: tuple[int, int]
    boxes: Boxes
    labels: npt.NDArray[np.int64]
    masks: Sequence[Mask] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def make(cls, plane: tuple[int, int], boxes: Iterable[Any], labels: Iterable[int], masks: Sequence[Mask] | None = None) -> Objects:
        with np.errstate(over="ignore"):  # a number too large is infinite, which checked() refuses
            array = np.array(list(boxes), dtype=np.float32).reshape(-1, 4)
        return cls(plane, array, np.array(list(labels), dtype=np.int64), masks)

    @classmethod
    def join(cls, plane: tuple[int, int], parts: Sequence[Objects]) -> Objects:
        """Concatenated; with masks only if all parts have them."""
        if not parts:
            return cls.make(plane, [], [], ())
        known = [part.masks for part in parts if part.masks is not None]
        masks = [mask for part in known for mask in part] if len(known) == len(parts) else None
        return cls(plane, np.concatenate([p.boxes for p in parts]), np.concatenate([p.labels for p in parts]), masks)

    def touched(self) -> npt.NDArray[np.int64]:
        """(N, 4): top, left, bottom, right of the pixels that each box touches, half open."""
        rows, columns = self.plane
        x1, y1, x2, y2 = self.boxes.T
        edges = [np.floor(y1).clip(0), np.floor(x1).clip(0), np.ceil(y2).clip(max=rows), np.ceil(x2).clip(max=columns)]
        return np.stack(edges, axis=1).astype(np.int64)

    def checked(self, called: Sequence[str] = ()) -> Objects:
        """The same, with boxes clipped to the image.

        Parameters
        ----------
        called: name of each box in error messages, such as "line 3"; by default "box 1", "box 2", ...

        Raises
        ------
        CardError: a box that is not finite, has no area, or lies outside the image.
        """
        rows, columns = self.plane
        limit = np.array([columns, rows, columns, rows], dtype=np.float32)
        reach = np.maximum(1, _REACH * limit)
        for index, box in enumerate(self.boxes):
            name = called[index] if called else f"box {index + 1}"
            shown = f"{name} ({', '.join(f'{edge:g}' for edge in box)})"
            if not np.isfinite(box).all():
                raise CardError(f"{shown} is not finite; correct its label")
            if (box < -reach).any() or (box > limit + reach).any():
                raise CardError(f"{shown} reaches outside its image of {columns} x {rows} pixels; correct its label")
            inside = box.clip(0, limit)
            if inside[2] <= inside[0] or inside[3] <= inside[1]:
                raise CardError(f"{shown} has no area; correct its label")
        return replace(self, boxes=self.boxes.clip(0, limit))

    def distinct(self) -> Objects:
        """The same without exact repetitions of an earlier object (label, box and mask)."""
        seen: set[tuple[int, bytes, bytes]] = set()
        kept = []
        for index, (label, box) in enumerate(zip(self.labels.tolist(), self.boxes, strict=True)):
            one = (label, box.tobytes(), b"" if self.masks is None else np.packbits(self.masks[index]).tobytes())
            if one not in seen:
                seen.add(one)
                kept.append(index)
        return self if len(kept) == len(self) else self._taken(kept)

    def _taken(self, kept: Sequence[int]) -> Objects:
        masks = None if self.masks is None else [self.masks[index] for index in kept]
        return replace(self, boxes=self.boxes[list(kept)], labels=self.labels[list(kept)], masks=masks)

    def with_ellipses(self, scale: float = 1.0) -> Objects:
        """The same with masks; if only boxes are known, each mask is the ellipse inscribed in the box, its axes times ``scale`` (at least
        its middle pixel).

        A weak label: on Drishti-GS (50 images) it has Dice .984 with the experts' disc (worst .957) and .975 with their cup; for lesions
        of any shape it is a guess.
        """
        if self.masks is not None:
            return self
        masks = []
        for (x1, y1, x2, y2), (top, left, bottom, right) in zip(self.boxes.astype(np.float64), self.touched(), strict=True):
            y = (np.arange(top, bottom) + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2)
            x = (np.arange(left, right) + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2)
            mask = y[:, None] ** 2 + x[None] ** 2 <= scale**2
            mask[min(int((y1 + y2) / 2), bottom - 1) - top, min(int((x1 + x2) / 2), right - 1) - left] = True
            masks.append(mask)
        return replace(self, masks=masks)

    def renumbered(self, numbers: npt.NDArray[np.int64]) -> Objects:
        """With labels ``numbers[label]``; objects for which that is 0 are removed."""
        renumbered = replace(self, labels=numbers[self.labels])
        return renumbered._taken(np.flatnonzero(renumbered.labels).tolist())

    def codes(self, label_map: LabelMap) -> npt.NDArray[np.int64]:
        """The union of the masks as a semantic mask int64 (H, W); for exclusive classes a later object overrides an earlier one."""
        assert self.masks is not None
        out = np.zeros(self.plane, dtype=np.int64)
        for (top, left, bottom, right), label, mask in zip(self.touched(), self.labels.tolist(), self.masks, strict=True):
            place = out[top:bottom, left:right]
            if label_map.overlapping:
                place[mask] |= 1 << (label - 1)
            else:
                place[mask] = label
        return out

    def target(self, mask: npt.NDArray[Any] | None = None) -> Target:
        """As a Target, with ``mask`` (H, W) as its semantic mask."""
        import torch

        instances = None
        if self.masks is not None:
            whole = np.zeros((len(self), *self.plane), dtype=bool)
            for place, (top, left, bottom, right), piece in zip(whole, self.touched(), self.masks, strict=True):
                place[top:bottom, left:right] = piece
            instances = torch.from_numpy(whole)
        return Target(
            mask=None if mask is None else torch.from_numpy(np.array(mask, dtype=np.int64)),
            boxes=torch.from_numpy(self.boxes.copy()),
            labels=torch.from_numpy(self.labels.copy()),
            instance_masks=instances,
        )

    def to_working(self, placement: Placement) -> Objects:
        """In the working frame: masks are resized as by :func:`normalise.to_working`, and boxes fit their masks.

        Objects that shrink to less than a pixel, or lose all pixels of their mask, are removed.
        """
        import torch

        boxes = placement.boxes_to_net(torch.from_numpy(self.boxes)).numpy()
        if self.masks is None:
            kept = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1) if placement.resized != placement.source else np.ones(len(self), bool)
            return Objects(placement.net, boxes[kept], self.labels[kept])
        taken = [_nearest(placement.source[axis], placement.resized[axis]) for axis in (0, 1)]
        pieces = []
        for (top, left, bottom, right), mask in zip(self.touched(), self.masks, strict=True):
            first, last = np.searchsorted(taken[0], [top, bottom])
            start, stop = np.searchsorted(taken[1], [left, right])
            piece = mask[np.ix_(taken[0][first:last] - top, taken[1][start:stop] - left)]
            pieces.append((int(first) + placement.pad[0], int(start) + placement.pad[1], piece))
        return fitted(placement.net, pieces, self.labels)

    def window(self, top: int, left: int, rows: int, columns: int) -> Objects:
        """Cut to a window; what keeps less than ``MIN_FRACTION_LEFT`` is dropped."""
        offset = np.array([left, top, left, top], dtype=np.float32)
        boxes = (self.boxes - offset).clip(0, np.array([columns, rows, columns, rows], dtype=np.float32))
        sides = boxes[:, 2:] - boxes[:, :2]
        if self.masks is None:
            whole = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
            kept = (sides >= 1).all(axis=1) & (sides.prod(axis=1) >= MIN_FRACTION_LEFT * whole)
            return Objects((rows, columns), boxes[kept], self.labels[kept])
        pieces, labels = [], []
        touched = self.touched()
        for index in np.flatnonzero((sides > 0).all(axis=1)).tolist():
            mask, (up, start, _, _) = self.masks[index], touched[index].tolist()
            piece = mask[max(top - up, 0) : max(top + rows - up, 0), max(left - start, 0) : max(left + columns - start, 0)]
            if piece.sum() >= MIN_FRACTION_LEFT * mask.sum():
                pieces.append((max(up - top, 0), max(start - left, 0), piece))
                labels.append(int(self.labels[index]))
        return fitted((rows, columns), pieces, labels)


def fitted(plane: tuple[int, int], pieces: Sequence[tuple[int, int, Mask]], labels: Sequence[int] | npt.NDArray[np.int64]) -> Objects:
    """Objects from (top, left, mask), boxes and masks cut to their extent; empty masks give no object."""
    boxes, masks, kept = [], [], []
    for (top, left, mask), label in zip(pieces, labels, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            boxes.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
            masks.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
            kept.append(int(label))
    return Objects.make(plane, boxes, kept, masks)


@dataclass(frozen=True, eq=False)
class PackedObjects:
    """The objects of all slices of a case in a few arrays, masks as bits: the form kept in memory or on disk.

    ``boxes`` (M, 4), ``labels`` (M), ``slices`` int32 (M) · ``starts`` int64 (M): first byte of each mask in ``bits``, or None.
    """

    boxes: Boxes
    labels: npt.NDArray[np.int64]
    slices: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64] | None = None
    bits: npt.NDArray[np.uint8] | OnDisk | None = None

    @classmethod
    def pack(cls, slices: Sequence[Objects]) -> PackedObjects:
        boxes, labels = (np.concatenate([getattr(objects, name) for objects in slices]) for name in ("boxes", "labels"))
        where = np.repeat(np.arange(len(slices), dtype=np.int32), [len(objects) for objects in slices])
        if any(objects.masks is None for objects in slices):
            return cls(boxes, labels, where)
        packed = [np.packbits(mask) for objects in slices for mask in objects.masks or ()]
        starts = np.cumsum([0, *map(len, packed)], dtype=np.int64)[: len(packed)]
        # Never empty: an empty file cannot be mapped.
        return cls(boxes, labels, where, starts, np.concatenate([*packed, np.zeros(1, np.uint8)]))

    def unpack(self, index: int, plane: tuple[int, int]) -> Objects:
        """The objects of slice ``index``; masks are unpacked on demand."""
        mine = self.slices == index
        objects = Objects(plane, self.boxes[mine], self.labels[mine])
        if self.starts is None or self.bits is None:
            return objects
        touched = objects.touched()
        return replace(objects, masks=_Unpacked(touched[:, 2:] - touched[:, :2], self.starts[mine], self.bits))


class _Unpacked(Sequence[Mask]):
    def __init__(self, shapes: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], bits: npt.NDArray[np.uint8] | OnDisk) -> None:
        self._shapes, self._starts, self._bits = shapes, starts, bits

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        rows, columns = self._shapes[index].tolist()
        start, pixels = int(self._starts[index]), rows * columns
        return np.unpackbits(self._bits[start : start + (pixels + 7) // 8], count=pixels).reshape(rows, columns).astype(bool)


def _nearest(stored: int, resized: int) -> npt.NDArray[np.int64]:
    """The source row (column) of each resized one, by the same kernel that resizes masks."""
    import torch

    places = torch.arange(stored, dtype=torch.float64).view(1, 1, stored, 1)
    return torch.nn.functional.interpolate(places, size=(resized, 1), mode="nearest-exact").long().flatten().numpy()
