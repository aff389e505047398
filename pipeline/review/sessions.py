"""Who a request comes from: the one reviewer of a loopback server, a login's cookie, or a reverse proxy's header.

Sessions are random tokens; PREDICTIONS/review/sessions.json holds their SHA-256 alone, so that they outlive a crash of the server and
nobody can take one from a backup. A page proves that it is the server's own by a token made from its session and a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from pipeline.errors import ConfigError
from pipeline.review.accounts import Accounts, checked_name, write_private
from pipeline.review.log import REVIEW, Role
from pipeline.types.assessment import Record

COOKIE = "ocuseg_review"
LASTS_S = 12 * 3600
SESSIONS_FILE = "sessions.json"


@dataclass(frozen=True)
class Access:
    """How reviewers are known, and what each is: everybody but ``second`` and ``adjudicators`` is a reader.

    ``reviewer``: of a server without login · ``accounts``: local ones · ``proxy_header``: names the reviewer, from ``proxies`` alone ·
    ``blinded``: readers and second readers do not see each other before their own verdict · ``hosts`` that the server answers to.
    """

    reviewer: str = ""
    accounts: Accounts | None = None
    proxy_header: str = ""
    proxies: frozenset[str] = frozenset()
    second: frozenset[str] = frozenset()
    adjudicators: frozenset[str] = frozenset()
    blinded: bool = False
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "[::1]"})
    secure: bool = False

    def role(self, reviewer: str) -> Role:
        return "adjudicator" if reviewer in self.adjudicators else "second" if reviewer in self.second else "reader"


@dataclass(frozen=True)
class Visitor:
    """Whom a request comes from, and the token that their pages repeat with all that changes anything."""

    reviewer: str
    role: Role
    blinded: bool
    csrf: str = field(repr=False)


class _Session(Record):
    reviewer: str
    until: float
    mark: str


class _File(Record):
    secret: str
    sessions: dict[str, _Session] = Field({})


class Sessions:
    """The sessions of one folder of predictions; threads may share it."""

    def __init__(self, predictions: Path) -> None:
        self._path = predictions / REVIEW / SESSIONS_FILE
        self._lock = threading.Lock()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = _File.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):  # none yet; of a damaged one everybody logs in again
            self._file = _File(secret=secrets.token_urlsafe(32))
            self._write(self._file.sessions)

    def begin(self, reviewer: str, mark: str) -> str:
        """A new session's token, for a cookie."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._write(self._file.sessions | {_digest(token): _Session(reviewer=reviewer, until=time.time() + LASTS_S, mark=mark)})
        return token

    def end(self, token: str) -> None:
        with self._lock:
            self._write({key: one for key, one in self._file.sessions.items() if key != _digest(token)})

    def reviewer(self, token: str, accounts: Accounts) -> str | None:
        """Whose session it is; None where it has ended, or the account or its password is another by now."""
        found = self._file.sessions.get(_digest(token))
        if found is None or found.until < time.time() or accounts.mark(found.reviewer) != found.mark:
            return None
        return found.reviewer

    def csrf(self, token: str) -> str:
        return hmac.new(self._file.secret.encode(), token.encode(), hashlib.sha256).hexdigest()

    def _write(self, sessions: dict[str, _Session]) -> None:
        alive = {key: one for key, one in sessions.items() if one.until > time.time()}
        self._file = _File(secret=self._file.secret, sessions=alive)
        write_private(self._path, self._file.model_dump_json() + "\n")


def visitor(access: Access, sessions: Sessions, address: str, header: str | None, cookie: str | None) -> Visitor | None:
    """Whom a request from ``address`` with this proxy's header and this cookie comes from; None where nobody has logged in.

    Raises
    ------
    ConfigError: the proxy's header comes from elsewhere, or holds no name.
    """
    if access.proxy_header:
        if address not in access.proxies:
            raise ConfigError("this server answers to its reverse proxy alone")
        name = checked_name(header) if header else None
        token = f"proxy:{name}"
    elif access.accounts is not None:
        name = sessions.reviewer(cookie, access.accounts) if cookie else None
        token = cookie or ""
    else:
        name, token = access.reviewer, ""
    if name is None:
        return None
    role = access.role(name)
    return Visitor(name, role, access.blinded and role != "adjudicator", sessions.csrf(token))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
