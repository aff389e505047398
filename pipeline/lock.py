"""A folder or file for one process at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, busy: Exception | None) -> Iterator[None]:
    """Hold the lock file ``path``, created if missing; the system releases it even when the process is killed.

    busy: what to raise while another process holds it; None waits until it is free.

    Raises
    ------
    busy. OSError: the file cannot be created.
    """
    path.touch()  # fails here, with its own reason, if the file cannot be created
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=busy is None)
    except Timeout:
        raise (busy or TimeoutError(path.name)) from None
    except OSError:
        log.warning("the file system of folder %s has no locks; do not use the folder from two processes at once", path.parent.name)
    try:
        yield
    finally:
        lock.release()
