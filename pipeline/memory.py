"""How much memory there is, of the machine or of the container that this process runs in, and how much of it files may take."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNIT = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_FRACTION_OF_MACHINE = 0.75
_FRACTION_OF_FREE = 0.8
_LITTLE = 256 << 20
_WORKERS_FRACTION = 0.5
_DECODING_BYTES_PER_PIXEL = 10
"""RGB as decoded, once more with its channels in front, and what a decoder holds beside them."""
_MOST_PIXELS = 400_000_000
_MOST_WORKERS = 16


def machine_memory() -> int:
    """Bytes that this process could ever use: of the machine, less where a container (cgroup v1 or v2) or ulimit sets less."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _cgroups()), *(limit for limit, _ in _rlimits())])


def available_memory() -> int:
    """Bytes that this process can use now without anything being killed or swapped out."""
    import psutil

    left = [max(limit - used, 0) for limit, used in (*_cgroups(), *_rlimits(), *_setting())]
    return min([int(psutil.virtual_memory().available), *left])


def _setting() -> Iterator[tuple[int, int]]:
    """(limit, in use by this process and its children) where the user has set a limit."""
    import psutil

    if (limit := memory_setting()) is not None:
        used = 0
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with suppress(psutil.Error):
                used += int(process.memory_info().rss)
        yield limit, used


def memory_setting() -> int | None:
    """Bytes by OCUSEG_MEMORY_LIMIT, which ``--memory-limit`` sets, too; None where it is not set.

    Raises
    ------
    ConfigError: it is no size.
    """
    text = os.environ.get("OCUSEG_MEMORY_LIMIT")
    return parse_bytes(text, "--memory-limit (OCUSEG_MEMORY_LIMIT)") if text else None


def _cgroups() -> Iterator[tuple[int, int]]:
    """(limit, in use) of each control group above this process that sets a limit; file pages that can be dropped are not in use."""
    with suppress(OSError):
        for line in _MEMBERSHIP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                top, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            # Inside a container the path may be the host's; its own group is then mounted at the top.
            for folder in {top, *(top / parent for parent in _parents(path))}:
                with suppress(OSError, ValueError):
                    limit = int((folder / names[0]).read_text(encoding="ascii"))
                    used = int((folder / names[1]).read_text(encoding="ascii"))
                    pages = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
                    yield limit, used - int(pages.get(names[2], 0))


def _parents(path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part and part != ".."]
    for length in range(1, len(parts) + 1):
        yield "/".join(parts[:length])


def _rlimits() -> Iterator[tuple[int, int]]:
    """(limit, in use) of this process by ``ulimit -v`` and ``ulimit -d``, where the platform has them."""
    try:
        import resource

        import psutil
    except ImportError:
        return
    for kind, size in ((resource.RLIMIT_AS, "vms"), (resource.RLIMIT_DATA, "data")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and sys.platform.startswith("linux"):
            yield limit, int(getattr(psutil.Process().memory_info(), size))


def give_back_freed_memory() -> None:
    """Let glibc return what it has kept, so that the process's memory is what is in use; elsewhere nothing happens."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def fits_memory(size: int) -> bool:
    """Whether ``size`` bytes more can be taken now; little always can."""
    if size <= _LITTLE or size <= _FRACTION_OF_FREE * available_memory():
        return True
    give_back_freed_memory()
    return size <= _FRACTION_OF_FREE * available_memory()


class Budget:
    """Bytes that what is under way may take together. Turns are taken by number, so that the first one never waits for a later one;
    what is larger than all of it gets it alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[int, int] = {}
        self._turn, self._passed = 0, set[int]()
        self._changed = threading.Condition()
        self._closed = self._short = False

    def take(self, number: int, size: int) -> None:
        """Wait for the turn of ``number`` and until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (number == self._turn and self._has_room(size)))
            self._short = False
            self._held[number] = size
        self.skip(number)

    def _has_room(self, size: int) -> bool:
        self._short = bool(self._held) and sum(self._held.values()) + size > self._size
        return not self._short

    def skip(self, number: int) -> None:
        """``number`` takes nothing any more."""
        with self._changed:
            if number >= self._turn:
                self._passed.add(number)
            while self._turn in self._passed:
                self._passed.remove(self._turn)
                self._turn += 1
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        with self._changed:
            self._held.pop(number, None)
            self._changed.notify_all()

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody whose turn it is waits for room."""
        return self._short

    def close(self) -> None:
        """Let go of everybody who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def parse_bytes(text: str, what: str) -> int:
    """ "2G", "1.5 GiB", "800MB" or "2000000000" -> bytes; K, M, G and T are powers of 1024.

    Raises
    ------
    ConfigError: it is no size.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    size = int(float(found[1]) * _UNIT[found[2]]) if found else 0
    if size < 1:
        raise ConfigError(f"{what} {text!r} is not a size of memory; write it as 2G or 800M")
    return size


@dataclass(frozen=True)
class Limits:
    """What one file may take. ``worker_bytes`` is for each process that decodes; ``total_bytes`` for a command with all of them."""

    max_pixels: int
    total_bytes: int
    worker_bytes: int
    time_s: float = 600.0

    @classmethod
    def chosen(cls, max_pixels: int | None = None, memory: int | None = None, workers: int = 2, time_s: float = 600.0) -> Limits:
        """As given; else by OCUSEG_MAX_PIXELS and OCUSEG_MEMORY_LIMIT; else what fits this machine.

        Raises
        ------
        ConfigError: one of the two variables is no number.
        """
        memory = memory_setting() if memory is None else memory
        if max_pixels is None and (text := os.environ.get("OCUSEG_MAX_PIXELS")):
            if not re.fullmatch(r"[1-9]\d{0,14}", text.strip()):
                raise ConfigError(f"OCUSEG_MAX_PIXELS {text!r} is not a whole number above 0")
            max_pixels = int(text)
        total = memory if memory is not None else int(machine_memory() * _FRACTION_OF_MACHINE)
        worker = max(int(total * _WORKERS_FRACTION) // max(workers, 1), 1)
        fits = min(_MOST_PIXELS, worker // _DECODING_BYTES_PER_PIXEL)
        return cls(max_pixels if max_pixels is not None else fits, total, worker, time_s)


def usual_workers(cores: int) -> int:
    """How many files to read at once on a machine of so many cores: no more than can decode images of the largest size, and at
    least two."""
    total = memory_setting() or int(machine_memory() * _FRACTION_OF_MACHINE)
    fits = int(total * _WORKERS_FRACTION) // (_MOST_PIXELS * _DECODING_BYTES_PER_PIXEL)
    return max(2, min(cores, fits, _MOST_WORKERS))
