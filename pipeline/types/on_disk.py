"""An array that stays in its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class OnDisk:
    """An array in a file that is mapped when it is indexed, and only then: a mapping holds a file open, and a process may hold
    about a thousand. What indexing gives is copy-on-write, so that a stray write never reaches the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = self[...]
        self.shape: tuple[int, ...] = whole.shape
        self.dtype = whole.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: Any) -> npt.NDArray[Any]:
        return np.asarray(np.load(self._path, mmap_mode="c", allow_pickle=False)[place])
