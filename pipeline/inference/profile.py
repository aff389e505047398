"""Where the time of a prediction goes, by what is done with an image."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

Stage = Literal["read and decode", "normalise", "network", "post-process", "encode", "write"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Profile:
    """Seconds spent in each stage, added up over the threads that work side by side; any thread may add to it."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._images = 0
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def add(self, name: Stage, seconds: float) -> None:
        """Seconds below zero are taken off: what went by within a stage and is none of it."""
        with self._lock:
            self._seconds[name] += seconds

    def count(self, images: int) -> None:
        with self._lock:
            self._images += images

    def to_json(self) -> dict[str, Any]:
        """``seconds``: by the clock, from the start · ``cpu_seconds``: of this process and of those that it has ended · ``stages``:
        seconds of each, all threads together."""
        used = os.times()
        return {
            "seconds": round(time.perf_counter() - self._began, 3),
            "cpu_seconds": round(used.user + used.system + used.children_user + used.children_system, 3),
            "images": self._images,
            "stages": {name: round(spent, 3) for name, spent in self._seconds.items()},
        }

    def lines(self) -> list[str]:
        """The table that ``--profile`` prints."""
        found = self.to_json()
        images, total = max(self._images, 1), max(sum(self._seconds.values()), 1e-9)
        out = [f"{'stage':<16}{'seconds':>9}{'ms/image':>10}{'of all':>7}"]
        out += [f"{n:<16}{s:>9.2f}{1e3 * s / images:>10.1f}{s / total:>7.0%}" for n, s in self._seconds.items()]
        speed = self._images / max(found["seconds"], 1e-9)
        return [
            *out,
            f"{self._images} images in {found['seconds']:.1f} s, start included ({speed:.2f} a second); "
            f"{found['cpu_seconds']:.1f} s of CPU time. Stages run side by side: their seconds add up to more than the clock's.",
        ]
