"""From stored cases to batches: a stream of samples that (seed, epoch, position) alone decides, whoever computes it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pipeline.cards.objects import Objects
from pipeline.datasets.augment import Augment, AugmentConfig
from pipeline.datasets.sample import Sample
from pipeline.datasets.store import CaseStore
from pipeline.errors import OcusegError, TrainingError
from pipeline.types import Batch, CaseKey

__all__ = ["CaseStore", "Sample", "TrainingLoader", "evaluation_batches"]
log = logging.getLogger(__name__)

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


class TrainingLoader:
    """One epoch of training batches of ``batch_size`` for process ``rank`` of ``world``; may be iterated again, with the same result.

    The stream has ``crops_per_image`` crops of every sample in random order; the global batch number n holds positions
    n * B to (n + 1) * B - 1 with B = batch_size * world, and each process takes its share of it. The last global batch is filled
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
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        indices = [index for key in keys for index in store.indices([key])[:: data.slices or 1]]
        if not indices:
            raise TrainingError("no case is left to train on; check the split")
        order = torch.randperm(len(indices) * data.crops_per_image, generator=_generator(seed, epoch, "order")).tolist()
        self._indices = [indices[place % len(indices)] for place in order]
        self._store, self._data = store, data
        self._augment = Augment(data.augment, data.crop, store.card.modality)
        self._seed, self._epoch = seed, epoch
        self._batch_size, self._rank, self._world = batch_size, rank, world

    def __len__(self) -> int:
        return -(-len(self._indices) // (self._batch_size * self._world))

    def __iter__(self) -> Iterator[Batch]:
        workers = min(self._data.workers, len(self))
        if workers == 0:
            for number in range(len(self)):
                yield _unwrap(self[number])
            return
        loader = torch.utils.data.DataLoader(
            _Numbered(self),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2,
            collate_fn=_as_it_is,
            # The sampler and the workers' base seed draw from this one and not from the global generator.
            generator=torch.Generator().manual_seed(0),
        )
        for item in loader:
            yield _unwrap(item)

    def __getitem__(self, number: int) -> Batch | Failure:
        """Batch ``number`` of this process, or what went wrong (raised in the process that asked for it)."""
        first = (number * self._world + self._rank) * self._batch_size
        samples = []
        for position in range(first, first + self._batch_size):
            index = self._indices[position % len(self._indices)]
            try:
                samples.append(self._sample(position, index))
            except Exception as error:  # whatever it is, the case must be named
                # The text of an OSError quotes the path, which its traceback would carry into the log.
                if not isinstance(error, OcusegError | OSError):
                    log.exception("case %s could not be made into a sample", self._store.case_of(index))
                why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                return Failure(self._store.case_of(index), f"{type(error).__name__}: {why}")
        return _batch(samples)

    def _sample(self, position: int, index: int) -> Sample:
        generator = _generator(self._seed, self._epoch, position)
        size, slices = self._store.size(index), self._data.slices
        if slices is not None:
            index = self._first_slice(index, slices, generator)
        centre = None
        if float(torch.rand(1, generator=generator)) < self._data.foreground_crops:
            if slices is not None:
                index, labelled = self._labelled_block(index, slices, generator)
                centre = None if labelled is None else self._foreground_pixel(labelled, generator)
            else:
                objects = self._store.working_objects(index)
                centre = self._foreground_pixel(index, generator) if objects is None else self._near_an_object(objects, size, generator)
        valid = torch.from_numpy(self._store.working_valid(index))
        for _ in range(_DRAWS):
            plan = self._augment.draw(size, generator, centre)
            top, left, rows, columns = plan.region
            seen = valid[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)]
            # Every fourth pixel of every fourth row says enough.
            if centre is not None or float(seen[::4, ::4].sum()) * 16 >= _LEAST_VALID * rows * columns:
                break
        return self._augment.apply(self._store.window(index, *plan.region, slices=slices), plan)

    def _first_slice(self, index: int, slices: int, generator: torch.Generator) -> int:
        """Where a block of the volume of ``index`` begins, each place as likely as the other."""
        there = self._store.indices([self._store.case_of(index)])
        return there[int(torch.randint(max(len(there) - slices, 0) + 1, (1,), generator=generator))]

    def _labelled_block(self, index: int, slices: int, generator: torch.Generator) -> tuple[int, int | None]:
        """(first slice of a block, a slice in it that has foreground), or ``index`` and None where the volume has none."""
        there = self._store.indices([self._store.case_of(index)])
        labelled = [i for i in there if (mask := self._store.working_mask(i)) is not None and bool((mask > 0).any())]
        if not labelled:
            return index, None
        chosen = labelled[int(torch.randint(len(labelled), (1,), generator=generator))]
        first = chosen - int(torch.randint(slices, (1,), generator=generator))
        return max(min(first, there[-1] + 1 - slices), there[0]), chosen

    def _foreground_pixel(self, index: int, generator: torch.Generator) -> tuple[int, int] | None:
        mask = self._store.working_mask(index)
        if mask is None:
            return None
        places = (torch.from_numpy(mask).view(-1) > 0).nonzero()
        if not len(places):
            return None
        place = int(places[int(torch.randint(len(places), (1,), generator=generator))])
        return place // mask.shape[1], place % mask.shape[1]

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


def evaluation_batches(store: CaseStore, keys: Sequence[CaseKey], *, volumes: bool = False) -> Iterator[tuple[Batch, list[int]]]:
    """(batch of one whole image in the working frame, its sample index) for every sample of these cases, in their order.

    ``volumes``: one batch a case instead, with the volume of all its slices and their sample indices.
    """
    for key in keys:
        indices = store.indices([key])
        if volumes:
            yield _batch([store.volume(key)]), indices
        else:
            for index in indices:
                yield _batch([store.sample(index)]), [index]


@dataclass(frozen=True)
class Failure:
    """A sample that could not be made; sent instead of raised, so that a worker's traceback does not bury the case's name."""

    case: CaseKey
    why: str


class _Numbered(torch.utils.data.Dataset[Any]):
    """The loader as a map-style data set of batches."""

    def __init__(self, loader: TrainingLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __getitem__(self, number: int) -> Batch | Failure:
        return self._loader[number]


def _as_it_is(item: Any) -> Any:
    return item


def _unwrap(item: Batch | Failure) -> Batch:
    if isinstance(item, Failure):
        raise TrainingError(f"case {item.case}: cannot be made into a training sample ({item.why})")
    return item


def _batch(samples: Sequence[Sample]) -> Batch:
    return Batch(
        images=[s.image for s in samples],
        valid=[s.valid for s in samples],
        placements=[s.placement for s in samples],
        cases=[s.case for s in samples],
        targets=[s.target for s in samples],
    )


def _generator(seed: int, epoch: int, what: int | str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{epoch}:{what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
