"""Where frames come from: a camera, a stream from the network or a video file, all read by OpenCV (Apache-2.0, with an LGPL FFmpeg).

PyAV would give exact time stamps and a smaller package, but its wheels hold libx264 and libx265, which are GPL.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError

Picture = npt.NDArray[np.uint8]
"""(H, W, 3), RGB."""
Kind = Literal["camera", "stream", "file"]

_TIMEOUT_MS = 5000
_NEEDED = "give a camera's number (0), a video file or an address such as rtsp://HOST/PATH"


@dataclass(frozen=True, eq=False)
class Frame:
    """``number`` counts what the source gave, from 0, also what was dropped; ``taken`` is when it was read (``time.perf_counter``),
    ``media_s`` its place in the video where the source says it."""

    number: int
    pixels: Picture
    taken: float
    media_s: float


class Source(Protocol):
    """Something open that gives frames. ``fps`` and ``frames`` are None where it does not say; ``live``: it neither waits nor ends."""

    live: bool
    fps: float | None
    frames: int | None

    def read(self) -> tuple[Picture, float] | None:
        """The next picture and its place in seconds; None at the end, or where the connection is lost."""

    def close(self) -> None: ...


def opencv() -> Any:
    """OpenCV, which says nothing of its own on standard error.

    Raises
    ------
    ConfigError: it is not installed.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ConfigError("video needs OpenCV: pip install 'ocuseg[live]'") from error


def kind_of(source: str) -> Kind:
    """What ``--source`` names."""
    if source.isdigit() or source.startswith("/dev/"):
        return "camera"
    return "stream" if "://" in source else "file"


def shown_name(source: str) -> str:
    """``source`` for people: an address without user and password, of a file its name alone."""
    if kind_of(source) != "stream":
        return f"camera {source}" if kind_of(source) == "camera" else Path(source).name
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class OpenCVSource:
    """A camera by its number or device, a stream by its address, a video by its path.

    Raises
    ------
    ConfigError: it cannot be opened.
    """

    def __init__(self, source: str) -> None:
        cv2, kind = opencv(), kind_of(source)
        if kind == "camera":
            what: int | str = int(source) if source.isdigit() else source
            self._capture = cv2.VideoCapture(what, cv2.CAP_ANY)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver has a queue, it is to hold no old frames
            refused = f"{shown_name(source)} cannot be opened; is it connected, and used by no other program?"
        else:
            _check_file(source, kind)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
            self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits if kind == "stream" else [])
            refused = f"--source {shown_name(source)!r} is no video that can be decoded; {_NEEDED}"
            if kind == "stream":
                refused = f"the stream {shown_name(source)} does not answer, or is no video; check the address, user and password"
        if not self._capture.isOpened():
            raise ConfigError(refused)
        count, fps = (self._capture.get(what) for what in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.frames = int(count) if 0 < count < 2**31 else None
        self.live = kind == "camera" or (kind == "stream" and self.frames is None)
        self.fps = float(fps) if 0 < fps <= 1000 else None
        self._cv2 = cv2

    def read(self) -> tuple[Picture, float] | None:
        try:
            there, bgr = self._capture.read()
        except self._cv2.error:
            return None
        if not there or bgr is None:
            return None
        return self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB), self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000

    def close(self) -> None:
        self._capture.release()


def _check_file(source: str, kind: Kind) -> None:
    if kind == "file" and not Path(source).is_file():
        what = "is a folder" if Path(source).is_dir() else "does not exist" if not os.path.lexists(source) else "is not a file"
        raise ConfigError(f"--source {source!r} {what}; {_NEEDED}")
