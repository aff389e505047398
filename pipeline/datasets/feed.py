"""How windows reach the device: cut here, by loader processes, or from cases that lie on the device; a thread works ahead of a GPU."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.utils.data

from pipeline.datasets.augment import Plan
from pipeline.datasets.resident import DeviceStore, Layout
from pipeline.datasets.store import CaseStore
from pipeline.datasets.windows import Source, Windows
from pipeline.errors import OcusegError
from pipeline.types import Batch, CaseKey

log = logging.getLogger(__name__)
T = TypeVar("T")

DEVICE_FRACTION = 0.2
"""Cases that take at most this fraction of a GPU's free memory are kept on it, so that no pixel travels. Most of the memory is for a
network's activations, which grow with the batch; a fifth of 80 GB still holds 5,000 photographs of 1,000 x 1,000 pixels."""

NOT_THE_CASES = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors of the machine, which hit a case by chance: they name none, and the caller says what helps."""

_AHEAD = 2
_PREFETCH = 2


@dataclass(frozen=True)
class Failure:
    """A sample that could not be made; sent instead of raised, so that a worker's traceback does not bury the case's name."""

    case: CaseKey
    why: str

    @classmethod
    def of(cls, case: CaseKey, error: Exception) -> Failure:
        # The text of an OSError quotes the path, which its traceback would carry into the log.
        if not isinstance(error, OcusegError | OSError):
            log.error("case %s could not be made into a sample", case, exc_info=error)
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return cls(case, f"{type(error).__name__}: {why}")


@dataclass(frozen=True)
class Job:
    """One batch that is to be cut: sample indices with their plans, and how many slices each takes."""

    samples: tuple[tuple[int, Plan], ...]
    slices: int | None

    def cut(self, source: Source, *, pinned: bool = False) -> list[Windows] | Failure:
        """One Windows where all results are of one size, else one a sample."""
        try:
            if len({plan.size for _, plan in self.samples}) == 1:
                return [source.cut(self.samples, self.slices, pinned=pinned)]
            return [source.cut([sample], self.slices, pinned=pinned) for sample in self.samples]
        except NOT_THE_CASES:
            raise
        except Exception as error:  # whatever it is, the case must be named
            return self._culprit(source) or Failure.of(source.case_of(self.samples[0][0]), error)

    def _culprit(self, source: Source) -> Failure | None:
        for index, plan in self.samples:
            try:
                source.cut([(index, plan)], self.slices)
            except NOT_THE_CASES:
                raise
            except Exception as error:
                return Failure.of(source.case_of(index), error)
        return None


class Feed:
    """The way from a store to a device, the same for all epochs of a run.

    On a GPU a thread works ahead: it cuts, copies and transforms the next batches on a stream of its own while the network computes.
    ``workers``: loader processes, 0: none; ``method``: as of :class:`Pool`. ``resident``: keep the cases on a GPU where they fit.
    """

    def __init__(
        self,
        store: CaseStore,
        keys: Sequence[CaseKey],
        device: torch.device,
        workers: int = 0,
        method: str | None = None,
        *,
        resident: bool = True,
    ) -> None:
        self._device = device
        self._source: Source = store
        self._pool: Pool | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        layout = Layout.of(store, store.indices(keys)) if device.type == "cuda" and resident else None
        if layout is not None and layout.nbytes <= DEVICE_FRACTION * torch.cuda.mem_get_info(device)[0]:
            self._source = DeviceStore(store, layout, device)
        elif workers > 0:
            self._pool = Pool(store, keys, workers, method)

    def batches(self, jobs: Iterator[Job | Failure], make: Callable[[Windows], Batch]) -> Iterator[Batch | Failure]:
        windows = self._windows(jobs)
        if self._stream is None:
            yield from (item if isinstance(item, Failure) else join([make(part) for part in item]) for item in windows)
            return
        for item, ready in ahead(self._on_stream(windows, make)):
            if isinstance(item, Batch) and ready is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_event(ready)
                item.record_stream(current)
            yield item

    def _windows(self, jobs: Iterator[Job | Failure]) -> Iterator[list[Windows] | Failure]:
        if self._pool is not None:
            return self._pool.run(jobs)
        pinned = self._device.type == "cuda"
        return (job if isinstance(job, Failure) else job.cut(self._source, pinned=pinned) for job in jobs)

    def _on_stream(
        self, windows: Iterator[list[Windows] | Failure], make: Callable[[Windows], Batch]
    ) -> Iterator[tuple[Batch | Failure, Any]]:
        """Batches, each with the event after which it is there. Of cases on the device, cutting is the device's work too, and so it
        must happen on the same stream: another one would read windows that are not written yet."""
        assert self._stream is not None
        while True:
            with torch.cuda.stream(self._stream):
                item = next(windows, None)
                if item is None:
                    return
                if isinstance(item, Failure):
                    made: tuple[Batch | Failure, Any] = item, None
                else:
                    made = join([make(part.to(self._device)) for part in item]), self._stream.record_event()
            yield made


class Pool:
    """Loader processes that cut windows of these cases, for the whole of a run; one iteration at a time.

    ``method``: fork, forkserver or spawn, None for Python's own choice. Processes that are not forked read the cases from files.
    """

    def __init__(self, store: CaseStore, keys: Sequence[CaseKey], workers: int, method: str | None = None) -> None:
        self.folder: Path | None = None
        if (method or multiprocessing.get_start_method()) != "fork":
            self.folder = Path(tempfile.mkdtemp(prefix="ocuseg-cases-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
            store = store.for_processes(self.folder, keys)
        self._jobs = _Jobs()
        self._turn = 0
        self._loader: Any = torch.utils.data.DataLoader(
            _Cutter(store),
            batch_size=None,
            sampler=self._jobs,
            num_workers=workers,
            prefetch_factor=_PREFETCH,
            collate_fn=_as_it_is,
            persistent_workers=True,
            multiprocessing_context=method,
            # The workers' base seed is drawn from this one and not from the global generator.
            generator=torch.Generator().manual_seed(0),
        )

    def run(self, jobs: Iterator[Job | Failure]) -> Iterator[list[Windows] | Failure]:
        self._turn += 1
        mine, self._jobs.jobs = self._turn, jobs
        for item in self._loader:
            yield item
            if self._turn != mine:
                raise RuntimeError("the loader processes have been given other batches in between")


class _Jobs(torch.utils.data.Sampler[Any]):
    """A sampler of jobs instead of numbers."""

    def __init__(self) -> None:
        self.jobs: Iterator[Job | Failure] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.jobs


class _Cutter(torch.utils.data.Dataset[Any]):
    """The store as a data set whose items are cut jobs."""

    def __init__(self, store: CaseStore) -> None:
        self._store = store

    def __getitem__(self, job: Job | Failure) -> list[Windows] | Failure:
        return job if isinstance(job, Failure) else job.cut(self._store)


def _as_it_is(item: Any) -> Any:
    return item


def ahead(items: Iterator[T], depth: int = _AHEAD) -> Iterator[T]:
    """The same items, of which a thread makes the next ``depth`` while one is in use."""
    end = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            pool.shutdown(cancel_futures=True)


def join(parts: Sequence[Batch]) -> Batch:
    """One batch of several; images of unequal sizes stay apart."""
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {
        name: [item for part in parts for item in getattr(part, name)] for name in ("images", "valid", "placements", "cases", "targets")
    }
    if parts[0].proposals is not None:
        columns["proposals"] = [boxes for part in parts for boxes in part.proposals or ()]
    if parts[0].seeds is not None:
        columns["seeds"] = [seed for part in parts for seed in part.seeds or ()]
    return Batch(**columns)
