"""Frames in, overlays out, and what a person asks for in between. One thread looks at frames; any other may ask."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import OcusegError, ScanError
from pipeline.live.capture import Capture
from pipeline.live.look import Look, Shown
from pipeline.live.meter import Meter
from pipeline.live.snapshots import Eye, Snapshot, Snapshots
from pipeline.live.video import VideoFile

log = logging.getLogger(__name__)

_WAIT_S = 0.05


class Session:
    """Runs until the source ends, or is stopped. With a ``window``, a file begins when somebody looks at it (:attr:`watched`), and its last
    frame is there until :meth:`stop`.

    ``latest`` is the newest overlay. ``video`` gets every overlay; recordings of the window lie in ``out/recordings``.
    """

    def __init__(
        self, capture: Capture, look: Look, snapshots: Snapshots, out: Path, *, video: VideoFile | None = None, window: bool = False
    ) -> None:
        self.capture, self.look, self.snapshots = capture, look, snapshots
        self.meter = Meter()
        self.latest: Shown | None = None
        self._out, self._video, self._window = out, video, window
        self.watched = threading.Event()
        self._recording: VideoFile | None = None
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self.stopped_by_hand = False
        self.refused, self.last_refusal = 0, ""
        self.recordings: list[Path] = []

    def run(self, *, seconds: float | None = None, progress: Callable[[int, int | None, str], None] | None = None) -> None:
        """Look at frames, for at most so many ``seconds`` from the first."""
        try:
            while self._window and not self.capture.live and not self.watched.wait(_WAIT_S) and not self._stopping.is_set():
                pass
            self.capture.start()
            deadline = None if seconds is None else time.monotonic() + seconds
            while not self._stopping.is_set() and (deadline is None or time.monotonic() < deadline):
                frame = self.capture.next(_WAIT_S)
                if frame is not None:
                    self._show(self.look.at(frame))
                    if progress is not None:
                        progress(self.meter.shown, self.capture.frames, f"{self.meter.fps:.1f} frames/s")
                elif self.capture.ended and not self._window:
                    break
                self._do_what_was_asked()
        finally:
            self._stopping.set()
            self.capture.stop()
            self._do_what_was_asked()
            self._end_recording()
            if self._video is not None:
                self._video.close()
            self.snapshots.close()

    def stop(self) -> None:
        """As a person asks for it."""
        self.stopped_by_hand = True
        self._stopping.set()

    @property
    def over(self) -> bool:
        return self._stopping.is_set()

    def snapshot(self, eye: Eye = "U") -> Future[Snapshot]:
        """A case of the frame that is shown now.

        Raises
        ------
        ScanError: there is none yet.
        """
        if (shown := self.latest) is None:
            raise ScanError("no_pixels", "no frame has come yet")
        return self.snapshots.take(shown.frame, eye)

    def record(self, on: bool) -> Future[str]:
        """Begin or end a recording; its file's name, or "" of one that got no frame."""
        return self._ask(lambda: self._begin_recording() if on else self._end_recording())

    def status(self) -> dict[str, Any]:
        """What a page or a program is told."""
        capture, predictor, latest = self.capture, self.look.predictor, self.latest
        recording = self._recording
        return {
            "state": capture.state,
            "lost": capture.lost_why,
            "retry_s": round(max(0.0, capture.retry_at - time.monotonic()), 1) if capture.state == "lost" else None,
            "fps_now": round(self.meter.fps, 1),
            "source_fps": capture.fps,
            **self.meter.summary(),
            "read": capture.read,
            "dropped": capture.dropped,
            "refused": self.refused,
            "refusal": self.last_refusal,
            "reconnections": capture.reconnections,
            "size": None if latest is None else list(latest.overlay.shape[:2]),
            "answer": "" if latest is None else latest.answer,
            "model": predictor.bundle.config.name,
            "bundle_id": predictor.bundle.id,
            "engine": predictor.engine.name,
            "detail": self.look.detail.now,
            "field_found": self.look.field.found,
            "recording": None if recording is None else {"name": recording.path.name, "seconds": round(recording.seconds, 1)},
            "snapshots": [{"case": one.case, "page": one.page.as_posix()} for one in self.snapshots.taken],
        }

    def summary(self) -> dict[str, Any]:
        """:meth:`status` at the end, with the files that were written."""
        report = self.snapshots.predictions / "report" / "index.html"
        made = [self._video.path] if self._video is not None and self._video.frames else []
        return {
            **{key: value for key, value in self.status().items() if key not in ("retry_s", "fps_now", "recording")},
            "videos": [str(path) for path in (*made, *self.recordings)],
            "report": str(report) if self.snapshots.taken else None,
        }

    def _show(self, shown: Shown) -> None:
        self.latest = shown
        self.meter.add(shown.frame.taken, shown.spent)
        if shown.refused:
            self.refused, self.last_refusal = self.refused + 1, shown.refused
        if self._video is not None:
            self._video.add(shown.overlay, shown.frame.taken)
        if self._recording is not None:
            try:
                self._recording.add(shown.overlay, shown.frame.taken)
            except OcusegError as error:  # no reason to lose the live picture
                log.warning("%s", error)
                self._recording = None

    def _begin_recording(self) -> str:
        if self._recording is None:
            folder = self._out / "recordings"
            folder.mkdir(parents=True, exist_ok=True)
            # No more frames a second than there are, each of which costs time to encode.
            fps = max(1.0, float(round(min(self.meter.fps or 25.0, self.capture.fps or 30.0))))
            self._recording = VideoFile(folder / f"live-{datetime.now():%Y%m%d-%H%M%S-%f}.mp4", fps, clocked=True)
        return self._recording.path.name

    def _end_recording(self) -> str:
        if self._recording is None:
            return ""
        recording, self._recording = self._recording, None
        path = recording.close()
        if path is None:
            return ""
        self.recordings.append(path)
        return path.name

    def _ask(self, what: Callable[[], str]) -> Future[str]:
        """Have something done between two frames."""
        future: Future[str] = Future()

        def run() -> None:
            try:
                future.set_result(what())
            except (OcusegError, OSError) as error:
                future.set_exception(error)

        self._asked.put(run)
        return future

    def _do_what_was_asked(self) -> None:
        while not self._asked.empty():
            self._asked.get()()
