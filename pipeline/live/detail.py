"""How fine a picture the network sees, where it has to keep up with a camera."""

from __future__ import annotations

from collections import deque
from statistics import median

STEPS = (1.0, 0.84, 0.71, 0.59, 0.5, 0.42, 0.35)
"""Of the sides of the working frame; each step down saves about 30 % of the pixels."""
_LOOKS = 5
"""Frames after which the time they took decides; the first of each size is left out, because libraries prepare themselves in it."""
_FAR_TOO_LONG = 2.0
"""A frame that takes this many times the time there is decides alone."""
_SPARE = 0.8
"""A finer picture is tried where it would take at most this fraction of the time there is."""


class Detail:
    """The finest of :data:`STEPS` with which a frame takes at most 1 / ``least_fps`` seconds; 0: always 1."""

    def __init__(self, least_fps: float) -> None:
        self._budget_s = 1 / least_fps if least_fps > 0 else None
        self._at, self._skip = 0, 1
        self._seconds: deque[float] = deque(maxlen=_LOOKS)

    @property
    def now(self) -> float:
        return STEPS[self._at]

    def took(self, seconds: float) -> None:
        """Tell how long a frame took with what is ``now``."""
        if self._budget_s is None:
            return
        if self._skip:
            self._skip -= 1
            return
        self._seconds.append(seconds)
        if len(self._seconds) < _LOOKS and seconds < _FAR_TOO_LONG * self._budget_s:
            return
        usual, at = median(self._seconds), self._at
        if usual > self._budget_s:
            while at + 1 < len(STEPS) and usual * (STEPS[at] / STEPS[self._at]) ** 2 > self._budget_s:
                at += 1
        elif at > 0 and usual * (STEPS[at - 1] / STEPS[at]) ** 2 < _SPARE * self._budget_s:
            at -= 1
        if at != self._at:
            self._at, self._skip = at, 1
            self._seconds.clear()
