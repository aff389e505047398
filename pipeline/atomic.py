"""Files and folders that are there whole or not at all, whatever moment the machine chooses to stop."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_STAGED = ".part"


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` when the block ends well, and is removed when not.

    ``durable`` flushes it to the disk first, so that a loss of power, too, leaves the old file or the new one. The staged name is the
    same each time, so that what a killed process leaves is overwritten by the next one instead of staying.
    """
    staged = staged_path(path)
    try:
        yield staged
        if durable:
            sync(staged)
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def staged_path(path: Path) -> Path:
    """Where :func:`atomic_path` writes what is to become ``path``."""
    return path.with_name(f".{path.name[:200]}{_STAGED}")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text: every reader, now or after a crash, sees the old file or the new one whole. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, durable=True) as staged:
        staged.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write to; it becomes ``path`` when the block ends well, and is removed when not.

    Files and folders are flushed to the disk before the rename, so that after a loss of power, too, what has the final name is
    complete. A folder that had the name before is moved away first and removed last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".{path.name}.{uuid4().hex[:12]}{_STAGED}"
    staged.mkdir()
    try:
        yield staged
        for file in sorted(staged.rglob("*")):
            sync(file)
        sync(staged)
        old = None
        if path.exists():
            old = path.parent / f".{path.name}.{uuid4().hex[:12]}{_STAGED}"
            path.rename(old)
        staged.rename(path)
        sync(path.parent)
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def unless_gone() -> Iterator[None]:
    """Go on after the block where a file in it was removed, or, on a network file system, replaced while it was read (ESTALE)."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write below ``folder`` (only one process may use the folder)."""
    if folder.is_dir():
        for path in folder.glob(f".*{_STAGED}"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
