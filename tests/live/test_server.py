"""The window: its picture and numbers, and nobody else's requests."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import simplejpeg

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.live.capture import Capture
from pipeline.live.server import HOST, Window
from pipeline.live.source import OpenCVSource
from tests.live.conftest import Camera, moved, number_of, plain, session_of
from tests.live.test_capture import gone
from tests.patience import LONG_S, wait_until


@pytest.fixture
def window(tmp_path: Path, bundle: Bundle) -> Iterator[Window]:
    session = session_of(Capture(Camera(10**6, every_s=0.02), gone, every_frame=False, real_time=False), tmp_path, window=True)
    thread = threading.Thread(target=session.run)
    with Window(session, 0) as window:
        thread.start()
        try:
            wait_until(lambda: session.latest is not None)
            yield window
        finally:
            session.stop()
            thread.join(LONG_S)


def ask(url: str, *, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(url, method=method, headers={key.replace("_", "-"): value for key, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=LONG_S) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_the_page_fetches_nothing_from_elsewhere_and_shows_numbers(window: Window) -> None:
    code, page, headers = ask(window.url)
    assert code == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for name in ("live.css", "live.js"):
        assert name.encode() in page
        code, content, _ = ask(window.url + name)
        assert code == 200
        assert b"://" not in content
    assert b"://" not in page
    status = json.loads(ask(window.url + "status")[1])
    assert status["state"] == "live"
    assert status["model"] == "tiny"
    assert {"fps_now", "latency_ms", "dropped", "shown", "detail"} <= set(status)


@pytest.mark.parametrize("kind", ["overlay", "plain"])
def test_the_stream_is_a_source_that_live_itself_can_read(window: Window, kind: str) -> None:
    with closing(OpenCVSource(f"{window.url}stream/{kind}")) as source:
        assert source.live
        read = [source.read() for _ in range(3)]
    numbers = [number_of(one[0]) for one in read if one is not None]
    assert len(numbers) == 3
    with urllib.request.urlopen(f"{window.url}stream/{kind}", timeout=LONG_S) as stream:
        assert stream.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=ocuseg-frame"
        assert stream.readline() == b"--ocuseg-frame\r\n"
        assert stream.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(stream.readline().split(b":")[1])
        assert stream.readline() == b"\r\n"
        assert simplejpeg.decode_jpeg(stream.read(size)).shape == plain().shape
        assert stream.readline() + stream.readline() == b"\r\n--ocuseg-frame\r\n", "a browser shows a part when the next one begins"


def test_other_pages_and_other_users_are_refused(window: Window) -> None:
    port = window.url.split(":")[2].split("/")[0]
    assert ask(window.url, Host=f"evil.example:{port}")[0] == 400, "DNS rebinding"
    for path in ("", "status", "stream/overlay", "wrong/status", "docs", "openapi.json"):
        assert ask(f"http://{HOST}:{port}/{path}")[0] == 404
    for what in ("snapshot", "record?on=true", "stop"):
        assert ask(window.url + what, method="POST")[0] == 403
        assert ask(window.url + what, method="POST", X_Ocuseg_Token="guess")[0] == 403
        assert ask(window.url + what)[0] in (404, 405)
    assert ask(f"{window.url}cases/../../../bundle")[0] == 404
    assert json.loads(ask(window.url + "status")[1])["snapshots"] == []


def test_the_buttons_take_a_snapshot_record_and_end_the_session(window: Window) -> None:
    def press(what: str) -> Any:
        code, answer, _ = ask(window.url + what, method="POST", X_Ocuseg_Token=window.token)
        assert code == 200, answer
        return json.loads(answer)

    assert press("record?on=true")["file"].endswith(".mp4")
    made = press("snapshot?eye=L")
    assert made["case"].split("_")[1] == "L"
    code, page, headers = ask(f"{window.url}cases/{made['page']}")
    assert code == 200
    assert made["case"].encode() in page
    assert "Content-Security-Policy" not in headers, "the page has its own"
    assert json.loads(ask(window.url + "status")[1])["snapshots"] == [made]
    assert press("record?on=false")["file"].endswith(".mp4")
    assert ask(window.url + "snapshot?eye=X", method="POST", X_Ocuseg_Token=window.token)[0] == 422
    press("stop")


def test_a_port_that_is_taken_is_said(window: Window, tmp_path: Path) -> None:
    port = int(window.url.split(":")[2].split("/")[0])
    session = session_of(Capture(Camera(1), gone, every_frame=False, real_time=False), tmp_path / "other")
    with pytest.raises(ConfigError, match=f"--port {port}: it cannot be used"):
        Window(session, port)


class Stream(http.server.BaseHTTPRequestHandler):
    """A network camera that hangs up after ten frames."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        self.end_headers()
        for frame in moved(plain(), 10):
            data = simplejpeg.encode_jpeg(frame, quality=90)
            self.wfile.write(b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n")

    def log_message(self, *_: object) -> None: ...


def test_a_network_camera_that_hangs_up_is_called_again_and_then_given_up() -> None:
    server = http.server.ThreadingHTTPServer((HOST, 0), Stream)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    address = f"http://user:secret@{HOST}:{server.server_port}/eye.mjpg"
    try:
        capture = Capture(OpenCVSource(address), lambda: OpenCVSource(address), every_frame=False, real_time=False, patience_s=4)
        capture.start()
        wait_until(lambda: capture.reconnections >= 1 and capture.read > 12)
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
    try:
        with pytest.raises(ConfigError, match=rf"the stream http://{HOST}:{server.server_port}/eye.mjpg does not answer"):
            OpenCVSource(address)
        wait_until(lambda: capture.state == "ended")
        assert "did not come back within 4 s" in capture.lost_why
    finally:
        capture.stop()
