"""Query, pull and push against a real Orthanc, over DICOMweb and DIMSE."""

from __future__ import annotations

import gc
import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pydicom
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import ConfigError, PacsError, ScanError
from pipeline.pacs.arrival import is_whole, look
from pipeline.pacs.connect import connected
from pipeline.pacs.connection import Connection, Instance, Stored, Take
from pipeline.pacs.dicomweb import DicomwebConnection
from pipeline.pacs.outbox import Outbox
from pipeline.pacs.pull import pull
from pipeline.pacs.push import push
from pipeline.pacs.query import Query, series_of, studies
from pipeline.pacs.settings import DicomwebSettings, PacsSettings, load_pacs
from tests.pacs.orthanc import Orthanc, free_port

WAYS = ("dicomweb", "dimse")


@contextmanager
def to(orthanc: Orthanc, folder: Path, over: str, **changes: Any) -> Iterator[Connection]:
    path = orthanc.pacs_file(folder / "pacs.yaml", **changes)
    name, settings = load_pacs(path, None)
    with connected(name, settings, folder, over) as connection:  # type: ignore[arg-type]
        yield connection


def by_uid(files: list[Path]) -> dict[str, pydicom.Dataset]:
    return {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, files)}


@pytest.mark.parametrize("over", [*WAYS, "move"])
def test_what_is_pulled_is_what_was_stored(filled: Orthanc, hospital: list[Path], tmp_path: Path, over: str) -> None:
    dimse = filled.settings()["dimse"] | {"retrieve": "move" if over == "move" else "get"}
    with to(filled, tmp_path, over.replace("move", "dimse"), dimse=dimse) as connection:
        asked = Query(patient_id="P0001", modality="OP") if over == "move" else Query(date="20220101-")
        uids = [study.uid for study in studies(connection, asked)]
        ended = pull(connection, uids, tmp_path / "in", query=asked)
        stored = {uid: one for uid, one in by_uid(hospital).items() if over != "move" or one.Modality == "OP"}
        pulled = by_uid(sorted((tmp_path / "in").rglob("*.dcm")))
        assert (ended.studies, ended.fetched, ended.failed) == (2, len(stored), 0)
        assert pulled == stored
        assert {u: d.file_meta.TransferSyntaxUID for u, d in pulled.items()} == {
            u: d.file_meta.TransferSyntaxUID for u, d in stored.items()
        }
        if over == "move":
            return
        cut = sorted((tmp_path / "in").rglob("*.dcm"))[0]
        cut.write_bytes(cut.read_bytes()[:-700])
        again = pull(connection, uids, tmp_path / "in")
        assert (again.fetched, again.there_already) == (1, len(stored) - 1)
        assert by_uid([cut]).items() <= stored.items()


