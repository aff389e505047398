"""The window of a live session: one page in the browser of this machine, and nobody else's.

It listens on 127.0.0.1 alone, answers only to that name (against DNS rebinding), and everything lies below a secret path, which other
users of the machine and other pages in the browser do not know. What changes anything is a POST that repeats the secret in a header,
which no form and no foreign page can send.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import simplejpeg
import uvicorn
from fastapi import APIRouter, FastAPI, Header, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.errors import ConfigError, OcusegError
from pipeline.live.look import Shown
from pipeline.live.session import Session
from pipeline.live.snapshots import Eye

HOST = "127.0.0.1"
_PAGE = Path(__file__).parent / "page"
_QUALITY = 88
_LOOK_AGAIN_S = 0.01
_PATIENCE_S = 300
_BOUNDARY = b"--ocuseg-frame\r\n"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = (
    "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Window:
    """Serves a session's page from a thread of its own while the block runs; ``url`` is where.

    Raises
    ------
    ConfigError: the port is taken.
    """

    def __init__(self, session: Session, port: int) -> None:
        self._socket = _listening(port)
        self.token = secrets.token_urlsafe(18)
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}/{self.token}/"
        config = uvicorn.Config(application(session, self.token), log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="ocuseg-window", daemon=True)

    def __enter__(self) -> Window:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


def application(session: Session, token: str) -> FastAPI:
    """The page, its picture, its numbers and its buttons, all below ``/token/``."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    pages = APIRouter(prefix=f"/{token}")
    jpeg = functools.lru_cache(maxsize=4)(_jpeg)  # several windows share what was encoded once

    @app.middleware("http")
    async def with_headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        response.headers.update(_HEADERS)
        if not request.url.path.startswith(f"/{token}/cases/"):  # those pages bring their own
            response.headers["Content-Security-Policy"] = _POLICY
        return response

    def allowed(given: str) -> None:
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(403, "the request is not from this session's page")

    @app.exception_handler(OcusegError)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @pages.get("/")
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "live.html")

    @pages.get("/stream/{picture}")
    async def stream(picture: Literal["overlay", "plain"]) -> StreamingResponse:
        session.watched.set()
        parts = _parts(session, lambda shown: jpeg(shown, picture == "plain"))
        return StreamingResponse(parts, media_type="multipart/x-mixed-replace; boundary=ocuseg-frame")

    @pages.get("/status")
    def status() -> dict[str, Any]:
        return session.status()

    @pages.post("/snapshot")
    async def snapshot(x_ocuseg_token: Annotated[str, Header()] = "", eye: Eye = "U") -> dict[str, str]:
        allowed(x_ocuseg_token)
        made = await asyncio.wait_for(asyncio.wrap_future(session.snapshot(eye)), _PATIENCE_S)
        return {"case": made.case, "page": made.page.as_posix()}

    @pages.post("/record")
    async def record(on: bool, x_ocuseg_token: Annotated[str, Header()] = "") -> dict[str, str]:
        allowed(x_ocuseg_token)
        return {"file": await asyncio.wait_for(asyncio.wrap_future(session.record(on)), _PATIENCE_S)}

    @pages.post("/stop")
    def stop(x_ocuseg_token: Annotated[str, Header()] = "") -> dict[str, str]:
        allowed(x_ocuseg_token)
        session.stop()
        return {}

    app.include_router(pages)
    app.mount(f"/{token}/cases", _Cases(directory=session.snapshots.predictions, html=True, check_dir=False))
    app.mount(f"/{token}", StaticFiles(directory=_PAGE))
    return app


class _Cases(StaticFiles):
    """A folder that comes with the first snapshot."""

    async def check_config(self) -> None:
        if self.directory is None or not Path(self.directory).is_dir():
            raise HTTPException(404)


async def _parts(session: Session, jpeg: Callable[[Shown], bytes]) -> AsyncIterator[bytes]:
    """Motion JPEG: whoever is slow gets the newest overlay next, and never one twice. A browser shows a part when the next one's boundary
    has come, so that follows at once."""
    last: Shown | None = None
    yield _BOUNDARY
    while not session.over:
        shown = session.latest
        if shown is None or shown is last:
            await asyncio.sleep(_LOOK_AGAIN_S)
            continue
        last = shown
        data = await asyncio.to_thread(jpeg, shown)
        yield b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n" + _BOUNDARY


def _jpeg(shown: Shown, plain: bool) -> bytes:
    picture = shown.frame.pixels if plain else shown.overlay
    return bytes(simplejpeg.encode_jpeg(picture, quality=_QUALITY, colorspace="RGB"))


def _listening(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()
    except OSError as error:
        found.close()
        why = f"--port {port}: it cannot be used ({error.strerror}); give another one, or 0 for any that is free"
        raise ConfigError(why) from None
    return found
