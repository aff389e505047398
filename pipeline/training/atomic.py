"""Folders that are there whole or not at all, whatever moment the machine chooses to stop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_STAGED = ".part"


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
            _flush(file)
        _flush(staged)
        old = None
        if path.exists():
            old = path.parent / f".{path.name}.{uuid4().hex[:12]}{_STAGED}"
            path.rename(old)
        staged.rename(path)
        _flush(path.parent)
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write below ``folder`` (only one process may use the folder)."""
    if folder.is_dir():
        for path in folder.glob(f".*{_STAGED}"):
            shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
