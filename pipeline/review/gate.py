"""What every request passes first: is it for this server, from whom, and may it change anything?

A request for another host is a rebound DNS name; one that changes something must come from this server's own page, which knows the
visitor's token, and say how long it is. Every answer carries the headers that keep a browser from doing more with it than shown.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import ConfigError, OcusegError
from pipeline.review import login, pages
from pipeline.review.sessions import COOKIE, Access, Sessions, Visitor, visitor
from pipeline.serving import HEADERS

MOST_BYTES = 256 << 20
"""Of one correction: a volume's masks, base64."""
_OPEN = ("/login",)


class Refused(OcusegError):
    """A request that is not answered; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gate:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions) -> None:
        self._app, self._access, self._sessions = app, access, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        nonce = secrets.token_urlsafe(16)
        scope.setdefault("state", {})["nonce"] = nonce

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers.setdefault(key, value)
                headers["Content-Security-Policy"] = pages.policy(nonce)
                headers["X-Frame-Options"] = "DENY"
                headers["Referrer-Policy"] = "same-origin"  # under "no-referrer" a browser sends the login's form with Origin: null
            await send(message)

        request = Request(scope)
        try:
            self._check_place(request)
            found = self._visitor(request)
            self._check_change(request, found)
        except Refused as refused:
            answer: Response = JSONResponse({"message": str(refused)}, refused.status)
            if refused.status == 401 and self._access.accounts is not None and "text/html" in request.headers.get("accept", ""):
                target = quote(login.safe_target(request.url.path))
                answer = RedirectResponse(f"/login?next={target}", 303)
            await answer(scope, receive, with_headers)
            return
        scope["state"]["visitor"] = found
        await self._app(scope, receive, with_headers)

    def _check_place(self, request: Request) -> None:
        if _name(request.headers.get("host", "")) not in self._access.hosts:
            raise Refused(403, "this server does not answer to that host name; name it with --allowed-host")

    def _visitor(self, request: Request) -> Visitor | None:
        header = request.headers.get(self._access.proxy_header) if self._access.proxy_header else None
        address = request.client.host if request.client else ""
        try:
            found = visitor(self._access, self._sessions, address, header, request.cookies.get(COOKIE))
        except ConfigError as error:
            raise Refused(403, str(error)) from None
        if found is None and request.url.path not in _OPEN:
            raise Refused(401, "log in first")
        return found

    def _check_change(self, request: Request, found: Visitor | None) -> None:
        if request.method in ("GET", "HEAD"):
            return
        origin = request.headers.get("origin")
        if origin is not None and _name(urlsplit(origin).netloc) not in self._access.hosts:
            raise Refused(403, "the request comes from another site's page")
        given = request.headers.get("x-csrf-token", "")
        if request.url.path not in _OPEN and (found is None or not hmac.compare_digest(given.encode(), found.csrf.encode())):
            raise Refused(403, "the request does not come from this server's own page; load the page again")
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise Refused(411, "a request says how long it is")
        if int(length) > (MOST_BYTES if request.url.path.endswith("/edit") else 64 << 10):
            raise Refused(413, "the request is too large")


def visitor_of(request: Request) -> Visitor:
    found: Visitor = request.state.visitor
    return found


def nonce_of(request: Request) -> str:
    return str(request.state.nonce)


def _name(place: str) -> str:
    """HOST of HOST:PORT; an IPv6 address stays in its brackets."""
    name = place.rpartition(":")[0] if place.rpartition(":")[2].isdecimal() and not place.endswith("]") else place
    return name.lower()
