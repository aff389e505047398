"""Frames from a source in a thread of its own, through a queue that never grows."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from pipeline.errors import OcusegError
from pipeline.live.source import Frame, Picture, Source

log = logging.getLogger(__name__)

State = Literal["live", "lost", "ended"]

_AHEAD = 2
"""Frames that are decoded ahead of the network where none is dropped."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0
"""A lost source is tried again after the first, then after twice as long each time up to the longest."""
_MISSING = 0.02
"""A file may have this fraction fewer frames than its header says, which often estimates them."""


class Capture:
    """Reads a source, from :meth:`start` on, until it ends or :meth:`stop` is called, and closes it.

    Parameters
    ----------
    reopen: opens the source again when it is live and was lost.
    every_frame: the reader waits for whoever takes the frames; else the newest frame wins, and those that were never taken count as
        ``dropped``. A live source does not wait.
    real_time: frames of a file come at the pace at which they were recorded.
    patience_s: for how long a lost source is tried again.

    ``state`` says how it stands; ``lost_why``, of a source that ended before its end, what happened.
    """

    def __init__(
        self, source: Source, reopen: Callable[[], Source], *, every_frame: bool, real_time: bool, patience_s: float = 60.0
    ) -> None:
        self._source, self._reopen, self._patience_s = source, reopen, patience_s
        self.live, self.fps, self.frames = source.live, source.fps, source.frames
        self._every_frame, self._real_time = every_frame and not self.live, real_time and not self.live
        self._queue: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self.state: State = "live"
        self.lost_why = ""
        self.read = self.dropped = self.reconnections = 0
        self.retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="ocuseg-capture", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def next(self, timeout_s: float) -> Frame | None:
        """The frame to look at; None where none came in time, and at the end (``state``)."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self.state == "ended", timeout_s)
            if self._queue:
                frame = self._queue.popleft()
                self._changed.notify_all()
                return frame
            if self._error is not None:
                raise self._error
            return None

    @property
    def ended(self) -> bool:
        """No frame comes any more."""
        with self._changed:
            return self.state == "ended" and not self._queue

    def stop(self) -> None:
        """Ends the thread; what a camera's driver holds up is left to end by itself."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is None:
            self._source.close()
        else:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._read_until_it_stops()
                self._source.close()
                if not self.live or self._stopping.is_set() or not self._reopened():
                    break
        except BaseException as error:  # told by next(), in the thread that waits for frames
            self._error = error
        finally:
            self._source.close()
            with self._changed:
                self.lost_why = "" if self._stopping.is_set() else self._missing()
                self.state = "ended"
                self._changed.notify_all()

    def _missing(self) -> str:
        if self.live:
            return f"the source was lost after {self.read} frames and did not come back within {self._patience_s:g} s"
        if self.frames is not None and self.read < self.frames * (1 - _MISSING) - 2:
            return f"the file says that it has {self.frames} frames, and {self.read} could be read: it is cut off or damaged"
        return ""

    def _read_until_it_stops(self) -> None:
        began: float | None = None
        while not self._stopping.is_set() and (found := self._read_one()) is not None:
            pixels, media_s = found
            if self._real_time:
                began = time.perf_counter() - media_s if began is None else began
                self._stopping.wait(max(0.0, began + media_s - time.perf_counter()))
            self.state = "live"
            self._put(Frame(self.read, pixels, time.perf_counter(), media_s))

    def _read_one(self) -> tuple[Picture, float] | None:
        try:
            return self._source.read()
        except OSError:  # a driver's way of saying that the device is gone
            return None

    def _put(self, frame: Frame) -> None:
        with self._changed:
            self.read += 1
            if self._every_frame:
                self._changed.wait_for(lambda: len(self._queue) < _AHEAD or self._stopping.is_set())
            elif self._queue:
                self._queue.clear()
                self.dropped += 1
            self._queue.append(frame)
            self._changed.notify_all()

    def _reopened(self) -> bool:
        """Try again, less and less often; a source that opens and gives no frame is still lost."""
        deadline, wait_s = time.monotonic() + self._patience_s, _FIRST_WAIT_S
        self.state = "lost"
        log.warning("the source was lost after %d frames; it is tried again for %g s", self.read, self._patience_s)
        while (left := deadline - time.monotonic()) > 0:
            self.retry_at = time.monotonic() + min(wait_s, left)
            if self._stopping.wait(min(wait_s, left)):
                return False
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            try:
                self._source = self._reopen()
            except OcusegError:
                continue
            if (found := self._read_one()) is not None:
                self.reconnections += 1
                self.state = "live"
                self._put(Frame(self.read, found[0], time.perf_counter(), found[1]))
                return True
            self._source.close()
        return False
