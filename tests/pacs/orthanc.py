"""A real PACS for tests: Debian's Orthanc with its DICOMweb plugin, on loopback, in a temporary folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.patience import wait_until

PLUGINS = Path("/usr/share/orthanc/plugins")
AE = "ORTHANC"


def orthanc_program() -> str:
    """The program, or a visible skip."""
    program = shutil.which("Orthanc")
    if program is None or not (PLUGINS / "libOrthancDicomWeb.so").exists():
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    return program


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Orthanc:
    """``web`` and ``dicom`` are ports on 127.0.0.1; ``own`` is the port at which it reaches us."""

    folder: Path
    web: int
    dicom: int
    own: int
    login: tuple[str, str] | None = None
    https: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web}"

    def get(self, path: str) -> Any:
        return self._request("get", path).json()

    def post(self, path: str, data: bytes) -> Any:
        return self._request("post", path, data).json()

    def delete(self, path: str) -> None:
        self._request("delete", path)

    def clear(self) -> None:
        for patient in self.get("/patients"):
            self.delete(f"/patients/{patient}")

    def uids(self) -> list[str]:
        """SOP Instance UIDs of everything it holds, each as often as it holds it."""
        return sorted(self.get(f"/instances/{one}/simplified-tags")["SOPInstanceUID"] for one in self.get("/instances"))

    def _request(self, method: str, path: str, data: bytes | None = None) -> requests.Response:
        response = requests.request(method, self.url + path, data=data, auth=self.login, timeout=60)
        response.raise_for_status()
        return response

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What a PACS file says of it."""
        web: dict[str, Any] = {"url": f"{self.url}/dicom-web"}
        dimse = {
            "host": "127.0.0.1",
            "port": self.dicom,
            "called_ae": AE,
            "own_port": {"port": self.own},
        }
        return {"dicomweb": web, "dimse": dimse, "timeout_s": 30.0, "retries": 1} | changes

    def pacs_file(self, path: Path, **changes: Any) -> Path:
        path.write_text(yaml.safe_dump({"pacs": {"here": self.settings(**changes)}}), encoding="utf-8")
        return path


@contextmanager
def started(folder: Path, **changes: Any) -> Iterator[Orthanc]:
    """An Orthanc with an empty storage below ``folder``; ``changes`` go into its configuration. Killed at the end, whatever happens."""
    program = orthanc_program()
    folder.mkdir(parents=True, exist_ok=True)
    here = Orthanc(folder, free_port(), free_port(), free_port())
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
        "HttpPort": here.web,
        "DicomPort": here.dicom,
        "DicomAet": AE,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowFind": False,
        "DicomModalities": {"us": {"AET": "OCUSEG", "Host": "127.0.0.1", "Port": here.own, "UseDicomTls": "DicomTlsEnabled" in changes}},
        "DicomModalitiesInDatabase": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "SynchronousCMove": True,
        "StableAge": 1,
    } | changes
    if config["AuthenticationEnabled"]:
        (here.login,) = config["RegisteredUsers"].items()
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            wait_until(lambda: process.poll() is not None or answers(here), lambda: (folder / "log").read_text())
            assert process.poll() is None, (folder / "log").read_text()
            yield here
        finally:
            process.kill()
            process.wait()


def answers(here: Orthanc) -> bool:
    try:
        here.get("/system")
        return True
    except requests.RequestException:
        return False
