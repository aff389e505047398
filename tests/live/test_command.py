"""``ocuseg live`` as a user calls it: a shipped model on a video of a moving eye, and what the end says."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.live.look import Look
from pipeline.live.source import Frame
from pipeline.phantoms.fundus import draw_fundus
from tests.live.conftest import moved, number_of, read_video, write_video


@pytest.fixture(autouse=True)
def site_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))


def call(*arguments: str) -> tuple[int, Any, str]:
    done = CliRunner().invoke(app, ["live", "disc", *arguments, "--json", "--device", "cpu"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_a_video_becomes_a_video_with_the_disc_outlined_in_every_frame(tmp_path: Path) -> None:
    eye = draw_fundus(5, "R", (288, 320))
    path = write_video(tmp_path / "eye.mp4", moved(eye.image, 8))
    code, told, said = call("--source", str(path), "--video", str(tmp_path / "out.avi"), "--out", str(tmp_path / "live"))
    assert (code, told["shown"], told["dropped"], told["detail"]) == (0, 8, 0, 1.0), said
    found = read_video(tmp_path / "out.avi")
    assert [number_of(frame) for frame in found] == list(range(8))
    near = ndimage.binary_dilation(eye.masks["disc"], iterations=25)[20:-30]
    for frame, before in zip(found, read_video(path), strict=True):
        drawn = (np.abs(frame.astype(int) - before).max(axis=2) > 70)[20:-30]  # between the number and the notice
        assert drawn.sum() > 30
        assert (drawn & near).sum() > 0.9 * drawn.sum()
    assert not (tmp_path / "live").exists(), "no snapshot, no folder"


def test_in_real_time_frames_are_dropped_and_a_file_that_was_cut_ends_with_3(tmp_path: Path) -> None:
    path = write_video(tmp_path / "eye.avi", moved(draw_fundus(5, "L", (192, 200)).image, 60), fps=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, told, _ = call("--source", str(path), "--video", str(tmp_path / "out.mp4"), "--real-time", "--fps", "5")
    assert code == 3
    assert "it is cut off or damaged" in told["lost"]
    assert told["shown"] + told["dropped"] == told["read"] < 50
    assert told["videos"] == [str(tmp_path / "out.mp4")]
    code, _, said = call("--source", str(path), "--video", str(tmp_path / "out.mp4"))
    assert code == 2
    assert "nothing is overwritten" in said


def test_ctrl_c_ends_a_file_with_130_and_its_video_whole_and_a_window_nobody_looked_at_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "eye.mp4", moved(draw_fundus(5, "L", (192, 200)).image, 6))
    looks = iter(range(2))

    def interrupted(at: Any) -> Any:
        def look(self: Look, frame: Frame) -> Any:
            if next(looks, None) is None:
                raise KeyboardInterrupt
            return at(self, frame)

        return look

    with monkeypatch.context() as patch:
        patch.setattr(Look, "prepare", lambda self: None)
        patch.setattr(Look, "at", interrupted(Look.at))
        code, told, _ = call("--source", str(path), "--video", str(tmp_path / "out.mp4"))
    assert (code, told["shown"]) == (130, 2)
    assert len(read_video(tmp_path / "out.mp4")) == 2

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.live.session.threading", SimpleNamespace(Event=Impatient))
    code, told, said = call("--source", str(path), "--port", "0")
    assert (code, told["shown"]) == (0, 0), said
    assert "live: http://127.0.0.1:" in said
