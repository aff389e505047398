"""How long a test waits for something: far beyond what it takes even where ten other programs want the processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import psutil

LONG_S = 1200.0
"""Only what hangs takes longer."""


def wait_until(there: Callable[[], bool], what: Callable[[], object] = lambda: "what was waited for did not come") -> None:
    """Return when ``there()`` is true; fail with ``what()`` after LONG_S."""
    deadline = time.monotonic() + LONG_S
    while not there():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def running(number: int) -> bool:
    """Whether the process of this number lives; it may end while it is being asked, or be dead and not yet waited for."""
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def ended(processes: Iterable[BaseProcess]) -> Iterator[None]:
    """Whatever happens inside, no process is left behind."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def joined(processes: Iterable[BaseProcess]) -> list[int | None]:
    """Exit codes of processes that end by themselves; None for one that does not."""
    processes = list(processes)
    with ended(processes):
        for process in processes:
            process.join(LONG_S)
        return [process.exitcode for process in processes]
