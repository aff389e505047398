"""Our own port: a Storage SCP to which a PACS sends what C-MOVE asked for, or what arrives (PS3.4 annex B)."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from pipeline.errors import ConfigError
from pipeline.pacs.contexts import SYNTAXES
from pipeline.pacs.settings import DimseSettings


class StorageScp:
    """Listens while its block lasts; ``on_store`` is called with each object, from several threads, and returns a DIMSE status.

    Only a peer that calls us by our AE title, and says that it is the PACS, is listened to.

    Raises
    ------
    ConfigError: there is no port of our own in the PACS file, or it cannot be listened on.
    """

    def __init__(self, name: str, dimse: DimseSettings, folder: Path, on_store: Callable[[evt.Event], int], *more: Any) -> None:
        if dimse.own_port is None:
            raise ConfigError(f"pacs {name}: there is no port that the PACS could connect to; give dimse.own_port in the PACS file")
        self._place = (dimse.own_port.address, dimse.own_port.port)
        self._name, self._handlers = name, [(evt.EVT_C_STORE, on_store), *more]
        self._tls = None if dimse.tls is None else server_tls(name, dimse, folder)
        self._entity = AE(dimse.calling_ae)
        self._entity.require_called_aet = True
        self._entity.require_calling_aet = [dimse.called_ae]
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(context.abstract_syntax, list(SYNTAXES))
        self._entity.add_supported_context(Verification)
        self._entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)

    def __enter__(self) -> Self:
        address, port = self._place
        try:
            self._server = self._entity.start_server(self._place, block=False, evt_handlers=self._handlers, ssl_context=self._tls)
        except OSError as error:
            raise ConfigError(
                f"pacs {self._name}: {address}:{port} cannot be listened on ({error.strerror}); check dimse.own_port"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()


def server_tls(name: str, dimse: DimseSettings, folder: Path) -> ssl.SSLContext:
    """TLS of our own port: with the certificate of the PACS file; where it has a CA bundle, the PACS must show one, too."""
    assert dimse.tls is not None
    files = dimse.tls.files(folder, f"pacs {name}: dimse.tls")
    if "certificate" not in files:
        raise ConfigError(f"pacs {name}: our own port with TLS needs a certificate; give dimse.tls.certificate")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.get("ca_bundle"))
    if "ca_bundle" in files:
        context.verify_mode = ssl.CERT_REQUIRED
    load_certificate(context, files, f"pacs {name}: dimse.tls")
    return context


def client_tls(name: str, dimse: DimseSettings, folder: Path) -> ssl.SSLContext:
    """TLS of our connections."""
    assert dimse.tls is not None
    files = dimse.tls.files(folder, f"pacs {name}: dimse.tls")
    try:
        context = ssl.create_default_context(cafile=files.get("ca_bundle"))
    except ssl.SSLError:
        raise ConfigError(f"pacs {name}: dimse.tls.ca_bundle: the file holds no certificate in PEM form") from None
    context.check_hostname = dimse.tls.check_host
    if "certificate" in files:
        load_certificate(context, files, f"pacs {name}: dimse.tls")
    return context


def load_certificate(context: ssl.SSLContext, files: dict[str, Path], what: str) -> None:
    try:
        context.load_cert_chain(files["certificate"], files.get("key"), password="")
    except (ssl.SSLError, OSError):
        raise ConfigError(f"{what}: certificate and key do not fit each other, are no PEM files, or the key has a password") from None
