"""A video file, written while frames come and named when it is whole."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ConfigError
from pipeline.live.source import Picture, opencv

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""By the file's ending: MPEG-4 for any player, Motion JPEG where single frames are to be measured later (large)."""
_USUAL_FPS = 25.0
_MOST_REPEATED = 250
"""Frames by which one picture fills a gap: what a camera was lost for is not filled for hours."""


def check_video(path: Path) -> Path:
    """``path``, as the name of a new video.

    Raises
    ------
    ConfigError: another ending, a file that is there already, or no folder to write to.
    """
    if path.suffix.lower() not in CODECS:
        raise ConfigError(f"--video {str(path)!r} must end in {' or '.join(CODECS)}")
    if path.exists():
        raise ConfigError(f"--video {str(path)!r} is there already, and nothing is overwritten; give another name")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--video {str(path)!r}: there is no such folder")
    return path


class VideoFile:
    """Pictures (H, W, 3) of one size; those of another size are made to fit.

    Parameters
    ----------
    fps: frames a second of the file; a usual number where it is not known.
    clocked: :meth:`add` is told the time, and a picture stands until the next one's, so that the video plays as long as it took; else each
        picture is one frame.

    Raises
    ------
    ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path, fps: float | None, *, clocked: bool) -> None:
        self.path, self.fps, self._clocked = path, fps or _USUAL_FPS, clocked
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._cv2 = opencv()
        self._writer: Any = None
        self._size = (0, 0)
        self._began_s = 0.0
        self._newest: Any = None
        self.frames = 0

    def add(self, picture: Picture, at_s: float) -> None:
        """``at_s``: seconds on any clock that goes on."""
        if self._writer is None:
            self._open(picture, at_s)
        if picture.shape[:2] != self._size:
            picture = self._cv2.resize(picture, self._size[::-1], interpolation=self._cv2.INTER_AREA)
        times = 1
        if self._clocked:
            # All frames up to this picture's time; at least one where the clock has reached the next frame.
            times = math.floor((at_s - self._began_s) * self.fps + 1e-6) + 1 - self.frames
            if times > _MOST_REPEATED:  # the clock of the video stood still for the rest of the gap
                self._began_s += (times - _MOST_REPEATED) / self.fps
                times = _MOST_REPEATED
        if times < 1:
            return
        bgr = self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2BGR)
        for _ in range(times - 1):
            self._writer.write(self._newest)
        self._writer.write(bgr)
        self._newest = bgr
        self.frames += times

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def close(self) -> Path | None:
        """Finish the file; where it is, or None if it got no picture."""
        if self._writer is None:
            return None
        self._writer.release()
        self._writer = None
        self._part.replace(self.path)
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self, picture: Picture, at_s: float) -> None:
        rows, columns = picture.shape[:2]
        self._size, self._began_s = (rows - rows % 2, columns - columns % 2), at_s  # a codec's colours come in pairs of pixels
        code = self._cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        self._writer = self._cv2.VideoWriter(str(self._part), self._cv2.CAP_FFMPEG, code, self.fps, self._size[::-1])
        if not self._writer.isOpened():
            self._writer = None
            raise ConfigError(
                f"the video {self.path.name!r} cannot be written; check the folder, its permissions and the space on the disk"
            )
