"""From stored cases to batches: a stream of samples that (seed, epoch, position) alone decides, whoever computes it."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from pipeline.cards.objects import Objects
from pipeline.datasets.augment import Augment, AugmentConfig, Plan
from pipeline.datasets.feed import NOT_THE_CASES, Failure, Feed, Job
from pipeline.datasets.store import CaseStore
from pipeline.datasets.transform import to_batch
from pipeline.errors import TrainingError
from pipeline.types import Batch, CaseKey

__all__ = ["CaseStore", "TrainingLoader", "evaluation_batches"]
# A crop with less of the field of view than this is drawn again, a few times.
_LEAST_VALID = 0.05
_DRAWS = 8


class SamplingConfig(Protocol):
    """The fields of ``config.DataConfig`` that say how samples are cut."""

    @property
    def crop(self) -> tuple[int, int] | None: ...
    @property
    def crops_per_image(self) -> int: ...
    @property
    def slices(self) -> int | None: ...
    @property
    def foreground_crops(self) -> float: ...
    @property
    def augment(self) -> AugmentConfig: ...
    @property
    def workers(self) -> int: ...
    @property
    def balance_classes(self) -> bool: ...


class TrainingLoader:
    """One epoch of training batches of ``batch_size`` for process ``rank`` of ``world``; may be iterated again, with the same result.

    The stream has ``crops_per_image`` crops of every sample in random order; the global batch number n holds positions
    n * B to (n + 1) * B - 1 with B = batch_size * world, and each process takes its part of it. The last global batch is filled
    up from the start of the order, so that all batches are full and nothing is left out. ``len()`` is the number of batches.

    With ``data.slices`` a crop is a block of that many neighbouring slices, which begins at random. A volume counts as many samples as
    such blocks cover it, so that an epoch shows about as many slices as without; one with fewer slices is padded behind.
    """

    def __init__(
        self,
        store: CaseStore,
        keys: Sequence[CaseKey],
        data: SamplingConfig,
        batch_size: int,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        indices = [index for key in keys for index in store.indices([key])[:: data.slices or 1]]
        if not indices:
            raise TrainingError("no case is left to train on; check the split")
        generator = _generator(seed, epoch, "order")
        if data.balance_classes:
            indices = _balanced({index: store.grade(index) for index in indices}, generator)
        order = torch.randperm(len(indices) * data.crops_per_image, generator=generator).tolist()
        self._indices = [indices[place % len(indices)] for place in order]
        self._store, self._data = store, data
        self._augment = Augment(data.augment, data.crop, store.card.modality, store.channels, data.slices or 1)
        self._keys, self._device = tuple(keys), torch.device(device)
        self._seed, self._epoch = seed, epoch
        self._batch_size, self._rank, self._world = batch_size, rank, world

    def __len__(self) -> int:
        return -(-len(self._indices) // (self._batch_size * self._world))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Batches from number ``first`` on."""
        feed = _feed(self._store, self._keys, self._device, min(self._data.workers, len(self)))
        jobs = (self._job(number) for number in range(first, len(self)))
        for item in feed.batches(jobs, lambda windows: to_batch(windows, self._data.augment)):
            if isinstance(item, Failure):
                raise TrainingError(f"case {item.case}: cannot be made into a training sample ({item.why})")
            yield item

    def _job(self, number: int) -> Job | Failure:
        """What is to be cut for batch ``number`` of this process, or what went wrong."""
        first = (number * self._world + self._rank) * self._batch_size
        samples = []
        for position in range(first, first + self._batch_size):
            index = self._indices[position % len(self._indices)]
            try:
                samples.append(self._draw(position, index))
            except NOT_THE_CASES:
                raise
            except Exception as error:  # whatever it is, the case must be named
                return Failure.of(self._store.case_of(index), error)
        return Job(tuple(samples), self._data.slices)

    def _draw(self, position: int, index: int) -> tuple[int, Plan]:
        """(sample index, plan) of a position of the stream."""
        generator = _generator(self._seed, self._epoch, position)
        store, size, slices = self._store, self._store.size(index), self._data.slices
        if slices is not None:
            index = self._first_slice(index, slices, generator)
        centre = None
        if float(torch.rand(1, generator=generator)) < self._data.foreground_crops:
            if slices is not None:
                index, labelled = self._labelled_block(index, slices, generator)
                centre = None if labelled is None else store.places.foreground_pixel(labelled, generator)
            else:
                objects = store.working_objects(index)
                centre = (
                    store.places.foreground_pixel(index, generator) if objects is None else self._near_an_object(objects, size, generator)
                )
        for _ in range(_DRAWS):
            plan = self._augment.draw(size, generator, centre)
            if centre is not None or store.places.valid_fraction(index, plan.region) >= _LEAST_VALID:
                break
        return index, replace(plan, seed=int(torch.randint(2**62, (1,), generator=generator)))

    def _first_slice(self, index: int, slices: int, generator: torch.Generator) -> int:
        """Where a block of the volume of ``index`` begins, each place as likely as the other."""
        there = self._store.indices([self._store.case_of(index)])
        return there[int(torch.randint(max(len(there) - slices, 0) + 1, (1,), generator=generator))]

    def _labelled_block(self, index: int, slices: int, generator: torch.Generator) -> tuple[int, int | None]:
        """(first slice of a block, a slice in it that has foreground), or ``index`` and None where the volume has none."""
        there = self._store.indices([self._store.case_of(index)])
        labelled = self._store.places.labelled(there)
        if not labelled:
            return index, None
        chosen = labelled[int(torch.randint(len(labelled), (1,), generator=generator))]
        first = chosen - int(torch.randint(slices, (1,), generator=generator))
        return max(min(first, there[-1] + 1 - slices), there[0]), chosen

    def _near_an_object(self, objects: Objects, size: tuple[int, int], generator: torch.Generator) -> tuple[int, int] | None:
        """The middle of an object, each as likely as the other however large, moved by up to a quarter of the crop: a network
        must not learn that what it looks for stands in the middle."""
        if not len(objects):
            return None
        x1, y1, x2, y2 = objects.boxes[int(torch.randint(len(objects), (1,), generator=generator))].tolist()
        rows, columns = self._data.crop or size
        aside = torch.rand(2, generator=generator, dtype=torch.float64) - 0.5
        row, column = (y1 + y2 + float(aside[0]) * rows) / 2, (x1 + x2 + float(aside[1]) * columns) / 2
        return min(max(int(row), 0), size[0] - 1), min(max(int(column), 0), size[1] - 1)


