"""Where a crop may lie: how much field of view it would hold, and where labelled pixels are, without reading an image twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

# Every fourth pixel of every fourth row of a field of view says enough.
_STEP = 4


class Planes(Protocol):
    """What holds the fields of view and masks of samples (store.CaseStore)."""

    def working_valid(self, index: int) -> npt.NDArray[np.bool_]: ...
    def working_mask(self, index: int) -> npt.NDArray[Any] | None: ...


class Places:
    """Looked up by sample index; of each image a sixteenth of its field of view is remembered, and one number a row of its mask."""

    def __init__(self, planes: Planes) -> None:
        self._planes = planes
        self._coarse: dict[int, npt.NDArray[np.bool_]] = {}
        self._labelled: dict[int, npt.NDArray[np.int64] | None] = {}

    def valid_fraction(self, index: int, region: tuple[int, int, int, int]) -> float:
        """The approximate fraction of a region (top, left, rows, columns) that lies in the field of view."""
        if index not in self._coarse:
            self._coarse[index] = np.array(self._planes.working_valid(index)[::_STEP, ::_STEP])
        top, left, rows, columns = region
        first, last, start, stop = (max(-(-edge // _STEP), 0) for edge in (top, top + rows, left, left + columns))
        return float(np.count_nonzero(self._coarse[index][first:last, start:stop])) * _STEP**2 / (rows * columns)

    def labelled(self, indices: Sequence[int]) -> list[int]:
        """Those of these samples whose mask has foreground."""
        return [index for index in indices if (counts := self._counts(index)) is not None and counts[-1] > 0]

    def foreground_pixel(self, index: int, generator: torch.Generator) -> tuple[int, int] | None:
        """(row, column) of a labelled pixel, each as likely as the other; None where there is none."""
        counts = self._counts(index)
        if counts is None or counts[-1] == 0:
            return None
        number = int(torch.randint(int(counts[-1]), (1,), generator=generator))
        row = int(np.searchsorted(counts, number, side="right"))
        mask = self._planes.working_mask(index)
        assert mask is not None
        return row, int(np.flatnonzero(mask[row] > 0)[number - (counts[row - 1] if row else 0)])

    def _counts(self, index: int) -> npt.NDArray[np.int64] | None:
        """Labelled pixels up to and with each row."""
        if index not in self._labelled:
            mask = self._planes.working_mask(index)
            self._labelled[index] = None if mask is None else np.cumsum(np.count_nonzero(mask > 0, axis=1))
        return self._labelled[index]
