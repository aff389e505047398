"""How large a piece of an image a network can look at with the memory there is.

What a network holds grows with the pixels it sees. How much it holds of one is measured once, on two small pieces, by adding up the
tensors that are alive after each operation; so nothing needs to be known of the architecture.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.memory import available_memory, give_back_freed_memory

_PROBES = (128, 256)
"""Rows and columns of the pieces on which a network is measured."""
_TILES = (2048, 1024, 512, 256, 128)
_USED_FRACTION = 0.8
"""Fraction of the free memory that a network may take: the rest is for what libraries hold beside tensors, and for other threads."""
_NEVER_MORE = 8192
"""Bytes that no network here holds of a pixel: an image that fits by this is not worth a measurement."""

_measured: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], tuple[int, float, float]]] = weakref.WeakKeyDictionary()


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors made inside, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes, self.peak = 0, 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled inside, and to rule that out torch would import its compiler, which takes over a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        self.peak = max(self.peak, self._bytes)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            size = storage.nbytes()
            self._known.add(key)
            self._bytes += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size


def bytes_needed(network: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> Callable[[int], float]:
    """What ``network`` holds at most of a piece of ``x`` (B, C, [D,] H, W), by the pixels (H times W) of the piece, while ``run`` lets
    it look at that."""
    known = _measured.setdefault(network, {})
    key = tuple(x.shape[:-2])
    if key not in known:
        small, large = (_peak(run, x[..., :side, :side].contiguous()) for side in _PROBES)
        # A network that brings every image to one size holds the same of each; one that does not, in proportion.
        slope = (large[1] - small[1]) / (large[0] - small[0]) if large[0] > small[0] else large[1] / large[0]
        known[key] = (large[0], large[1], max(slope, 0.0))
    pixels, peak, slope = known[key]
    return lambda others: peak + slope * (others - pixels) if others > pixels else peak


def _peak(run: Callable[[Tensor], Any], piece: Tensor) -> tuple[int, float]:
    with torch.no_grad(), _Alive() as alive:
        run(piece)
    return piece.shape[-2] * piece.shape[-1], float(alive.peak)


def tile_that_fits(network: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> tuple[int, int] | None:
    """(rows, columns) of the largest square piece of ``x`` (B, C, [D,] H, W) that ``run`` can give to ``network`` now; None: all of it.

    Raises
    ------
    MemoryError: not even the smallest does.
    """
    rows, columns = x.shape[-2:]
    if x.shape[0] * math.prod(x.shape[2:]) * _NEVER_MORE <= _USED_FRACTION * free_memory(x.device):
        return None
    needed = bytes_needed(network, run, x)
    give_back_freed_memory()
    free = _USED_FRACTION * free_memory(x.device)
    if needed(rows * columns) <= free:
        return None
    for side in _TILES:
        if side < max(rows, columns) and needed(min(side, rows) * min(side, columns)) <= free:
            return side, side
    raise MemoryError


def smaller_tile(tile: tuple[int, int] | None, x: Tensor) -> tuple[int, int] | None:
    """The next smaller square than ``tile``, or than all of ``x`` (..., H, W); None where there is none."""
    largest = max(x.shape[-2:] if tile is None else tile)
    return next(((side, side) for side in _TILES if side < largest), None)


def images_at_once(network: nn.Module, run: Callable[[Tensor], Any], x: Tensor, most: int) -> int:
    """How many images like ``x`` (1, C, [D,] H, W), up to ``most``, ``run`` may give to ``network`` together.

    On a CPU one: several together are no faster there, as was measured on networks of this repository, and take as much more memory.
    """
    if x.device.type == "cpu" or most < 2:
        return 1
    free = _USED_FRACTION * free_memory(x.device)
    if most * math.prod(x.shape[2:]) * _NEVER_MORE <= free:
        return most
    needed = bytes_needed(network, run, x)(math.prod(x.shape[-2:]))
    return max(1, min(most, int(free // max(needed, 1))))


def in_pieces(tile: tuple[int, int]) -> str:
    """The warning of a case that a smaller machine saw otherwise than the bundle's settings say."""
    return f"predicted in tiles of {tile[0]} x {tile[1]} pixels, because larger ones did not fit into memory"


def free_memory(device: torch.device) -> int:
    """Bytes that a network on ``device`` can still take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory()
