"""Certificates for one test: a CA, and what it signs for 127.0.0.1; and TLS before a server that has none."""

from __future__ import annotations

import datetime
import ipaddress
import selectors
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def write_certificates(folder: Path) -> None:
    """``ca.pem``; and ``server`` and ``client``, each as NAME.pem and NAME.key."""
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("test CA")
    folder.joinpath("ca.pem").write_bytes(_pem(_signed(issuer, issuer, authority, authority, is_authority=True)))
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        public = _pem(_signed(_name(name), issuer, key, authority, is_authority=False))
        for file, content in ((f"{name}.pem", public), (f"{name}.key", private)):
            folder.joinpath(file).write_bytes(content)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _signed(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    if is_authority:
        usage = x509.KeyUsage(*(False,) * 5, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
        builder = builder.add_extension(usage, critical=True)
    else:
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(here, critical=False)
    return builder.sign(signer, hashes.SHA256())


@contextmanager
def tls_before(port: int, folder: Path) -> Iterator[int]:
    """A port on which TLS with server.pem leads to ``port``: Debian's Orthanc 1.10 dies at its first HTTPS connection."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                with (
                    context.wrap_socket(self.request, server_side=True) as outer,
                    socket.create_connection(("127.0.0.1", port)) as inner,
                    selectors.DefaultSelector() as ready,
                ):
                    ready.register(outer, selectors.EVENT_READ, inner)
                    ready.register(inner, selectors.EVENT_READ, outer)
                    while True:
                        for key, _ in ready.select():
                            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                            while outer.pending() and key.fileobj is outer:
                                data += outer.recv(1 << 16)
                            if not data:
                                return
                            key.data.sendall(data)
            except OSError:
                return  # one of both has gone

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Relay) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
