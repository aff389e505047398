"""From the PACS and back: the steps by themselves, and a watch that does them, killed or not."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest

from pipeline.errors import ConfigError
from pipeline.export.case import Settings
from pipeline.export.run import Predictions, export_folder
from pipeline.inference.folder import predict_folder
from pipeline.pacs.connect import connected
from pipeline.pacs.listen import Receiver, listening
from pipeline.pacs.outbox import Outbox
from pipeline.pacs.pull import pull
from pipeline.pacs.push import dicom_files, push
from pipeline.pacs.query import Query, series_of, studies
from pipeline.pacs.settings import load_pacs
from pipeline.pacs.study_states import State, StudyStates
from pipeline.pacs.study_steps import StudySteps, Wishes
from pipeline.pacs.watch import Watch
from pipeline.phantoms.hospital import write_hospital
from tests.inference.conftest import make_bundle
from tests.pacs.orthanc import Orthanc
from tests.pacs.watched import KEY, known_bundle, watch, watch_and_die
from tests.patience import joined

KINDS = {"OP": "picture", "SEG": "seg", "SR": "sr", "OT": "sc", "DOC": "pdf"}


@pytest.fixture
def pacs_file(orthanc: Orthanc, tmp_path: Path) -> Path:
    return orthanc.pacs_file(tmp_path / "pacs.yaml")


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A study of one photograph, just large enough to be measured."""
    folder = tmp_path_factory.mktemp("eyes")
    write_hospital(folder, 1, 0, truth=False, fundus_shape=(256, 320), oct_shape=(4, 64, 96))
    return sorted(path for path in folder.rglob("*_photo.dcm"))[-1:]


@pytest.fixture
def photographs(orthanc: Orthanc, eyes: list[Path]) -> list[Path]:
    """The same, in the PACS."""
    for path in eyes:
        orthanc.post("/instances", path.read_bytes())
    return eyes


def kinds(orthanc: Orthanc) -> Counter[str]:
    """How many objects of each kind the PACS holds."""
    tags = [orthanc.get(f"/instances/{one}/simplified-tags") for one in orthanc.get("/instances")]
    assert len({one["SOPInstanceUID"] for one in tags}) == len(tags)
    return Counter(KINDS[one["Modality"]] for one in tags)


