"""Samples of tests: a simple reference that moves one sample at a time, and the way of one through the product's own parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.cards.objects import MIN_FRACTION_LEFT, Objects
from pipeline.datasets.augment import Augment, AugmentConfig, Plan
from pipeline.datasets.geometric import Turn, boxes_of
from pipeline.datasets.store import CaseStore
from pipeline.datasets.transform import to_batch
from pipeline.datasets.windows import StoredPlane, Windows, cut
from pipeline.types import IGNORE, Batch, CaseKey, Placement, Target

KEY = CaseKey("a", "R", "0", "x")


@dataclass(frozen=True, eq=False)
class Sample:
    """``image`` float32 (C, [D,] H, W), ``valid`` bool ([D,] H, W) and its target."""

    image: Tensor
    valid: Tensor
    target: Target
    placement: Placement | None = None
    case: CaseKey = KEY

    @classmethod
    def of(cls, batch: Batch, place: int = 0) -> Sample:
        assert batch.targets is not None
        return cls(batch.images[place], batch.valid[place], batch.targets[place], batch.placements[place], batch.cases[place])


def sample(store: CaseStore, index: int) -> Sample:
    """The whole image in the working frame."""
    return window(store, index, (0, 0, *store.size(index)))


def volume(store: CaseStore, key: CaseKey) -> Sample:
    indices = store.indices([key])
    return window(store, indices[0], (0, 0, *store.size(indices[0])), len(indices))


def window(store: CaseStore, index: int, region: tuple[int, int, int, int], slices: int | None = None) -> Sample:
    plan = Plan(region, region[2:], whole=region == (0, 0, *store.size(index)))
    return Sample.of(to_batch(cut(store, [(index, plan)], slices)))


class Samples:
    """Samples as a source of windows; of a volume every slice is a plane of its own."""

    clamp = False

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.channels = samples[0].image.shape[0]

    def plane(self, index: int) -> StoredPlane:
        number, level = divmod(index, 1000)
        one = self.samples[number]
        deep = one.image.ndim == 4
        mask = one.target.mask
        flat = None if mask is None else (mask[level] if deep else mask).numpy().astype(np.int8)
        zeros, ones = np.zeros(self.channels, np.float32), np.ones(self.channels, np.float32)
        image, valid = (one.image[:, level], one.valid[level]) if deep else (one.image, one.valid)
        return StoredPlane(image.numpy(), valid.numpy(), flat, zeros, ones)

    def cut(self, wanted: Sequence[tuple[int, Plan]], slices: int | None = None, *, pinned: bool = False) -> Windows:
        return cut(self, wanted, slices, pinned=pinned)

    def block(self, index: int, slices: int) -> range:
        return range(index, index + slices)

    def proposals(self, index: int) -> None:
        """None were asked for."""

    def case_of(self, index: int) -> CaseKey:
        return self.samples[index // 1000].case

    def placement(self, index: int) -> Placement:
        return Placement.identity(*self.samples[index // 1000].image.shape[-2:])

    def grade(self, index: int, *, mirrored: bool = False) -> int | None:
        return None

    def working_objects(self, index: int) -> Objects | None:
        one = self.samples[index // 1000]
        target, plane = one.target, (int(one.image.shape[-2]), int(one.image.shape[-1]))
        if target.boxes is None or target.labels is None:
            return None
        objects = Objects(plane, target.boxes.numpy(), target.labels.numpy())
        if target.instance_masks is None:
            return objects
        places = objects.touched().tolist()
        masks = [mask[a:c, b:d].numpy() for mask, (a, b, c, d) in zip(target.instance_masks, places, strict=True)]
        return replace(objects, masks=masks)


def carry_out(augment: Augment, samples: Sequence[Sample], plans: Sequence[Plan]) -> Batch:
    """What plans make of samples of one size, as one batch."""
    slices = samples[0].image.shape[1] if samples[0].image.ndim == 4 else None
    wanted = [(1000 * number, plan) for number, plan in enumerate(plans)]
    return to_batch(cut(Samples(samples), wanted, slices), augment.config)


def augmented(augment: Augment, one: Sample, generator: torch.Generator) -> Sample:
    rows, columns = one.image.shape[-2:]
    augment.channels, augment.slices = one.image.shape[0], one.image.shape[1] if one.image.ndim == 4 else 1
    return Sample.of(carry_out(augment, [one], [augment.draw((rows, columns), generator)]))


def moved(one: Sample, region: tuple[int, int, int, int] | None = None, turn: Turn | None = None) -> Sample:
    """A region of a sample (the whole of it by default), turned."""
    place = region or (0, 0, int(one.image.shape[-2]), int(one.image.shape[-1]))
    turn = turn or Turn()
    return Sample.of(carry_out(Augment(AugmentConfig()), [one], [Plan(place, turn.size(*place[2:]), turn)]))


def reference_cut(one: Sample, top: int, left: int, rows: int, columns: int) -> Sample:
    """A window, pixel by pixel of index arrays; where it reaches past the edge, the image is 0, not valid, and its mask ignored."""
    height, width = one.image.shape[-2:]
    row, column = torch.arange(top, top + rows)[:, None], torch.arange(left, left + columns)
    there = (row >= 0) & (row < height) & (column >= 0) & (column < width)

    def pick(tensor: Tensor, fill: int) -> Tensor:
        found = tensor[..., row.clamp(0, height - 1), column.clamp(0, width - 1)]
        return torch.where(there, found, torch.tensor(fill, dtype=tensor.dtype))

    target, instances = one.target, None
    boxes, labels = target.boxes, target.labels
    if boxes is not None and labels is not None:
        whole = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        boxes = (boxes - torch.tensor([left, top, left, top])).clamp(min=0).minimum(torch.tensor([columns, rows, columns, rows]))
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        if target.instance_masks is not None:
            instances = pick(target.instance_masks, 0)
            whole, areas, boxes = target.instance_masks.sum(dim=(1, 2)), instances.sum(dim=(1, 2)), boxes_of(instances)
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1) & (areas >= MIN_FRACTION_LEFT * whole)
        boxes, labels, instances = boxes[kept], labels[kept], None if instances is None else instances[kept]
    mask = None if target.mask is None else pick(target.mask, IGNORE)
    placement = Placement.identity(rows, columns) if (top, left, rows, columns) != (0, 0, height, width) else one.placement
    return replace(
        one, placement=placement, image=pick(one.image, 0), valid=pick(one.valid, 0), target=Target(mask, boxes, labels, instances)
    )
