"""A folder that one process has for itself on a local disk; what killed ones left is removed by the next of the same machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.inference.crew import this_machine

_PREFIX, _LOCK = "ocuseg-", "alive.lock"


class Aside:
    """``path`` below ``home`` (None: the system's folder for temporary files), until :meth:`close`.

    A lock in it, which the system releases when the process ends in whatever way, tells others that it is in use; it is made before the
    folder gets the name by which they look for it. They are processes of this machine, by its name there: on a disk that machines share
    another one's lock may look free.

    Raises
    ------
    OSError: ``home`` cannot be written.
    """

    def __init__(self, home: Path | None) -> None:
        home = Path(tempfile.gettempdir()) if home is None else home
        prefix = f"{_PREFIX}{zlib.crc32(this_machine().encode()):08x}-"
        _remove_left(home, prefix)
        made = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=home))
        self._lock = FileLock(made / _LOCK, thread_local=False)
        with suppress(OSError):  # a file system without locks: nobody removes it then
            self._lock.acquire(blocking=False)
        self.path = made.rename(made.with_name(made.name[1:]))

    def close(self) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_left(home: Path, prefix: str) -> None:
    for path in home.glob(f"{prefix}*"):
        with suppress(OSError, Timeout):
            if _is_own(path) and (path / _LOCK).is_file():
                lock = FileLock(path / _LOCK, thread_local=False)
                lock.acquire(blocking=False)
                lock.release()
                shutil.rmtree(path, ignore_errors=True)


def _is_own(path: Path) -> bool:
    """A folder of this user's, and no link: in a folder that many may write, a name alone proves nothing."""
    return path.is_dir() and not path.is_symlink() and (not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid())
