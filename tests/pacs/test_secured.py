"""TLS, logins and certificates of both kinds, and storage commitment, against an Orthanc that asks for all of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, PacsError
from pipeline.pacs.connect import confirmation_of, connected
from pipeline.pacs.outbox import Outbox
from pipeline.pacs.pull import pull
from pipeline.pacs.push import push
from pipeline.pacs.query import Query, studies
from pipeline.pacs.settings import PacsSettings, load_pacs
from tests.pacs.certificates import tls_before, write_certificates
from tests.pacs.orthanc import Orthanc, started


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("secured")
    write_certificates(folder)
    asked = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(folder / "server.pem"),
        "DicomTlsPrivateKey": str(folder / "server.key"),
        "DicomTlsTrustedCertificates": str(folder / "ca.pem"),
        "DicomTlsRemoteCertificateRequired": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"ocuseg": "hunter2"},
    }
    with started(folder, **asked) as one, tls_before(one.web, folder) as port:
        yield replace(one, https=port)


def settings(orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> tuple[str, PacsSettings]:
    """How it is reached, less what a test leaves out (None)."""
    monkeypatch.setenv("PACS_LOGIN", "ocuseg:hunter2")
    ours = {"ca_bundle": "ca.pem", "certificate": "client.pem", "key": "client.key"}
    both = orthanc.settings()
    both["dicomweb"] |= {
        "url": f"https://127.0.0.1:{orthanc.https}/dicom-web",
        "basic": {"env": "PACS_LOGIN"},
        "tls": {"ca_bundle": "ca.pem"},
    } | changes.get("dicomweb", {})
    both["dimse"] |= {"tls": ours, "commitment": True} | changes.get("dimse", {})
    wanted = {way: {key: value for key, value in both[way].items() if value is not None} for way in ("dicomweb", "dimse")}
    return load_pacs(orthanc.pacs_file(orthanc.folder / "pacs.yaml", **wanted), None)


def test_objects_go_and_come_over_tls_and_the_pacs_promises_to_keep_them(
    secured: Orthanc, hospital: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, own = settings(secured, monkeypatch)
    confirm = confirmation_of(name, own, secured.folder)
    assert confirm is not None
    with (
        connected(name, own, secured.folder, "dimse") as dimse,
        connected(name, own, secured.folder, "dicomweb") as web,
    ):
        outbox = Outbox(tmp_path / "outbox.sqlite")
        ended = push(dimse, name, hospital[:1], outbox, confirm=confirm)
        assert (ended.sent, ended.refused) == (1, {})
        lost = push(web, name, hospital[1:2], outbox, confirm=lambda paths: confirm(hospital[2:3]) and {paths[0]: "gone"})
        assert (lost.sent, lost.refused) == (0, {hospital[1]: "not kept: gone"})
        assert confirm(hospital[:3]) == {hospital[2]: "it does not know this object (0x0112)"}
        assert push(web, name, hospital[:3], outbox, confirm=confirm).sent == 2
        outbox.close()
        (study,) = [found.uid for found in studies(web, Query())]
        assert pull(dimse, [study], tmp_path / "in").fetched == 3
        assert pull(web, [study], tmp_path / "in").there_already == 3


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("over", "changes", "sentence"),
    [
        ("dicomweb", {"basic": None}, "HTTP 401: it asks for a login"),
        ("dicomweb", {"tls": None}, "the certificate of the PACS cannot be checked"),
        ("dimse", {"tls": None, "commitment": None}, "answers, but not as a DICOM service; check the port, and whether it wants TLS"),
        ("dimse", {"tls": {"ca_bundle": "ca.pem"}, "commitment": None}, "whether it wants a certificate of ours"),
        ("dimse", {"tls": {"certificate": "client.pem", "key": "client.key"}}, "cannot be checked"),
    ],
)
def test_what_is_missing_is_said(
    secured: Orthanc, monkeypatch: pytest.MonkeyPatch, over: Any, changes: dict[str, Any], sentence: str
) -> None:
    name, own = settings(secured, monkeypatch, **{over: changes})
    with connected(name, own, secured.folder, over) as connection, pytest.raises(PacsError) as error:
        list(studies(connection, Query()))
    assert sentence in str(error.value)
    assert "hunter2" not in str(error.value)
    del error
    gc.collect()  # as in test_transfer.py


def test_a_certificate_that_is_none_is_a_sentence(secured: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, sentence in (
        ({"certificate": "server.key"}, "certificate and key do not fit"),
        ({"ca_bundle": "client.key"}, "no certificate"),
    ):
        name, own = settings(secured, monkeypatch, dimse={"tls": wrong, "commitment": None})
        with pytest.raises(ConfigError, match=sentence), connected(name, own, secured.folder, "dimse"):
            pass
