"""A folder for one process at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_held: set[int] = set()


def _let_go() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    # A loader's worker outlives a killed parent for some seconds; it must not hold the parent's lock that long.
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(path: Path, busy: Exception) -> Iterator[None]:
    """Hold the lock file ``path``, made where it is missing; the system lets go of it even when the process is killed.

    Raises
    ------
    busy: another process holds it. OSError: the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows; two processes at once are then the user's own care
        yield
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            log.warning("the file system of folder %s has no locks; do not use the folder from two processes at once", path.parent.name)
        yield
    finally:
        if handle in _held:  # not in a forked child, which has let go already
            _held.remove(handle)
            os.close(handle)