@pytest.mark.parametrize("over", WAYS)
def test_each_object_is_pushed_once(orthanc: Orthanc, hospital: list[Path], tmp_path: Path, over: str) -> None:
    broken = tmp_path / "broken.dcm"
    one = pydicom.dcmread(hospital[0])
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.826.0.1.3680043.8.498.1"  # nobody's
    one.save_as(broken)
    outbox = Outbox(tmp_path / "outbox.sqlite")
    with to(orthanc, tmp_path, over) as connection:
        ended = push(connection, "here", [*hospital[:3], broken], outbox, retries=0)
        assert ended.sent + len(ended.refused) == 4
        assert set(ended.refused) <= {broken}  # over DICOMweb Orthanc takes any class
        again = push(connection, "here", hospital[:4], outbox, retries=0)
        assert (again.sent_before, again.sent, again.refused) == (3, 1, {})
        assert [outbox.status(pacs, _sha256(hospital[3])) for pacs in ("here", "elsewhere")] == ["sent", None]
        twice = push(connection, "elsewhere", hospital[:4], outbox, retries=0)  # after the loss of a ledger
        assert (twice.sent, twice.refused) == (4, {})
    outbox.close()
    assert set(by_uid(hospital[:4])) <= set(orthanc.uids())
    assert len(orthanc.uids()) == len(set(orthanc.uids()))


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("over", "changes", "sentence"),
    [
        ("dicomweb", {"dicomweb": {"url": "http://127.0.0.1:{free}/dicom-web"}}, "nothing listens at 127.0.0.1:"),
        ("dicomweb", {"dicomweb": {"url": "http://127.0.0.1:{web}/elsewhere"}}, "HTTP 404: there is nothing at this address"),
        ("dicomweb", {"dicomweb": {"url": "https://127.0.0.1:{web}/dicom-web"}}, "what answers there speaks no TLS"),
        ("dimse", {"port": "{free}"}, "nothing listens at 127.0.0.1:"),
        ("dimse", {"port": "{web}"}, "answers, but not as a DICOM service"),
        ("dimse", {"called_ae": "OTHER"}, "it has another AE title than 'OTHER'"),
        ("dimse", {"calling_ae": "STRANGER"}, "perhaps it does not let 'STRANGER' do this"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_why_a_pacs_is_not_reached_is_said(running: Orthanc, tmp_path: Path, over: str, changes: dict[str, Any], sentence: str) -> None:
    ports = {"free": free_port(), "web": running.web}
    if over == "dicomweb":
        changes = {"dicomweb": {"url": changes["dicomweb"]["url"].format(**ports)}}
    else:
        own = {key: int(value.format(**ports)) if key == "port" else value for key, value in changes.items()}
        changes = {"dimse": running.settings()["dimse"] | own}
    with to(running, tmp_path, over, **changes) as connection, pytest.raises(PacsError) as error:
        list(studies(connection, Query(patient_id="SECRET")))
    assert sentence in str(error.value)
    assert "SECRET" not in str(error.value)
    del error
    gc.collect()  # pynetdicom leaves the socket of an association that did not come about to the collector, which would warn later


class Flaky:
    """A PACS whose connection breaks after each object, and that sends one thing wrongly."""

    def __init__(self, connection: Connection, wrong: str) -> None:
        self._connection, self.wrong, self.calls = connection, wrong, 0

    def find(self, *asked: Any) -> Iterator[pydicom.Dataset]:
        return self._connection.find(*asked)

    def fetch(self, instances: list[Instance], take: Take, **how: bool) -> None:
        self.calls += 1

        def one(uid: str, data: bytes) -> None:
            take(uid, data[:-200] if uid == self.wrong else data)

        self._connection.fetch(instances[:1], one)
        if len(instances) > 1:
            raise PacsError("the connection broke", passing=True)

    def store(self, paths: list[Path]) -> Iterator[Stored]:
        self.calls += 1
        yield from self._connection.store(paths[:1])
        if len(paths) > 1:
            raise PacsError("the connection broke", passing=True)

    def close(self) -> None: ...


def test_a_connection_that_breaks_ends_with_everything_that_is_whole(
    filled: Orthanc, hospital: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.pacs.connection.LONGEST_WAIT_S", 0.0)
    caplog.set_level(logging.INFO, "pipeline")
    everything = by_uid(hospital)
    with to(filled, tmp_path, "dicomweb") as connection:
        flaky = Flaky(connection, next(uid for uid, one in everything.items() if one.Modality == "OP"))
        ended = pull(flaky, {str(one.StudyInstanceUID) for one in everything.values()}, tmp_path / "in", retries=1)
        assert (ended.fetched, ended.failed) == (len(everything) - 1, 1)
        assert list(ended.reasons) == ["what the PACS sent: its end is missing, or its UIDs are"]
        assert not list((tmp_path / "in").rglob("*.part"))
        filled.clear()
        outbox = Outbox(tmp_path / "outbox.sqlite")
        flaky.calls = 0
        sent = push(flaky, "here", hospital, outbox, retries=2)
        assert (sent.sent, sent.unsent, flaky.calls) == (3, len(hospital) - 3, 3)
        assert push(connection, "here", hospital, outbox).sent == len(hospital) - 3
        outbox.close()
    assert filled.uids() == sorted(everything)
    assert not [uid for uid in everything if uid in caplog.text]


def test_only_a_whole_dicom_file_is_taken(hospital: list[Path], tmp_path: Path) -> None:
    for path in hospital:
        data, uid = path.read_bytes(), str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        assert look(data).uid == look(path).uid == uid
        for cut in (0, 100, 300, len(data) // 2, len(data) - 100):
            with pytest.raises(ScanError):
                look(data[:cut])
            (tmp_path / "cut.dcm").write_bytes(data[:cut])
            assert not is_whole(tmp_path / "cut.dcm", uid)
        assert not is_whole(path, uid + "1")
    data = next(path for path in hospital if b"1.2.840.10008.1.2.1\0" in path.read_bytes()[:600]).read_bytes()
    with pytest.raises(ScanError, match="its transfer syntax is not one of DICOM"):
        look(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", 1))
    study = str(pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID).encode()
    with pytest.raises(ScanError, match="its UIDs are none"):  # nor a path
        look(data.replace(study, b"../../" + study[6:]))


class Takes:
    """A PACS that takes everything, and counts it."""

    sent = 0

    def store(self, paths: Sequence[Path]) -> Iterator[Stored]:
        for path in paths:
            self.sent += 1
            yield Stored(path)


def test_what_was_sent_is_confirmed_by_the_next_push_where_the_pacs_gave_no_answer(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(file.name)
    outbox, takes = Outbox(tmp_path / "outbox.sqlite"), Takes()
    connection = cast(Connection, takes)

    def silent(paths: Sequence[Path]) -> dict[Path, str]:
        raise PacsError("no answer in time", passing=True)

    with pytest.raises(PacsError):
        push(connection, "here", files, outbox, confirm=silent)
    again = push(connection, "here", files, outbox, confirm=lambda paths: {paths[2]: "gone"})
    assert (takes.sent, again.sent, again.sent_before, again.refused) == (3, 0, 2, {files[2]: "not kept: gone"})
    last = push(connection, "here", files, outbox, confirm=lambda paths: {})
    assert (takes.sent, last.sent, last.sent_before, last.refused) == (4, 1, 2, {})
    outbox.close()


def test_a_stow_answer_says_whether_it_may_pass_and_that_it_is_there_already(tmp_path: Path, hospital: list[Path]) -> None:
    web = DicomwebConnection("here", PacsSettings(dicomweb=DicomwebSettings(url="http://127.0.0.1:9")), tmp_path)
    answers = []
    for reason in (0x0111, 0xA700, 0xC000):
        answer, item = pydicom.Dataset(), pydicom.Dataset()
        item.FailureReason = reason
        answer.FailedSOPSequence = [item]
        with mock.patch.object(web._client, "store_instances", return_value=answer):
            answers += [(bool(one.refusal), one.passing) for one in web.store(hospital[:1])]
    web.close()
    assert answers == [(False, False), (True, True), (True, False)]


def test_a_server_that_sends_less_than_it_is_asked_for_is_asked_on(tmp_path: Path) -> None:
    web = DicomwebConnection("here", PacsSettings(dicomweb=DicomwebSettings(url="http://127.0.0.1:9")), tmp_path)
    everything = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{number}"]}} for number in range(7)]
    with mock.patch.object(web._client, "search_for_studies", side_effect=lambda *, offset, **asked: everything[offset : offset + 3]):
        assert [one.uid for one in studies(web, Query())] == [f"1.2.{number}" for number in range(7)]
    web.close()


def test_the_commands(filled: Orthanc, hospital: list[Path], tmp_path: Path) -> None:
    config = ["--config", str(filled.pacs_file(tmp_path / "pacs.yaml"))]
    run = CliRunner().invoke
    assert "answers, and holds studies" in run(app, ["pacs", "check", *config]).output
    shown = run(app, ["pacs", "query", "--modality", "OPT", *config])
    assert "PHANTOM^0001" in shown.output
    assert run(app, ["pacs", "query", "--patient-id", "P9999", *config]).exit_code == 4
    assert run(app, ["pacs", "query", "--date", "2022", *config]).exit_code == 2
    found = json.loads(run(app, ["pacs", "query", "--json", *config]).stdout)
    study = found[0]["uid"]
    pulled = run(app, ["pacs", "pull", "here", str(tmp_path / "in"), "--study", study, *config])
    assert (pulled.exit_code, f"fetched: {found[0]['instances']}" in pulled.output) == (0, True)
    assert run(app, ["pacs", "pull", "here", str(tmp_path / "no"), "--study", "1.2.3", *config]).exit_code == 4
    assert run(app, ["pacs", "pull", "here", str(tmp_path / "no"), *config]).exit_code == 2
    refused = run(app, ["pacs", "push", "here", str(tmp_path / "in"), *config])
    assert (refused.exit_code, "there is nothing that an export made; --any would send" in refused.output) == (4, True)
    sent = run(app, ["pacs", "push", "here", str(tmp_path / "in"), "--any", *config])
    assert (sent.exit_code, f"sent: {found[0]['instances']}" in sent.output) == (0, True)
    assert filled.uids() == sorted(by_uid(hospital))
    wrong = run(app, ["pacs", "watch", "here", str(tmp_path / "work"), "--format", "png", *config])
    assert (wrong.exit_code, "a PACS takes seg, sr, sc and pdf" in wrong.output) == (2, True)


def test_a_query_is_checked_before_it_is_asked() -> None:
    assert Query(date="2026-11-27").date == "20261127"
    for wrong in ({"date": "2026"}, {"date": "-"}, {"date": "yesterday"}, {"study": "1.2.x"}):
        with pytest.raises(ConfigError):
            Query(**wrong)


def test_a_pacs_need_not_say_the_class_of_an_instance(orthanc: Orthanc, hospital: list[Path], tmp_path: Path) -> None:
    orthanc.post("/instances", hospital[0].read_bytes())
    head = pydicom.dcmread(hospital[0], stop_before_pixels=True)
    wanted = Instance(head.StudyInstanceUID, head.SeriesInstanceUID, head.SOPInstanceUID)
    got: list[str] = []
    with to(orthanc, tmp_path, "dimse") as dimse:
        dimse.fetch([wanted], lambda uid, data: got.append(look(data).uid))
    assert got == [wanted.uid]


def test_series_say_what_a_study_holds(filled: Orthanc, tmp_path: Path) -> None:
    with to(filled, tmp_path, "dicomweb") as web, to(filled, tmp_path, "dimse") as dimse:
        (study, *_) = [one.uid for one in studies(web, Query())]
        by_web, by_dimse = ({one.uid: one for one in series_of(way, study)} for way in (web, dimse))
        assert [len(list(studies(way, Query(), 1))) for way in (web, dimse)] == [1, 1]
        assert len(list(studies(dimse, Query()))) == 2
    assert by_web == by_dimse
    assert {one.modality for one in by_web.values()} == {"OP", "OPT"}
