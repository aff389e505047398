"""A small folder of predictions, and a browser that speaks to a review server of it."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reports.worklist import write_report
from pipeline.review.server import Wishes, started
from tests.patience import LONG_S
from tests.reports.conftest import Out, disc_and_cup

FIRST, FELLOW, UNKNOWN = "pa_R_v1_i1", "pa_L_v1_i1", "pb_U_v1_i1"


class Browser:
    """Speaks HTTP to a server on a port, with a cookie, a token and headers of its own."""

    def __init__(self, port: int, **headers: str) -> None:
        self.port, self.headers = port, {"Host": f"127.0.0.1:{port}"} | {key.replace("_", "-"): value for key, value in headers.items()}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG_S)
        given = self.headers | {key.replace("_", "-"): value for key, value in headers.items()}
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        code, content, _ = self.ask("GET", path)
        assert code == 200, content
        return json.loads(content)

    def post(self, path: str, sent: dict[str, Any], **headers: str) -> tuple[int, Any]:
        """With the token of the session's page."""
        token = {"X_CSRF_Token": self.get("/api/session")["csrf"]}
        code, content, _ = self.ask("POST", path, json.dumps(sent).encode(), **(token | {"Content_Type": "application/json"} | headers))
        return code, json.loads(content)

    def log_in(self, name: str, password: str) -> int:
        body = f"name={name}&password={password}&next=/".encode()
        code, _, headers = self.ask("POST", "/login", body, Content_Type="application/x-www-form-urlencoded")
        if code == 303:
            cookie = headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            self.headers["Cookie"] = cookie.partition(";")[0]
        return code


Serve = Callable[..., Browser]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disc and cup of three photographs, 60 x 80 px, with their report."""
    out = Out(tmp_path_factory.mktemp("review") / "out")
    of_header = {"laterality_source": "tag"}
    for name, geometry in ((FIRST, {"laterality": "R"} | of_header), (FELLOW, {"laterality": "L"} | of_header), (UNKNOWN, {})):
        out.add(name, disc_and_cup(60, 80), np.full((60, 80, 3), 90, np.uint8), geometry=geometry)
    write_report(out.path)
    return out.path


@pytest.fixture
def predictions(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "out"))


@pytest.fixture(scope="session")
def refusing(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Speaks to one server for all tests of what is refused; at the end its review must still be empty."""
    folder = Path(shutil.copytree(template, tmp_path_factory.mktemp("refusing") / "out"))
    with started(folder, Wishes(port=0, reviewer="Ada", allowed_hosts=["review.example.org"])) as server:
        yield Browser(server.port)
    assert [path.name for path in (folder / "review").iterdir()] == ["sessions.json"]


@pytest.fixture
def serve(predictions: Path) -> Iterator[Serve]:
    """Starts servers of the folder that end with the test; returns a browser that speaks to one."""
    with ExitStack() as servers:

        def start(**wishes: Any) -> Browser:
            given = {"reviewer": None if "accounts" in wishes or "proxy_header" in wishes else "Ada", "port": 0} | wishes
            return Browser(servers.enter_context(started(predictions, Wishes(**given))).port)

        yield start
