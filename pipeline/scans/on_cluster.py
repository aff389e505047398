"""Files of a folder, read by the workers of a cluster for its catalogue; each opens them as one process would."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Self

from pipeline.cluster.work import Lost, Workers, in_order
from pipeline.errors import ConfigError, ScanError
from pipeline.memory import Limits
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.listing import Listed
from pipeline.scans.raw_img import state_img_geometry
from pipeline.scans.record import FileRecord, Look, rejection
from pipeline.scans.workers import Pool

_AT_ONCE = 16
"""Files of a task."""
_FAR = 1024
"""So many files beside each other that need not be read wait for none before them, so that memory does not grow with their number."""
Numbered = tuple[int, Path]


@dataclass(frozen=True)
class ReadingWork:
    """What each worker does with files; ``root`` is absolute and the same on all machines.

    ``names``: the site key, or its file, where a key is not to be sent over a network. ``look`` makes what looks at each scan.
    """

    root: Path
    names: Pseudonyms | Path = field(repr=False)
    max_pixels: int
    img_geometry: str | None = None
    look: Callable[[], Look] | None = None
    ocuseg: str = version("ocuseg")

    def on(self, device: str) -> Self:
        return replace(self)

    def open(self, held: ExitStack) -> Callable[[Sequence[Numbered]], list[FileRecord]]:
        if version("ocuseg") != self.ocuseg:
            raise ConfigError(f"a worker of the cluster has ocuseg {version('ocuseg')}, not {self.ocuseg}; install one version everywhere")
        names = self.names if isinstance(self.names, Pseudonyms) else Pseudonyms.load(self.names)
        state_img_geometry(self.img_geometry)
        pool = held.enter_context(Pool(self.root, names, Limits.chosen(self.max_pixels, workers=1)))
        look = None if self.look is None else self.look()
        return lambda files: [pool.record(path, look) for _, path in files]


def read_by_workers(
    workers: Workers, work: ReadingWork, names: Pseudonyms, jobs: Iterator[tuple[Listed, FileRecord | None]]
) -> Iterator[tuple[Listed, FileRecord]]:
    """Each file with its record, in order; those without one are read by ``workers``."""
    waiting: deque[tuple[Listed, FileRecord | None]] = deque()

    def tasks(first: tuple[Listed, FileRecord | None]) -> Iterator[list[Numbered]]:
        """From the first file that is to be read, until there are no more, or many that need not be."""
        number, task, passed = 0, list[Numbered](), 0
        for file, record in chain([first], jobs):
            waiting.append((file, record))
            passed = 0 if record is None else passed + 1
            if record is None:
                task.append((number, file.path))
                number += 1
            if len(task) == _AT_ONCE:
                yield task
                task = []
            if passed == _FAR:
                break
        if task:
            yield task

    for file, record in jobs:
        if record is not None:
            yield file, record
            continue
        results = workers.results(work, tasks((file, record)))
        for (_, path), found in in_order(results):
            new = rejection(path, work.root, names, ScanError("crashed", found.reason)) if isinstance(found, Lost) else found
            yield waiting.popleft()[0], new
            while waiting and (known := waiting[0][1]) is not None:
                yield waiting.popleft()[0], known
