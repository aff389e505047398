"""What the pages that ocuseg serves have in common: the port, the headers, and a server in a thread of its own."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import uvicorn

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Serving:
    """An application's server, in a thread while the block runs; ``port`` is the one that it got.

    Parameters
    ----------
    port: 0 takes any that is free.
    certificate: PEM files of a certificate and its key, for TLS.

    Raises
    ------
    ConfigError: the port is taken, or the certificate cannot be used.
    """

    def __init__(self, app: Starlette, host: str, port: int, certificate: tuple[Path, Path] | None = None) -> None:
        chain, key = (None, None) if certificate is None else certificate
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", proxy_headers=False, server_header=False,
            timeout_graceful_shutdown=2, ssl_certfile=chain, ssl_keyfile=key,
        )  # fmt: skip
        try:
            config.load()
        except OSError as error:  # an SSLError is one
            raise ConfigError(f"the certificate or its key cannot be used ({error.strerror or error})") from None
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(config)
        self._ended = threading.Event()  # a join that a signal interrupts takes a running thread for one that has ended (bpo-45274)
        self._thread = threading.Thread(target=self._run, name="ocuseg-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._ended.wait(10)
        self._socket.close()

    def wait(self) -> None:
        """Return when the server has ended."""
        while not self._ended.wait(1.0):
            pass  # a signal is seen between two waits

    def _run(self) -> None:
        try:
            self._server.run([self._socket])
        finally:
            self._ended.set()


def _listening(host: str, port: int) -> socket.socket:
    found: socket.socket | None = None
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        if found is not None:
            found.close()
        why = f"--port {port}: it cannot be used ({error.strerror}); give another one, or 0 for any that is free"
        raise ConfigError(why) from None
    return found
