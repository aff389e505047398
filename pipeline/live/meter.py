"""How fast and how late: frames a second over the last seconds, percentiles of what a frame waits and takes."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

_WINDOW_S = 3.0
_MOST = 10_000
"""Frames that the percentiles look back: memory does not grow with the hours."""
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Spent:
    """Seconds of one frame: preparing it (field of view, normalisation, scale), the network, drawing and handing it on."""

    prepare: float
    network: float
    draw: float


class Meter:
    """Counts frames that were shown. Any thread may read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = self._last = 0.0
        self._times: deque[float] = deque()
        self._latency_s: deque[float] = deque(maxlen=_MOST)
        self._spent: deque[Spent] = deque(maxlen=_MOST)
        self.shown = 0

    def add(self, taken: float, spent: Spent) -> None:
        """A frame is ready that the source gave at ``taken`` (``time.perf_counter``)."""
        now = time.perf_counter()
        with self._lock:
            self._began, self._last = self._began or now, now
            self.shown += 1
            self._times.append(now)
            self._latency_s.append(now - taken)
            self._spent.append(spent)

    @property
    def fps(self) -> float:
        """Over the last seconds."""
        now = time.perf_counter()
        with self._lock:
            while self._times and now - self._times[0] > _WINDOW_S:
                self._times.popleft()
            return len(self._times) / min(_WINDOW_S, max(now - self._began, 1e-6)) if len(self._times) > 1 else 0.0

    def summary(self) -> dict[str, Any]:
        """``shown`` · ``fps`` from the first frame to the last · ``latency_ms`` by percentile · ``stages_ms``, the median of each."""
        with self._lock:
            latency, spent = list(self._latency_s), list(self._spent)
            seconds = self._last - self._began
            shown = self.shown
        found: list[float] = [1000 * float(value) for value in np.percentile(latency, _PERCENTILES)] if latency else []
        stages = {name: [getattr(one, name) for one in spent] for name in ("prepare", "network", "draw")}
        return {
            "shown": shown,
            "fps": round((shown - 1) / seconds, 2) if shown > 1 and seconds > 0 else None,
            "latency_ms": {f"p{percent}": round(value, 1) for percent, value in zip(_PERCENTILES, found, strict=False)},
            "stages_ms": {name: round(1000 * float(np.median(values)), 1) for name, values in stages.items() if values},
        }
