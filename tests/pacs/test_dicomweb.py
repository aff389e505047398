"""DICOMweb over HTTPS with a token and certificates on both sides, and a series in one request, against a small server on this machine."""

from __future__ import annotations

import io
import json
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicPhotography8BitImageStorage, generate_uid

from pipeline.errors import PacsError
from pipeline.pacs.connect import connected
from pipeline.pacs.pull import Pulled, pull
from pipeline.pacs.settings import load_pacs
from tests.pacs.certificates import write_certificates

STUDY, SERIES = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["series"])
PACS = """
pacs:
  here:
    dicomweb:
      url: https://127.0.0.1:{port}/web
      tls: {{ca_bundle: ca.pem{certificate}}}
{bearer}
"""
SENDS = "      bearer: {env: PACS_TOKEN}"
OURS = ", certificate: client.pem, key: client.key"


def photograph(number: int) -> pydicom.Dataset:
    found = pydicom.Dataset()
    found.SOPClassUID, found.SOPInstanceUID = OphthalmicPhotography8BitImageStorage, generate_uid(entropy_srcs=[str(number)])
    found.StudyInstanceUID, found.SeriesInstanceUID, found.Modality, found.InstanceNumber = STUDY, SERIES, "OP", number
    found.SamplesPerPixel, found.PhotometricInterpretation, found.Rows, found.Columns = 1, "MONOCHROME2", 40, 60
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 8, 8, 7, 0
    found.PixelData = np.full((40, 60), number, np.uint8).tobytes()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return found


class Server(ThreadingHTTPServer):
    """Four photographs of one series. ``series``: how it answers to a request for all of them."""

    daemon_threads = True
    series = "whole"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.files = {}
        for number in range(1, 5):
            one, file = photograph(number), io.BytesIO()
            one.save_as(file, enforce_file_format=True)
            self.files[str(one.SOPInstanceUID)] = file.getvalue()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client without a certificate is sent away: nobody need read that."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    whole: ClassVar[str] = f"/studies/{STUDY}/series/{SERIES}"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        path, _, query = self.path.removeprefix("/web").partition("?")
        if self.headers.get("Authorization") != "Bearer s3cret-token":
            return self.answer(401, b"", "text/plain")
        if path in (f"/studies/{STUDY}/series", f"{self.whole}/instances"):
            uids = [] if "offset=0" not in query and "offset" in query else list(self.server.files)
            found = [{"0020000E": {"vr": "UI", "Value": [SERIES]}}] if path.endswith("series") else [
                {"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids
            ]  # fmt: skip
            return self.answer(200, json.dumps(found if uids else []).encode(), "application/dicom+json")
        files = list(self.server.files.values())
        if path == self.whole:
            self.server.asked[self.server.series] += 1
            if self.server.series == "refused":
                return self.answer(406, b"", "text/plain")
            return self.parts(files, cut=700 if self.server.series == "cut" else 0)
        self.server.asked["instance"] += 1
        return self.parts([self.server.files[path.rpartition("/")[2]]])

    def parts(self, files: list[bytes], cut: int = 0) -> None:
        parts = [b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files]
        whole = b"".join(parts) + b"--b0--\r\n"
        self.answer(200, whole[: len(whole) - cut], 'multipart/related; type="application/dicom"; boundary=b0')

    def answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    write_certificates(made)
    return made


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PACS_TOKEN", "s3cret-token")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with Server() as made:
        made.socket = context.wrap_socket(made.socket, server_side=True)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def pulled(server: Server, folder: Path, out: Path, *, bearer: str = SENDS, certificate: str = OURS) -> Pulled:
    (folder / "pacs.yaml").write_text(PACS.format(port=server.server_address[1], bearer=bearer, certificate=certificate))
    name, settings = load_pacs(folder / "pacs.yaml", None)
    with connected(name, settings, folder, "dicomweb") as connection:
        return pull(connection, [STUDY], out, retries=0)


def test_a_series_comes_in_one_request_with_a_token_and_a_certificate_of_ours(server: Server, folder: Path, tmp_path: Path) -> None:
    ended = pulled(server, folder, tmp_path)
    assert (ended.fetched, ended.failed, server.asked) == (4, 0, {"whole": 1})
    for uid, data in server.files.items():
        assert pydicom.dcmread(tmp_path / STUDY / SERIES / f"{uid}.dcm") == pydicom.dcmread(io.BytesIO(data))
    first, *_, last = sorted((tmp_path / STUDY / SERIES).iterdir())
    first.unlink()
    last.write_bytes(last.read_bytes()[:-300])
    assert (pulled(server, folder, tmp_path).fetched, server.asked) == (2, {"whole": 1, "instance": 2}), "of half of it each by itself"


@pytest.mark.parametrize(("series", "each"), [("refused", 4), ("cut", 1)])
def test_what_a_request_for_the_series_does_not_bring_comes_by_itself(
    server: Server, folder: Path, tmp_path: Path, series: str, each: int
) -> None:
    server.series = series
    ended = pulled(server, folder, tmp_path)
    assert (ended.fetched, ended.failed, server.asked) == (4, 0, {series: 1, "instance": each})


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        ({"bearer": ""}, "HTTP 401: it asks for a login"),
        ({"certificate": ""}, "asks for a certificate of ours"),
    ],
)
def test_without_a_token_or_a_certificate_the_sentence_says_which(
    server: Server, folder: Path, tmp_path: Path, without: dict[str, str], sentence: str
) -> None:
    with pytest.raises(PacsError) as error:
        pulled(server, folder, tmp_path, **without)
    assert sentence in str(error.value)
    assert "s3cret" not in str(error.value)
