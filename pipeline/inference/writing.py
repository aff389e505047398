"""Cases on their way to the disk, in threads: masks are made, encoded and saved while the network looks at the next ones."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.inference.assessors import Assessors, useful_processes
from pipeline.inference.case_files import CaseResult, Staging, write_case
from pipeline.inference.journal import Entry
from pipeline.inference.model_set import PreparedCase
from pipeline.inference.profile import Profile
from pipeline.inference.reading import failed
from pipeline.training.platform import usable_cores

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """A case, and how its files will have ended when it is done. ``held`` lets go of the memory that was reserved for it."""

    ready: PreparedCase
    entry: Entry
    parts: Sequence[Entry]
    held: ExitStack

    def failed(self, error: Exception, did: str) -> list[Entry]:
        """The entries of a case that could not be ``did``."""
        kind, details = type(error).__name__, log.isEnabledFor(logging.DEBUG)
        log.warning("case %s %s: %s", self.entry.case, did, kind, exc_info=error if details else None)
        return failed([self.entry, *self.parts], error)


class Writers:
    """``workers`` threads, and no more cases waiting for them than that. ``enter`` is told, in the caller's thread, how files ended.
    ``assess``: as of inference/assess.py, for these threads."""

    def __init__(self, out: Path, staging: Staging, workers: int, enter: Callable[..., None], profile: Profile) -> None:
        self._out, self._staging, self._workers, self._enter, self._profile = out, staging, workers, enter, profile
        self._pool = ThreadPoolExecutor(workers, "ocuseg-write")
        self.assess = Assessors(useful_processes(workers, usable_cores()))
        self._waiting: deque[tuple[Job, Future[tuple[float, str]]]] = deque()

    @property
    def entries(self) -> list[Entry]:
        """Of the cases that are not on the disk yet."""
        return [job.entry for job, _ in self._waiting]

    def submit(self, job: Job, result: Callable[[], CaseResult]) -> None:
        """Have a case written; ``result`` is made in the writer's thread."""
        self.settle(self._workers)
        self._waiting.append((job, self._pool.submit(self._write, job, result)))

    def _write(self, job: Job, result: Callable[[], CaseResult]) -> tuple[float, str]:
        """Seconds that the case took from its reading on, and the name that it has got."""
        with job.held:
            done = result()
            began = time.perf_counter()
            name = write_case(self._out, done, self._profile, self._staging)
        return done.seconds + time.perf_counter() - began, name

    def settle(self, at_most: int = 0) -> None:
        """Enter how the oldest cases ended, until no more than ``at_most`` are left; together, as entries wait for the disk."""
        ended: list[Entry] = []
        try:
            while self._waiting and (len(self._waiting) > at_most or self._waiting[0][1].done()):
                job, future = self._waiting[0]  # where Ctrl-C ends the wait, it stays for close()
                try:
                    seconds, name = future.result()
                    ended += [replace(job.entry, seconds=seconds, case=name), *(replace(part, case=name) for part in job.parts)]
                except Exception as error:  # a full disk, a scan that cannot be encoded: this case failed, the next may not
                    ended += job.failed(error, "could not be written")
                self._waiting.popleft()
        finally:
            self._enter(*ended)

    def close(self) -> None:
        """Wait for what is under way."""
        try:
            self.settle()
        finally:
            self.assess.close()
            self._pool.shutdown()