def _balanced(grades: Mapping[int, int | None], generator: torch.Generator) -> list[int]:
    """As many samples as there are, drawn so that each class is there equally often (one more of some where that does not divide): those of
    a rare class several times, those of a frequent one not all in one epoch."""
    by_class: dict[int | None, list[int]] = {}
    for index, grade in grades.items():
        by_class.setdefault(grade, []).append(index)
    chosen: list[int] = []
    for place, grade in enumerate(sorted(by_class, key=str)):
        own, wanted = by_class[grade], (len(grades) + place) // len(by_class)
        rounds = -(-wanted // len(own))
        chosen += [own[n] for _ in range(rounds) for n in torch.randperm(len(own), generator=generator).tolist()][:wanted]
    return chosen


def evaluation_batches(
    store: CaseStore, keys: Sequence[CaseKey], device: torch.device | str = "cpu", *, volumes: bool = False, pixels: int = 0
) -> Iterator[tuple[Batch, list[int]]]:
    """(batch of whole images in the working frame, their sample indices) for every sample of these cases, in their order.

    Pixels travel to ``device`` as stored and are normalised there, as in training. ``pixels``: neighbours of one size come together,
    so many pixels at most; 0: each image alone. ``volumes``: one batch a case instead, with the volume of all its slices and their
    sample indices.

    Raises
    ------
    TrainingError: a case whose arrays cannot be read any more, by its name.
    """
    groups = [store.indices([key]) for key in keys] if volumes else list(_of_one_size(store, store.indices(keys), pixels))
    jobs = (_whole(store, group, volumes) for group in groups)
    for item, group in zip(Feed(store, keys, torch.device(device), resident=False).batches(jobs, to_batch), groups, strict=True):
        if isinstance(item, Failure):
            raise TrainingError(f"case {item.case}: cannot be made into an input of the network ({item.why})")
        yield item, group


def _of_one_size(store: CaseStore, indices: Sequence[int], pixels: int) -> Iterator[list[int]]:
    """Neighbours of one size, at most ``pixels`` together but at least one sample."""
    for size, group in itertools.groupby(indices, key=store.size):
        while together := list(itertools.islice(group, max(1, pixels // math.prod(size)))):
            yield together


def _whole(store: CaseStore, indices: Sequence[int], volume: bool) -> Job:
    """Whole samples, each by itself or all as the slices of one volume."""
    plan = Plan.unchanged(*store.size(indices[0]))
    return Job(((indices[0], plan),), len(indices)) if volume else Job(tuple((index, plan) for index in indices), None)


def _feed(store: CaseStore, keys: Sequence[CaseKey], device: torch.device, workers: int) -> Feed:
    """One for all epochs, with its loader processes and what lies on the device."""
    name = str(device), workers, tuple(keys)
    if name not in store.feeds:
        store.feeds[name] = Feed(store, keys, device, workers)
    feed: Feed = store.feeds[name]
    return feed


def _generator(seed: int, epoch: int, what: int | str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{epoch}:{what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
