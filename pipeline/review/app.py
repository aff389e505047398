"""The review's web application: the report's pages, the worklist, and a small JSON API that the pages in the browser speak.

Nothing of a network is loaded here: a mask that was predicted is shown, judged and corrected without a GPU.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from pipeline.errors import ConfigError, OcusegError
from pipeline.review import login, pages
from pipeline.review.accounts import Throttle
from pipeline.review.catalogue import UnknownCase
from pipeline.review.gate import Gate, Refused, nonce_of, visitor_of
from pipeline.review.log import Event, LogUnusable, VersionConflict
from pipeline.review.review import Review
from pipeline.review.sessions import COOKIE, LASTS_S, Access, Sessions, Visitor
from pipeline.review.submitted import REASONS, SentComment, SentEdit, SentEye, SentVerdict

Who = Annotated[Visitor, Depends(visitor_of)]


def application(review: Review, access: Access) -> FastAPI:
    """All that the server answers to; see docs/review.md for the API."""
    sessions = Sessions(review.predictions)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(_login(access, sessions))
    app.include_router(_api(review, access))
    app.include_router(_pages(review))
    for kind, answer in ((OcusegError, _refused), (RequestValidationError, _invalid), (HTTPException, _failed), (OSError, _unstored)):
        app.add_exception_handler(kind, answer)
    app.add_middleware(Gate, access=access, sessions=sessions)
    return app


def _api(review: Review, access: Access) -> APIRouter:
    api = APIRouter(prefix="/api")

    def done(case: str, visitor: Visitor, event: Event) -> dict[str, Any]:
        said = {"verdict": event.verdict, "next": review.next(case, visitor)} if event.verdict else {}
        return {"version": review.version(case, visitor)} | said

    @api.get("/session")
    def session(who: Who) -> dict[str, Any]:
        return {
            "reviewer": who.reviewer,
            "role": who.role,
            "blinded": who.blinded,
            "csrf": who.csrf,
            "login": access.accounts is not None,
            "folder": review.id,
            "order": review.catalogue.order,
            "reasons": [{"code": code, "text": text} for code, text in REASONS.items()],
        }

    @api.get("/progress")
    def progress(who: Who) -> dict[str, Any]:
        return review.progress(who)

    @api.get("/cases/{case}")
    def one(case: str, who: Who) -> dict[str, Any]:
        return review.case(case, who)

    @api.post("/cases/{case}/verdict")
    def verdict(case: str, sent: SentVerdict, who: Who) -> dict[str, Any]:
        return done(case, who, review.verdict(case, who, sent))

    @api.post("/cases/{case}/edit")
    def edit(case: str, sent: SentEdit, who: Who) -> dict[str, Any]:
        return done(case, who, review.edit(case, who, sent))

    @api.post("/cases/{case}/eye")
    def eye(case: str, sent: SentEye, who: Who) -> dict[str, Any]:
        return done(case, who, review.eye(case, who, sent))

    @api.post("/cases/{case}/comment")
    def comment(case: str, sent: SentComment, who: Who) -> dict[str, Any]:
        return done(case, who, review.comment(case, who, sent))

    @api.get("/cases/{case}/instances")
    def instances(case: str, who: Who, correction: str = "") -> dict[str, Any]:
        return review.instances(case, who, correction)

    @api.get("/numbers")
    def all_numbers(who: Who) -> dict[str, Any]:
        return review.all_numbers(who)

    @api.get("/cases/{case}/numbers")
    def numbers(case: str, correction: str, who: Who) -> dict[str, Any]:
        return review.numbers_of(case, who, correction)

    @api.get("/cases/{case}/corrections/{correction}/{file}")
    def correction(case: str, correction: str, file: str, who: Who) -> FileResponse:
        found = review.correction_file(case, who, correction, file)
        if found is None:
            raise HTTPException(404)
        return FileResponse(found, headers={"Cache-Control": "private, max-age=31536000, immutable"})

    return api


def _pages(review: Review) -> APIRouter:
    router = APIRouter()

    @router.get("/{path:path}")
    def served(path: str, request: Request, who: Who) -> Response:
        if path in ("", "index.html"):
            with suppress(ConfigError):  # another process is writing the report; the next time will do
                review.refresh()
            path = "index.html"
        found = pages.file_of(review.predictions, path)
        if found is None:
            raise HTTPException(404)
        if found.suffix != ".html":
            lasting = "private, max-age=3600" if found.suffix in (".png", ".jpg") else "no-cache"
            return FileResponse(found, headers={"Cache-Control": lasting})
        case = pages.case_of(path)
        model = review.drawn(case)  # before the page is read
        page = pages.with_bar(found.read_text(encoding="utf-8"), case, model, who, nonce_of(request))
        return Response(page, media_type="text/html; charset=utf-8")

    return router


def _login(access: Access, sessions: Sessions) -> APIRouter:
    router, throttle = APIRouter(), Throttle()

    def form(request: Request, target: str, message: str = "", status: int = 200) -> Response:
        return Response(login.page(nonce_of(request), target, message), status, media_type="text/html; charset=utf-8")

    @router.get("/login")
    def shown(request: Request, next: str = "/") -> Response:
        return form(request, next) if access.accounts is not None else RedirectResponse("/", 303)

    @router.post("/login")
    async def sent(request: Request) -> Response:
        return await asyncio.to_thread(_answer, request, *login.fields(await request.body()))

    def _answer(request: Request, name: str, password: str, target: str) -> Response:
        if access.accounts is None:
            raise HTTPException(404)
        address = request.client.host if request.client else ""
        if wait := throttle.wait_s(name, address):
            return form(request, target, f"Too many failed logins: try again in {wait} seconds.", 429)
        if not access.accounts.accepts(name, password):
            return form(request, target, "Name or password is wrong.", 401)
        throttle.succeeded(name, address)
        answer = RedirectResponse(login.safe_target(target), 303)
        token = sessions.begin(name, access.accounts.mark(name) or "")
        answer.set_cookie(COOKIE, token, max_age=LASTS_S, httponly=True, samesite="strict", secure=access.secure)
        return answer

    @router.post("/logout")
    def ended(request: Request) -> Response:
        sessions.end(request.cookies.get(COOKIE, ""))
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE)
        return answer

    return router


async def _refused(request: Request, error: Exception) -> Response:
    """A user's mistake: one sentence, and who was first where somebody was."""
    if isinstance(error, VersionConflict):
        return JSONResponse({"message": str(error), "version": error.version, "by": error.by, "at": error.at}, 409)
    status = error.status if isinstance(error, Refused) else 404 if isinstance(error, UnknownCase) else 422
    if isinstance(error, LogUnusable):  # the page keeps what it sent, and sends it again
        status = 503
    return JSONResponse({"message": str(error)}, status)


async def _invalid(request: Request, error: Exception) -> Response:
    fault = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": str(error)}
    where = ".".join(str(part) for part in fault["loc"] if part != "body")
    return JSONResponse({"message": f"{where}: {fault['msg']}" if where else str(fault["msg"])}, 422)


async def _unstored(request: Request, error: Exception) -> Response:
    """The system refused: a full disk, a share that is gone. What was acknowledged is there; this was not."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return JSONResponse({"message": f"this could not be stored or read ({why}); nothing that was stored is lost, try it again"}, 503)


async def _failed(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse({"message": "there is nothing here" if status == 404 else "this cannot be asked"}, status)
