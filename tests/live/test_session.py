"""From frames to overlays, videos, recordings and cases."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ConfigError, ScanError
from pipeline.inference.case_files import recorded_sha256
from pipeline.inference.folder import predict_folder
from pipeline.live.capture import Capture
from pipeline.live.source import Frame, OpenCVSource, Picture
from pipeline.live.video import VideoFile, check_video
from pipeline.phantoms.fundus import draw_fundus
from pipeline.scans.raster import read_image
from tests.conftest import shared_data
from tests.live.conftest import Camera, moved, number_of, plain, read_video, session_of, write_video
from tests.live.test_capture import gone
from tests.patience import LONG_S, wait_until


def phantom() -> Picture:
    return draw_fundus(3, "R", (192, 240)).image


def photograph() -> Picture:
    whole = read_image(shared_data("chase_db1/images/Image_01L.jpg"))
    return np.asarray(cv2.resize(whole, (240, 230), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize("picture", [phantom, photograph])
def test_a_video_of_a_moving_eye_becomes_a_video_with_every_frame_in_order(tmp_path: Path, picture: Callable[[], Picture]) -> None:
    path = write_video(tmp_path / "eye.mp4", moved(picture(), 24))
    capture = Capture(OpenCVSource(str(path)), gone, every_frame=True, real_time=False)
    session = session_of(capture, tmp_path, video=VideoFile(tmp_path / "out.mp4", capture.fps, clocked=False))
    session.run()
    found = read_video(tmp_path / "out.mp4")
    assert [number_of(frame) for frame in found] == list(range(24))
    before = read_video(path)
    changed = [np.abs(a.astype(int) - b).max(axis=2) > 60 for a, b in zip(found, before, strict=True)]
    assert all(one.any() for one in changed), "nothing is drawn"
    told = session.summary()
    assert (told["shown"], told["dropped"], told["refused"], told["lost"]) == (24, 0, 0, "")
    assert told["videos"] == [str(tmp_path / "out.mp4")]
    assert set(told["latency_ms"]) == {"p50", "p95", "p99"}
    assert not list(tmp_path.glob("*.part.*"))


def test_a_snapshot_is_the_case_that_predict_makes_of_the_frame(tmp_path: Path, bundle: Bundle) -> None:
    session = session_of(Capture(Camera(3), gone, every_frame=False, real_time=False, patience_s=0), tmp_path, window=True)
    with pytest.raises(ScanError, match="no frame has come yet"):
        session.snapshot()
    thread = threading.Thread(target=session.run)
    thread.start()
    try:
        wait_until(lambda: session.meter.shown + session.capture.dropped == 3)  # no frame is still looked at
        assert session.latest is not None
        first = session.snapshot("R").result(LONG_S)
        same = session.snapshot("R").result(LONG_S)
        session.latest = replace(session.latest, frame=Frame(9, phantom(), 0.0, 0.0))
        other = session.snapshot("L").result(LONG_S)
    finally:
        session.stop()
        thread.join(LONG_S)
    assert same.case == first.case, "the same frame twice is one case"
    assert np.array_equal(read_image(other.frame), phantom())
    assert [made.case.split("_")[1] for made in (first, other)] == ["R", "L"]
    assert first.case.split("_")[0] == other.case.split("_")[0], "frames of one sitting are one person's"
    predictions = session.snapshots.predictions
    assert all((predictions / made.page).is_file() for made in (first, other))
    counts = predict_folder(bundle.path, session.snapshots.frames, tmp_path / "again", device="cpu")
    assert (counts["done"], counts["duplicate"]) == (2, 1)
    again = {recorded_sha256(case): case for case in (tmp_path / "again" / "cases").iterdir()}  # of equal frames any may be the one kept
    for made in (first, other):
        case = predictions / "cases" / made.case
        for name in ("mask_000.png", "image_000.png"):
            assert (case / name).read_bytes() == (again[recorded_sha256(case)] / name).read_bytes()


def test_a_recording_lasts_as_long_as_it_took(tmp_path: Path) -> None:
    session = session_of(Capture(Camera(10**6, every_s=0.01), gone, every_frame=False, real_time=False), tmp_path, window=True)
    thread = threading.Thread(target=session.run)
    thread.start()
    try:
        wait_until(lambda: session.meter.shown > 5)
        name = session.record(True).result(LONG_S)
        wait_until(lambda: (session.status()["recording"] or {"seconds": 0})["seconds"] > 1)  # rounded: 1.0 may be 0.96
        assert session.record(True).result(LONG_S) == name, "one at a time"
        assert session.record(False).result(LONG_S) == name
        assert session.record(False).result(LONG_S) == ""
    finally:
        session.stop()
        thread.join(LONG_S)
    (path,) = session.recordings
    assert path == tmp_path / "recordings" / name
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS) >= 1


def test_a_clocked_video_holds_a_picture_until_the_next_one_and_leaves_out_what_comes_too_fast(tmp_path: Path) -> None:
    frames = moved(plain(), 5)
    with VideoFile(tmp_path / "clock.avi", 10, clocked=True) as video:
        for frame, at_s in zip(frames, (7.0, 7.01, 7.1, 7.5, 7.6), strict=True):
            video.add(frame, at_s)
    assert [number_of(frame) for frame in read_video(tmp_path / "clock.avi")] == [0, 2, 2, 2, 2, 3, 4]


def test_a_gap_is_filled_for_a_while_and_what_follows_it_has_its_own_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.live.video._MOST_REPEATED", 4)
    with VideoFile(tmp_path / "gap.avi", 10, clocked=True) as video:
        for frame, at_s in zip(moved(plain(), 4), (7.0, 7.1, 60.0, 60.2), strict=True):
            video.add(frame, at_s)
    assert [number_of(frame) for frame in read_video(tmp_path / "gap.avi")] == [0, 1, 1, 1, 1, 2, 2, 3]


def test_a_video_of_odd_size_takes_a_camera_that_changes_its_own(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "odd.mp4", None, clocked=False) as video:
        for shape in ((95, 127), (190, 254)):
            video.add(np.full((*shape, 3), 90, np.uint8), 0.0)
        assert not (tmp_path / "odd.mp4").exists(), "named before it is whole"
    assert [frame.shape for frame in read_video(tmp_path / "odd.mp4")] == [(94, 126, 3)] * 2
    with pytest.raises(ConfigError, match="is there already"):
        check_video(tmp_path / "odd.mp4")
    with pytest.raises(ConfigError, match=r"must end in \.mp4 or \.avi"):
        check_video(tmp_path / "film.mov")
    with pytest.raises(ConfigError, match="no such folder"):
        check_video(tmp_path / "absent" / "film.mp4")


class Watched(Camera):
    """Counts which of its pictures somebody still holds."""

    most = 0

    def read(self) -> tuple[Picture, float] | None:
        self.held = [one for one in getattr(self, "held", []) if one() is not None]
        self.most = max(self.most, len(self.held))
        if (found := super().read()) is not None:
            self.held.append(weakref.ref(found[0]))
        return found


@pytest.mark.parametrize("every_frame", [False, True])
def test_memory_holds_a_few_frames_however_many_come(tmp_path: Path, every_frame: bool) -> None:
    camera = Watched(200, every_s=0.002)
    camera.live = not every_frame
    capture = Capture(camera, gone, every_frame=every_frame, real_time=False, patience_s=0)
    session = session_of(capture, tmp_path)
    session.run()
    assert session.meter.shown + capture.dropped == 200
    assert not every_frame or capture.dropped == 0
    assert 1 <= camera.most <= 6
