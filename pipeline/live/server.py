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
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import simplejpeg
from fastapi import APIRouter, FastAPI, Header, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.errors import OcusegError
from pipeline.live.look import Shown
from pipeline.live.session import Session
from pipeline.live.snapshots import Eye
from pipeline.serving import HEADERS, Serving

HOST = "127.0.0.1"
_PAGE = Path(__file__).parent / "page"
_QUALITY = 88
_LOOK_AGAIN_S = 0.01
_PATIENCE_S = 300
_BOUNDARY = b"--ocuseg-frame\r\n"
_POLICY = (
    "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Window(Serving):
    """Serves a session's page while the block runs; ``url`` is where.

    Raises
    ------
    ConfigError: the port is taken.
    """

    def __init__(self, session: Session, port: int) -> None:
        self.token = secrets.token_urlsafe(18)
        super().__init__(application(session, self.token), HOST, port)
        self.url = f"http://{HOST}:{self.port}/{self.token}/"


def application(session: Session, token: str) -> FastAPI:
    """The page, its picture, its numbers and its buttons, all below ``/token/``."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    pages = APIRouter(prefix=f"/{token}")
    jpeg = functools.lru_cache(maxsize=4)(_jpeg)  # several windows share what was encoded once

    @app.middleware("http")
    async def with_headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        response.headers.update(HEADERS)
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
