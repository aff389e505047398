"""Who may log in: local accounts with salted scrypt hashes, and what slows down whoever guesses passwords.

scrypt (RFC 7914) with N = 2^15, r = 8, p = 1 takes 32 MiB and about a tenth of a second; OWASP's list of parameters has it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from pipeline.atomic import atomic_path
from pipeline.errors import ConfigError
from pipeline.types.assessment import Record
from pipeline.types.case_record import first_fault

SHORTEST_PASSWORD = 10
LONGEST_NAME = 64
_COST, _BLOCK, _LANES = 1 << 15, 8, 1
_MEMORY = 64 << 20
_WINDOW_S = 300.0
_MOST_BY_NAME, _MOST_BY_ADDRESS = 5, 20
_one_at_a_time = threading.Lock()
"""Many logins at once must not take 32 MiB each."""


class _Account(Record):
    salt: str
    hash: str
    changed: str = ""


class _File(Record):
    accounts: dict[str, _Account] = Field({})


def default_accounts() -> Path:
    """$OCUSEG_ACCOUNTS, else .config/ocuseg/accounts.json in the home folder, beside the site key."""
    given = os.environ.get("OCUSEG_ACCOUNTS")
    return Path(given) if given else Path.home() / ".config" / "ocuseg" / "accounts.json"


def checked_name(name: str) -> str:
    """A reviewer's name as the log holds it. Raises ConfigError where it is empty, too long or holds what no name does."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"a reviewer's name has 1 to {LONGEST_NAME} printable characters")
    return name


class Accounts:
    """The accounts in one file, which only its owner may read. It is read anew at each login, so that a change counts at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return sorted(self._read())

    def add(self, name: str, password: str) -> None:
        """A new account, or a new password of one that is there; raises ConfigError where the password is too short."""
        if len(password) < SHORTEST_PASSWORD:
            raise ConfigError(f"a password has at least {SHORTEST_PASSWORD} characters")
        salt = secrets.token_bytes(16)
        made = _Account(salt=_text(salt), hash=_text(_scrypt(password, salt)), changed=datetime.now(UTC).isoformat(timespec="seconds"))
        self._write(self._read() | {checked_name(name): made})

    def remove(self, name: str) -> None:
        """Raises ConfigError where there is no such account."""
        known = self._read()
        if known.pop(name, None) is None:
            raise ConfigError(f"there is no account {name!r}; there are: {', '.join(sorted(known)) or 'none'}")
        self._write(known)

    def accepts(self, name: str, password: str) -> bool:
        """Whether this is the account's password; a name that is not known takes as long."""
        known = self._read().get(name)
        salt, stored = (b"no account here!", b"") if known is None else (base64.b64decode(known.salt), base64.b64decode(known.hash))
        with _one_at_a_time:
            given = _scrypt(password, salt)
        return hmac.compare_digest(given, stored)

    def mark(self, name: str) -> str | None:
        """Changes with the account's password; None where there is no account."""
        known = self._read().get(name)
        return None if known is None else hashlib.sha256(known.hash.encode()).hexdigest()[:16]

    def _read(self) -> dict[str, _Account]:
        try:
            return dict(_File.model_validate_json(self.path.read_bytes()).accounts)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"the file of accounts {str(self.path)!r} cannot be read ({first_fault(error)})") from None

    def _write(self, accounts: dict[str, _Account]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_private(self.path, _File(accounts=accounts).model_dump_json(indent=1) + "\n")


class Throttle:
    """Counts failed logins of the last five minutes by name and by address."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._lock = threading.Lock()

    def wait_s(self, name: str, address: str) -> int:
        """Seconds until another try is answered; 0 where that is now: then it counts as failed until it is said to have succeeded, so
        that many at once get no further than one after the other."""
        now = time.monotonic()
        with self._lock:
            for key in list(self._failed):
                self._failed[key] = [at for at in self._failed[key] if now - at < _WINDOW_S]
                if not self._failed[key]:
                    del self._failed[key]
            waits = [
                self._failed[key][-most] + _WINDOW_S - now
                for key, most in ((("name", name), _MOST_BY_NAME), (("address", address), _MOST_BY_ADDRESS))
                if len(self._failed.get(key, ())) >= most
            ]
            if not waits:
                for key in (("name", name), ("address", address)):
                    self._failed[key].append(now)
        return max(1, round(max(waits))) if waits else 0

    def succeeded(self, name: str, address: str) -> None:
        with self._lock:
            self._failed.pop(("name", name), None)
            self._failed[("address", address)].pop()


def write_private(path: Path, text: str) -> None:
    """Replace a file that nobody else may read, whole or not at all."""
    with atomic_path(path, durable=True) as staged:
        staged.unlink(missing_ok=True)
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_LANES, maxmem=_MEMORY, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
