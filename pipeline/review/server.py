"""A review server from what a user asked for: what would be unsafe is refused before anything listens."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.review.accounts import Accounts, checked_name, default_accounts
from pipeline.review.app import application
from pipeline.review.catalogue import Catalogue, Order
from pipeline.review.review import Review
from pipeline.review.sessions import Access
from pipeline.serving import LOOPBACK, Serving
from pipeline.types import ProgressCallback

logger = logging.getLogger(__name__)

_ANY = ("0.0.0.0", "::", "")  # noqa: S104
PORT = 8800


@dataclass(frozen=True)
class Wishes:
    """``login``: local accounts also where only this machine can reach the server · ``certificate``: PEM files of a certificate and its
    key · ``proxies``: addresses that ``proxy_header`` is believed from."""

    host: str = LOOPBACK[0]
    port: int = PORT
    allowed_hosts: Sequence[str] = ()
    reviewer: str | None = None
    login: bool = False
    accounts: Path | None = None
    proxy_header: str | None = None
    proxies: Sequence[str] = ()
    second: Sequence[str] = ()
    adjudicators: Sequence[str] = ()
    blinded: bool = False
    certificate: tuple[Path, Path] | None = None


def access_of(wishes: Wishes) -> Access:
    """How reviewers are known.

    Raises
    ------
    ConfigError: other machines could reach a server without login; no account is there; options contradict each other.
    """
    accounts = None
    if wishes.proxy_header:
        if wishes.login or wishes.accounts is not None:
            raise ConfigError("--proxy-header and local accounts exclude each other: one of them says who a reviewer is")
    elif wishes.login or wishes.accounts is not None or wishes.host not in LOOPBACK:
        accounts = Accounts(wishes.accounts or default_accounts())
        if not accounts.names():
            why = "reviewers log in" if wishes.host in LOOPBACK else f"--host {wishes.host}: others can reach it, so reviewers log in"
            how = "make an account with `ocuseg review accounts add NAME`, or give --proxy-header behind a reverse proxy"
            raise ConfigError(f"{why}, and there is no account yet: {how}")
    elif wishes.proxies:
        raise ConfigError("--proxy-from says whose --proxy-header is believed; give both")
    if wishes.reviewer is not None and (accounts is not None or wishes.proxy_header):
        raise ConfigError("--reviewer is for a server without login; here the login says who a reviewer is")
    if both := set(wishes.second) & set(wishes.adjudicators):
        raise ConfigError(f"{min(both)} cannot be second reader and adjudicator")
    if accounts is not None and wishes.certificate is None and wishes.host not in LOOPBACK:
        logger.warning("passwords cross the network unencrypted: give --certificate and --key, or use a reverse proxy with TLS")
    return Access(
        reviewer=checked_name(wishes.reviewer or _own_name()),
        accounts=accounts,
        proxy_header=wishes.proxy_header or "",
        proxies=frozenset(wishes.proxies or ("127.0.0.1", "::1")),
        second=frozenset(wishes.second),
        adjudicators=frozenset(wishes.adjudicators),
        blinded=wishes.blinded,
        hosts=_hosts(wishes),
        secure=wishes.certificate is not None,
    )


def started(predictions: Path, wishes: Wishes, *, order: Order = list, progress: ProgressCallback | None = None) -> Serving:
    """A server whose report is up to date and whose port is taken; it answers while its block runs.

    Raises
    ------
    ConfigError: see :func:`access_of`; the port is taken. NothingUsableError: the folder holds no predictions.
    """
    access = access_of(wishes)
    review = Review(predictions, Catalogue(predictions, order, progress), blinded=wishes.blinded)
    return _ReviewServing(review, access, wishes)


class _ReviewServing(Serving):
    """Ends what is measured beside the requests, too."""

    def __init__(self, review: Review, access: Access, wishes: Wishes) -> None:
        super().__init__(application(review, access), wishes.host, wishes.port, wishes.certificate)
        self._review = review

    def __exit__(self, *error: object) -> None:
        self._review.numbers.close()
        super().__exit__(*error)


def _hosts(wishes: Wishes) -> frozenset[str]:
    """The names that a browser may know the server by."""
    if wishes.host in _ANY and not wishes.allowed_hosts:
        raise ConfigError("--host is every address of this machine; say by --allowed-host NAME which name browsers know it by")
    own = () if wishes.host in _ANY else (f"[{wishes.host}]" if ":" in wishes.host else wishes.host,)
    return frozenset(name.lower() for name in (*Access.hosts, *own, *wishes.allowed_hosts))


def _own_name() -> str:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "reviewer"
