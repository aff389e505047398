"""Where an evaluation goes in MLflow: into the run that made the bundle, into one of its own, or nowhere, which is said."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.evaluation import recording
from pipeline.evaluation.recording import evaluation_numbers, record_evaluation
from pipeline.tracking.spool import Sent, Spool
from pipeline.tracking.tracker import Delivery, Tracker
from pipeline.training.run_folder import alone
from tests.inference.conftest import run_config

DICE = {"value": 0.5, "low": 0.25, "high": 0.75}
SUMMARY: dict[str, Any] = {
    "bundle": {"id": "0123456789ab", "name": "tiny"},
    "card": {"name": "eyes"},
    "part": "test",
    "images": 5,
    "patients": 3,
    "classes": {
        "cup": {
            "held": 3,
            "missed": 1,
            "empty_right": 1,
            "empty_wrong": 1,
            "mean_per_image": {"dice": DICE, "second_reader_dice": {"value": 0.6, "low": None, "high": None}},
            "pooled": {"dice": {"value": None, "low": None, "high": None}},
        }
    },
}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluation beside a bundle, and senders that never start: what a run's spool holds is what a server would get."""
    monkeypatch.setattr(recording, "load_bundle", lambda path: SimpleNamespace(config=run_config()))
    monkeypatch.setattr("pipeline.tracking.tracker.SenderProcess.ensure", lambda self: None)
    monkeypatch.setattr("pipeline.tracking.tracker.SenderProcess.finish", lambda self, wait: None)
    folder = tmp_path / "run" / "evaluation" / "eyes_test"
    (folder / "examples").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "per_image.csv").write_text("case,dice\n")
    (folder / "examples" / "a_R.png").write_bytes(b"PNG")
    return folder


def recorded(run_dir: Path) -> dict[str, Any]:
    (run_dir / "tracking").mkdir(exist_ok=True)
    (run_dir / "tracking" / "target.json").write_text(json.dumps({"uri": None, "key": "k"}))
    (run_dir.parent / "mlflow.db").touch()
    Sent(sent=7, run_id="r1", started=True, last_step=4, _path=run_dir / "tracking" / "sent.json").save()
    return {}


def test_scores_intervals_tables_and_pictures_go_into_the_run_of_the_bundle(tmp_path: Path, out: Path) -> None:
    recorded(tmp_path / "run")
    found = record_evaluation(tmp_path / "run" / "bundle", out, SUMMARY)
    records = Spool(tmp_path / "run").read()
    assert [record.kind for record in records] == ["metrics", "files", "tags"], "the run is neither started nor ended again"
    values = records[0].body["values"]
    assert (
        values["values/test/eyes_test/dice/cup"],
        values["values/test/eyes_test/dice_low/cup"],
        values["values/test/eyes_test/dice_high/cup"],
    ) == (
        0.5,
        0.25,
        0.75,
    )
    assert (values["values/test/eyes_test/second_reader_dice/cup"], values["values/test/eyes_test/empty_wrong/cup"]) == (0.6, 1)
    assert "values/test/eyes_test/dice_pooled/cup" not in values, "undefined"
    files = Spool(tmp_path / "run").files(records[1].number)
    assert records[1].body["folder"] == "test/eyes_test"
    kept = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    assert kept == {"summary.json", "per_image.csv", "examples/a_R.png"}
    assert "dice cup 0.500 [0.250, 0.750]" in records[2].body["tags"]["ocuseg.test.eyes_test"]
    assert found.mlflow_run_id == "r1"
    assert "3 records of this run have not reached MLflow" in found.sentence, "an absent server loses nothing and fails nothing"


@pytest.mark.parametrize("copied", ["bundle", "run"])
def test_a_bundle_that_was_copied_elsewhere_says_that_nothing_is_recorded(tmp_path: Path, out: Path, copied: str) -> None:
    if copied == "run":  # its database stayed behind
        recorded(tmp_path / "run")
        (tmp_path / "mlflow.db").unlink()
    found = record_evaluation(tmp_path / "run" / "bundle", out, SUMMARY)
    assert found.mlflow_run_id is None
    assert "not recorded in MLflow: the bundle does not lie in the folder of a recorded run; `--tracking URI`" in found.sentence
    assert not (tmp_path / "run" / "unsent").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_with_an_address_it_becomes_a_run_of_its_own(tmp_path: Path, out: Path) -> None:
    record_evaluation(tmp_path / "run" / "bundle", out, SUMMARY, f"sqlite:///{tmp_path / 'own.db'}")
    records = Spool(out).read()
    assert [record.kind for record in records] == ["start", "metrics", "files", "tags", "end"]
    assert records[0].body["params"]["bundle"] == "0123456789ab"
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        record_evaluation(tmp_path / "run" / "bundle", tmp_path / "other", SUMMARY, "ftp://elsewhere")


def test_a_run_that_another_process_holds_is_waited_for_and_then_left_alone(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path / "run")
    monkeypatch.setattr(recording, "WAIT_S", 0.0)
    with alone(tmp_path / "run"):
        found = record_evaluation(tmp_path / "run" / "bundle", out, SUMMARY)
    assert "another process is at this run" in found.sentence
    assert not Spool(tmp_path / "run").read()


def test_every_family_has_its_numbers() -> None:
    box = {"ap": 0.1, "ap50": 0.2, "ap75": 0.05, "ap50_low": None, "ap50_high": None}
    detection = {"box": box | {"classes": {"cup": box}}, "mask": None, "f1": {"cup": {"f1": None}}, "f1_centre": {"cup": {"f1": 0.4}}}
    more = {
        "detection": detection,
        "vcdr": {"bias": DICE, "definition": "..."},
        "surfaces": {"unit": "um", "surfaces": {"ILM": {"mean_abs": DICE}}},
    }
    numbers = evaluation_numbers(SUMMARY | more)
    assert (numbers["box_ap50/all"], numbers["box_ap/cup"], numbers["f1_centre/cup"], numbers["f1/cup"]) == (0.2, 0.1, 0.4, None)
    assert (numbers["vcdr/bias"], numbers["surface_error_um_low/ILM"]) == (0.5, 0.25)


def test_what_is_recorded_of_a_finished_run_does_not_end_it_again(tmp_path: Path, out: Path) -> None:
    recorded(tmp_path / "run")
    tracker = Tracker(run_config(), tmp_path / "run", resume=True)
    assert isinstance(tracker.finish(None), Delivery)
    assert not Spool(tmp_path / "run").read()
