"""Cases are assessed in processes of their own where there are cores for them: measuring is Python between many short NumPy calls, of
which threads do only one at a time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from pipeline.inference.assess import assess
from pipeline.inference.assessment import Assessment
from pipeline.inference.case_files import CaseResult
from pipeline.parent import when_parent_ends

log = logging.getLogger(__name__)

FEWEST_CORES = 4
"""Of fewer the network, reading and one thread that measures use all."""


def useful_processes(writers: int, cores: int) -> int:
    """How many processes to assess in for so many ``writers``; 0: the writers do it themselves."""
    daemon = multiprocessing.current_process().daemon  # such a process may have no children
    return writers - 1 if cores >= FEWEST_CORES and not daemon else 0


class Assessors:
    """Does what :func:`pipeline.inference.assess.assess` does, for several threads at once; ``processes`` 0: in these threads.

    One thread at a time does so itself, so that a single photograph waits for no process to start. A process starts when it is wanted for
    the first time, and ends with this one. Should one be lost, for want of memory, the threads continue alone.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._here, self._starting = threading.Lock(), threading.Lock()

    def __call__(self, result: CaseResult) -> CaseResult:
        if not self._processes:
            return assess(result)
        if self._here.acquire(blocking=False):
            try:
                return assess(result)
            finally:
                self._here.release()
        try:
            found = self._started().submit(_assessment, replace(result, probabilities=None)).result()
        except BrokenProcessPool:
            if self._processes:
                log.warning("a process that assesses cases was lost, perhaps for want of memory; they are assessed one by one from here on")
                self._processes = 0
            return assess(result)
        return replace(result, assessment=found)

    def _started(self) -> ProcessPoolExecutor:
        """Not before it is needed: it has a process of its own that looks after it."""
        with self._starting:
            if self._pool is None:
                # Not forked: threads, and a GPU's driver, would not survive it.
                spawned = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self._processes, spawned, _begin, (os.getpid(),))
            return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which finishes what was begun
    when_parent_ends(parent, lambda: os._exit(1))  # the thread that started this process may end before


def _assessment(result: CaseResult) -> Assessment:
    return assess(result).assessment
