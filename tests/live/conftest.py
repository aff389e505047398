"""Videos of eyes that move and blur, a camera that fails on command, and bundles whose answer is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.inference.predict import Predictor
from pipeline.live.capture import Capture
from pipeline.live.detail import Detail
from pipeline.live.look import Look
from pipeline.live.session import Session
from pipeline.live.snapshots import Snapshots
from pipeline.live.source import Picture
from pipeline.live.video import VideoFile
from pipeline.scans.identity import Pseudonyms
from tests.inference.conftest import make_bundle

ROWS, COLUMNS = 96, 128
_BITS, _SIDE = 8, 12


def numbered(picture: Picture, number: int) -> Picture:
    """With ``number`` along the upper edge, as black and white squares that survive a codec."""
    out = picture.copy()
    for bit in range(_BITS):
        out[:_SIDE, bit * _SIDE : (bit + 1) * _SIDE] = 255 if number >> bit & 1 else 0
    return out


def number_of(picture: Picture) -> int:
    """What :func:`numbered` wrote."""
    middles = [picture[3 : _SIDE - 3, bit * _SIDE + 3 : (bit + 1) * _SIDE - 3].mean() for bit in range(_BITS)]
    return sum(1 << bit for bit, value in enumerate(middles) if value > 127)


def moved(picture: Picture, count: int) -> list[Picture]:
    """Frames of a hand that trembles and a focus that drifts, each with its number."""
    rows, columns = picture.shape[:2]
    frames = []
    for number in range(count):
        shift = np.array([[1, 0, 5 * np.sin(number / 5)], [0, 1, 4 * np.cos(number / 4)]], np.float32)
        frame = cv2.warpAffine(picture, shift, (columns, rows))
        frame = cv2.GaussianBlur(frame, (0, 0), 0.3 + abs(np.sin(number / 6)))
        frames.append(numbered(np.asarray(frame, np.uint8), number))
    return frames


def write_video(path: Path, frames: Sequence[Picture], fps: float = 25.0) -> Path:
    with VideoFile(path, fps, clocked=False) as video:
        for frame in frames:
            video.add(frame, 0.0)
    return path


def read_video(path: Path) -> list[Picture]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found: list[Picture] = []
    while (read := capture.read())[0]:
        found.append(np.ascontiguousarray(read[1][..., ::-1]))
    capture.release()
    return found


def plain(value: int = 120) -> npt.NDArray[np.uint8]:
    return np.full((ROWS, COLUMNS, 3), value, np.uint8)


class Camera:
    """Gives a numbered picture every ``every_s``, ``frames`` of them; then it is unplugged (None), as a driver tells it, or raises."""

    live = True
    fps: float | None = 50.0
    frames = None

    def __init__(self, frames: int, *, first: int = 0, every_s: float = 0.0, error: Exception | None = None) -> None:
        self._numbers = iter(range(first, first + frames))
        self._every_s, self._error = every_s, error
        self.closed = threading.Event()

    def read(self) -> tuple[Picture, float] | None:
        time.sleep(self._every_s)
        number = next(self._numbers, None)
        if number is None:
            if self._error is not None:
                raise self._error
            return None
        return numbered(plain(), number), number / 50

    def close(self) -> None:
        self.closed.set()


def session_of(capture: Capture, out: Path, *, window: bool = False, video: VideoFile | None = None, keep_up: bool = False) -> Session:
    """With a bundle that calls bright blue "vessel"."""
    predictor = Predictor(make_bundle(out / "bundle"))
    look = Look(predictor, Detail(0), keep_up=keep_up)
    return Session(capture, look, Snapshots(out, out / "bundle", None, Pseudonyms.unkeyed(), "cpu"), out, video=video, window=window)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """What a snapshot's prediction loads: the bundle of :func:`session_of`."""
    made = make_bundle(tmp_path / "bundle")
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": made)
    return made
