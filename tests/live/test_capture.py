"""Frames in their order, none lost where none may be, memory that does not grow, cameras that go away and come back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.live.capture import Capture
from pipeline.live.source import Frame, OpenCVSource, Source, kind_of, shown_name
from tests.live.conftest import Camera, moved, number_of, plain, write_video
from tests.patience import LONG_S, wait_until


def gone() -> Source:
    raise ConfigError("no camera")


def everything(capture: Capture) -> list[Frame]:
    capture.start()
    found = []
    try:
        while not capture.ended:
            if (frame := capture.next(0.05)) is not None:
                found.append(frame)
    finally:
        capture.stop()
    return found


def test_every_frame_of_a_file_comes_once_and_in_order_however_slow_its_taker(tmp_path: Path) -> None:
    path = write_video(tmp_path / "eye.mp4", moved(plain(), 30))
    source = OpenCVSource(str(path))
    assert (source.live, source.fps, source.frames) == (False, 25.0, 30)
    capture = Capture(source, gone, every_frame=True, real_time=False)
    capture.start()
    wait_until(lambda: capture.read == 3)  # two wait, and one more is held
    time.sleep(0.1)
    assert capture.read == 3, "decoded ahead of who takes the frames, so that memory would grow"
    frames = []
    while (frame := capture.next(LONG_S)) is not None:
        frames.append(frame)
    capture.stop()
    assert [number_of(frame.pixels) for frame in frames] == [frame.number for frame in frames] == list(range(30))
    assert [round(frame.media_s * 25) for frame in frames] == list(range(30))
    assert (capture.dropped, capture.lost_why, capture.state) == (0, "", "ended")


def test_of_a_camera_the_newest_frame_wins_and_the_others_are_counted() -> None:
    camera = Camera(40)
    capture = Capture(camera, gone, every_frame=True, real_time=False, patience_s=0)  # a camera does not wait, whatever is asked
    capture.start()
    assert camera.closed.wait(LONG_S)
    wait_until(lambda: capture.state == "ended")
    frame = capture.next(LONG_S)
    assert frame is not None
    assert number_of(frame.pixels) == frame.number == 39
    assert capture.next(0.01) is None
    assert (capture.read, capture.dropped) == (40, 39)
    capture.stop()


def test_a_file_in_real_time_takes_as_long_as_it_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "eye.avi", moved(plain(), 10), fps=20)
    capture = Capture(OpenCVSource(str(path)), gone, every_frame=False, real_time=True)
    began = time.perf_counter()
    found = everything(capture)
    assert time.perf_counter() - began >= 9 / 20
    assert [frame.number for frame in found] == sorted({frame.number for frame in found})
    assert len(found) + capture.dropped == 10


def test_a_camera_that_comes_back_goes_on_and_its_frames_count_on() -> None:
    failures = iter([ConfigError("no camera"), None])
    second = Camera(5, first=5)

    def reopen() -> Source:
        if (error := next(failures, None)) is not None:
            raise error
        return second if not second.closed.is_set() else gone()

    first = Camera(5, every_s=0.02)
    capture = Capture(first, reopen, every_frame=False, real_time=False, patience_s=3)
    capture.start()
    states = set()
    wait_until(lambda: states.add(capture.state) or capture.reconnections == 1)  # type: ignore[func-returns-value]
    assert "lost" in states
    assert first.closed.is_set()
    wait_until(lambda: capture.read == 10)
    frame = capture.next(LONG_S)
    assert frame is not None
    assert number_of(frame.pixels) == frame.number == 9
    capture.stop()
    assert second.closed.is_set()


def test_a_camera_that_stays_away_ends_with_a_sentence_and_what_is_no_lost_camera_is_raised() -> None:
    capture = Capture(Camera(3, error=OSError("unplugged")), gone, every_frame=False, real_time=False, patience_s=0.2)
    everything(capture)
    assert capture.lost_why == "the source was lost after 3 frames and did not come back within 0.2 s"
    broken = Capture(Camera(2, error=RuntimeError("a fault")), gone, every_frame=False, real_time=False)
    broken.start()
    wait_until(lambda: broken.state == "ended")
    broken.next(1)
    with pytest.raises(RuntimeError, match="a fault"):
        broken.next(1)
    broken.stop()


def test_stopping_ends_a_reader_that_waits_for_the_queue_for_the_clock_or_for_a_camera(tmp_path: Path) -> None:
    path = write_video(tmp_path / "eye.mp4", moved(plain(), 10), fps=0.5)
    captures = [
        Capture(OpenCVSource(str(path)), gone, every_frame=True, real_time=False),
        Capture(OpenCVSource(str(path)), gone, every_frame=False, real_time=True),
        Capture(Camera(1), gone, every_frame=False, real_time=False),
    ]
    for capture in captures:
        capture.start()
    wait_until(lambda: captures[0].read == 3 and captures[1].read == 1 and captures[2].state == "lost")
    began = time.monotonic()
    for capture in captures:
        capture.stop()
    assert {capture.state for capture in captures} == {"ended"}
    assert {capture.lost_why for capture in captures} == {""}, "who stops is not told that something was lost"
    assert time.monotonic() - began < LONG_S


def test_a_file_that_was_cut_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "eye.avi", moved(plain(), 60))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    capture = Capture(OpenCVSource(str(path)), gone, every_frame=True, real_time=False)
    found = everything(capture)
    assert 10 < len(found) < 50
    assert "it is cut off or damaged" in capture.lost_why


def test_what_a_source_is_and_how_it_is_named() -> None:
    assert [kind_of(text) for text in ("0", "/dev/video1", "rtsp://h/p", "film.mp4")] == ["camera", "camera", "stream", "file"]
    assert shown_name("rtsp://user:secret@10.0.0.2:554/eye?key=1") == "rtsp://10.0.0.2:554/eye"
    assert shown_name("/patients/Doe/film.mp4") == "film.mp4"
    for text, said in ((".", "is a folder"), ("absent.mp4", "does not exist")):
        with pytest.raises(ConfigError, match=said):
            OpenCVSource(text)
