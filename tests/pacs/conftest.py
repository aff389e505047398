"""One Orthanc for all tests of a process, empty for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.phantoms.hospital import write_hospital
from tests.pacs.orthanc import Orthanc, started


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """DICOM files of one phantom patient, two studies: 5 photographs and 2 OCT volumes in several transfer syntaxes."""
    folder = tmp_path_factory.mktemp("hospital")
    write_hospital(folder, 1, 0, truth=False, fundus_shape=(96, 128), oct_shape=(4, 64, 96))
    return sorted(folder.rglob("*.dcm"))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with started(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture
def orthanc(running: Orthanc) -> Orthanc:
    running.clear()
    return running


@pytest.fixture
def filled(orthanc: Orthanc, hospital: list[Path]) -> Orthanc:
    for path in hospital:
        orthanc.post("/instances", path.read_bytes())
    return orthanc
