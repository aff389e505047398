"""A folder or file for one process at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, busy: Exception) -> Iterator[None]:
    """Hold the lock file ``path``, made where it is missing; the system lets go of it even when the process is killed.

    Raises
    ------
    busy: another process holds it. OSError: the file cannot be made.
    """
    path.touch()  # what keeps the file from being made is no matter of locks
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise busy from None
    except OSError:
        log.warning("the file system of folder %s has no locks; do not use the folder from two processes at once", path.parent.name)
    try:
        yield
    finally:
        lock.release()