def test_results_that_were_pushed_are_found_and_read_back_equal(
    orthanc: Orthanc, pacs_file: Path, photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.run.printer", lambda: None)  # tests/export prints, which takes a second
    monkeypatch.setattr(Predictions, "_print", lambda *_: b"%PDF-1.7 printed")
    name, settings = load_pacs(pacs_file, None)
    made = make_bundle(tmp_path / "bundle", thresholds={"vessel": 0.4})
    with connected(name, settings, tmp_path) as connection:
        (study,) = [found.uid for found in studies(connection, Query(patient_id="P0001"))]
        assert pull(connection, [study], tmp_path / "scans").fetched == 1
        with known_bundle(made):
            assert predict_folder(tmp_path, tmp_path / "scans", tmp_path / "out", device="cpu", pseudonyms=KEY)["done"] == 1
        predictions = Predictions(tmp_path / "out", Settings(("seg", "sr", "sc", "pdf")))
        predictions.find_originals(tmp_path / "scans", KEY)
        export_folder(predictions, tmp_path / "objects")
        objects, _ = dicom_files(tmp_path / "objects")
        outbox = Outbox(tmp_path / "outbox.sqlite")
        assert push(connection, name, objects, outbox).sent == len(objects) == 4
        outbox.close()
        assert kinds(orthanc) == {"picture": 1, "seg": 1, "sr": 1, "sc": 1, "pdf": 1}
        ours = [series for series in series_of(connection, study) if series.description.startswith("ocuseg ")]
        assert {series.modality for series in ours} == {"SEG", "SR", "OT", "DOC"}
        pull(connection, [study], tmp_path / "back", only=lambda series: series in ours)
    back, sent = ({d.SOPInstanceUID: d for d in map(pydicom.dcmread, paths)} for paths in ((tmp_path / "back").rglob("*.dcm"), objects))
    assert back == sent


def test_a_watch_killed_at_any_step_pushes_each_object_once(
    orthanc: Orthanc, pacs_file: Path, photographs: list[Path], tmp_path: Path
) -> None:
    said = tmp_path / "said"
    process = multiprocessing.get_context("forkserver").Process(target=watch_and_die, args=(pacs_file, tmp_path / "work", said))
    process.start()
    assert joined([process]) == [0], said.read_text()
    assert re.findall(r"^status (.*)$", said.read_text(), re.MULTILINE) == ["-9"] * 5 + ["0"], said.read_text()
    assert kinds(orthanc) == {"picture": 1, "seg": 1, "sr": 1, "sc": 1}
    states = StudyStates(tmp_path / "work" / "watch.sqlite")
    assert states.counts() == {"pushed": 1}
    states.close()
    kept = sorted(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in dicom_files(tmp_path / "work/objects")[0])
    pictures = [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in photographs]
    assert orthanc.uids() == sorted(kept + pictures)
    uids = {word for path in photographs for word in (pydicom.dcmread(path).StudyInstanceUID, "PHANTOM", "P0001")}
    assert not [word for word in uids if word in said.read_text()]


def test_a_watch_takes_what_is_sent_to_it_and_its_own_results_for_no_scans(
    orthanc: Orthanc, pacs_file: Path, photographs: list[Path], tmp_path: Path
) -> None:
    name, settings = load_pacs(pacs_file, None)
    work = tmp_path / "work"
    receiver = Receiver(work / "received", ("OP", "OPT"))

    def send_everything() -> None:
        with listening(name, settings, tmp_path, receiver):
            orthanc.post("/modalities/us/store", json.dumps(orthanc.get("/instances")).encode())

    send_everything()
    assert watch(pacs_file, work, formats=("seg",), receiver=receiver) == {"pushed": 1}
    assert kinds(orthanc) == {"picture": 1, "seg": 1}
    send_everything()  # with the segmentation
    assert len(list((work / "received").rglob("*.dcm"))) == 1
    assert watch(pacs_file, work, formats=("seg",), receiver=receiver) == {"pushed": 1}
    assert kinds(orthanc) == {"picture": 1, "seg": 1}
    assert not list((work / "received").iterdir())


def test_what_is_no_scan_is_thanked_for_and_dropped(hospital: list[Path], tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, ("OPT",))
    for path in hospital:
        assert receiver(SimpleNamespace(encoded_dataset=path.read_bytes, dataset=pydicom.dcmread(path))) == 0  # type: ignore[arg-type]
    assert {pydicom.dcmread(path).Modality for path in tmp_path.rglob("*.dcm")} == {"OPT"}


def test_a_study_that_grows_after_its_models_were_exchanged_goes_to_the_folder_of_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = []

    def predict(steps: StudySteps) -> State:
        days.append(steps.day)
        if len(days) == 1:
            raise ConfigError("the output folder holds results of another bundle")
        return "nothing"

    monkeypatch.setattr(StudySteps, "predict", predict)
    states = StudyStates(tmp_path / "watch.sqlite")
    states.see("1.2", "one", 0.0, "2020-01-01")
    states.advance("1.2", "pulled")
    states.close()
    own = Watch("here", nullcontext, Wishes(tmp_path, []), KEY, rest_s=0, receiver=Receiver(tmp_path / "received", ()))  # type: ignore[arg-type]
    assert own.run(once=True) == {"nothing": 1}
    assert days[0] == "2020-01-01" < days[1]


def test_a_study_that_grows_is_predicted_again_and_one_that_fails_is_given_up(tmp_path: Path) -> None:
    states = StudyStates(tmp_path / "watch.sqlite")
    states.see("1.2", "two", 100.0, "2026-11-27")
    assert (states.due(129.0, 30.0), states.resting(129.0, 30.0)) == ([], 1)
    (due,) = states.due(130.0, 30.0)
    assert (due.study, due.state, states.begin("1.2")) == ("1.2", "seen", 1)
    states.put_off("1.2", 500.0, "the PACS is away", counts=False)
    assert (states.due(499.0, 30.0), states.begin("1.2")) == ([], 1)
    states.advance("1.2", "pushed")
    states.see("1.2", "two", 600.0, "2026-11-28")
    assert states.due(1000.0, 30.0) == []
    states.see("1.2", "three", 1000.0, "2026-11-28")
    assert [(one.state, one.day) for one in states.due(1030.0, 30.0)] == [("seen", "2026-11-27")]
    states.close()
    assert (tmp_path / "watch.sqlite").stat().st_mode & 0o077 == 0
