"""A run's records in MLflow: complete, in order, once, and without anyone's name in them."""

from __future__ import annotations

import getpass
import json
import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.tracking.mlflow_store import flatten, metric_name, resolve_uri, shortened
from pipeline.tracking.spool import Sent, Spool, sender_lock
from pipeline.tracking.tracker import open_tracker, send_unsent
from tests.training.recorded import CARD, begin, client_beside, only_run, run_config


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which MLflow has made its (empty) tables: making them takes seconds, so it is done once."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    client_beside(path.parent / "run")
    return path


@pytest.fixture
def run_dir(tables: Path, tmp_path: Path) -> Path:
    """Where a run goes that is recorded beside itself."""
    shutil.copyfile(tables, tmp_path / "mlflow.db")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole run, recorded in ``mlflow.db`` beside it."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    tracker = open_tracker(run_config(), run_dir)
    begin(tracker, parameters=290_000, long="ab" * 4000)
    for step in range(1200):
        tracker.epoch(step, {"train/loss": 1 / (step + 1), "validation/dice/cup (inner)": math.nan, "undefined": None})
    tracker.table("validation_per_image", [{"case": "p2_L_v1_i1", "dice": 0.5}, {"case": "p3_L_v1_i1", "dice": None, "reason": "empty"}])
    tracker.picture("overlays/0", np.full((5, 7, 3), 9, dtype=np.uint8))
    bundle = run_dir / "bundle"
    bundle.mkdir()
    (bundle / "weights.safetensors").write_bytes(b"weights")
    (bundle / "config.yaml").write_text("name: little\n")
    tracker.bundle(bundle, {"validation/dice": 0.8125, "undefined": None})
    delivery = tracker.finish("FINISHED")
    assert delivery.message is None
    assert delivery.unsent == 0
    assert delivery.run_id == tracker.run_id is not None
    return run_dir


def test_numbers_arrive_once_in_order_and_nan_stays_nan(recorded: Path) -> None:
    client = client_beside(recorded)
    run = only_run(client)
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [m.step for m in sorted(history, key=lambda m: (m.timestamp, m.step))] == list(range(1200))
    assert sorted(m.value for m in history) == sorted(1 / (step + 1) for step in range(1200))
    assert math.isnan(run.data.metrics["validation/dice/cup -inner-"])
    assert "undefined" not in run.data.metrics
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "little"


def test_start_is_recorded_whole(recorded: Path, tmp_path: Path) -> None:
    client = client_beside(recorded)
    run = only_run(client)
    assert run.data.params["train.epochs"] == "100"
    assert run.data.params["model.name"] == "unet"
    assert run.data.params["parameters"] == "290000"
    assert len(run.data.params["long"]) == 6000
    assert run.data.params["long"].endswith("(8000 characters; whole in provenance/config.yaml)")
    assert run.data.tags["mlflow.source.git.commit"] == "a" * 40
    assert run.data.tags["ocuseg.dirty"] == "true"
    folder = Path(client.download_artifacts(run.info.run_id, "provenance", str(tmp_path)))
    assert sorted(path.name for path in folder.iterdir()) == ["card.md", "config.yaml", "environment.json", "manifest.json", "split.json"]
    assert (folder / "card.md").read_text() == CARD
    assert json.loads((folder / "manifest.json").read_text())[1] == {"case": "p2_L_v1_i1", "sha256": "2" * 64}
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "phantom"
    assert run.data.tags["ocuseg.manifest_sha256"].startswith(dataset.dataset.digest)


def test_tables_and_pictures_are_artifacts(recorded: Path, tmp_path: Path) -> None:
    from PIL import Image

    client = client_beside(recorded)
    folder = Path(client.download_artifacts(only_run(client).info.run_id, "", str(tmp_path)))
    assert (folder / "tables" / "validation_per_image.csv").read_text() == "case,dice,reason\np2_L_v1_i1,0.5,\np3_L_v1_i1,,empty\n"
    assert json.loads((folder / "tables" / "validation_per_image.json").read_text())[1]["dice"] is None
    with Image.open(folder / "pictures" / "overlays-0.png") as picture:
        assert picture.size == (7, 5)


def test_bundle_is_a_registered_version_with_an_alias(recorded: Path) -> None:
    client = client_beside(recorded)
    run = only_run(client)
    version = client.get_model_version_by_alias("little", "newest")
    assert str(version.version) == "1"
    assert version.run_id == run.info.run_id
    assert version.source == f"runs:/{run.info.run_id}/bundle"
    assert version.tags["validation/dice"] == "0.8125"
    assert {item.path for item in client.list_artifacts(run.info.run_id, "bundle")} == {"bundle/config.yaml", "bundle/weights.safetensors"}


def test_records_leave_the_disk_once_they_have_arrived(recorded: Path) -> None:
    assert not (recorded / "unsent").exists()
    assert Sent.load(recorded).last_step == 1199
    again = send_unsent(recorded)
    assert (again.unsent, again.message) == (0, None)


def test_no_login_name_no_path_and_no_mlruns(recorded: Path) -> None:
    runs = recorded.parent
    assert sorted(path.name for path in runs.iterdir()) == [".mlflow.db.lock", "mlartifacts", "mlflow.db", "run"]
    tags = only_run(client_beside(recorded)).data.tags
    assert "mlflow.user" not in tags
    assert tags["mlflow.source.name"] == "ocuseg train"
    texts = [path.read_text() for path in (runs / "mlartifacts").rglob("*") if path.suffix in (".yaml", ".json", ".md", ".csv")]
    assert len(texts) == 8
    # The database must say where its artifacts lie; nothing else in it, and nothing in them, may hold a path or a login.
    with closing(sqlite3.connect(runs / "mlflow.db")) as database, database:
        tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in database.execute(f'select * from "{table}"'):
                texts += [str(value) for value in row if not str(value).startswith(str(runs / "mlartifacts"))]
    database.close()
    home = str(Path.home())
    here = str(Path(__file__).resolve().parents[2])
    for text in texts:
        assert "file://" not in text
        assert str(runs) not in text.replace(str(runs / "mlruns"), "")
        assert text != getpass.getuser()
        assert here not in text
        assert f"{home}/" not in text


def test_resumed_run_goes_on_in_the_same_mlflow_run(run_dir: Path) -> None:
    with open_tracker(run_config(), run_dir) as tracker:
        begin(tracker)
        tracker.epoch(0, {"loss": 3.0})
        tracker.epoch(1, {"loss": 2.0})
        tracker.finish("KILLED")
    with open_tracker(run_config(), run_dir, resume=True) as resumed:
        begin(resumed)
        resumed.epoch(1, {"loss": 2.0})  # the epoch that the killed run had recorded but not saved
        resumed.epoch(2, {"loss": 1.0})
    client = client_beside(run_dir)
    run = only_run(client)
    assert run.info.run_id == tracker.run_id == resumed.run_id
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_a_second_delivery_changes_nothing(run_dir: Path, tmp_path: Path) -> None:
    """The server took everything, but no answer came back: note of it is lost, and all goes out again."""
    spool = Spool(run_dir)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights.safetensors").write_bytes(b"w")
    with sender_lock(run_dir):  # nothing leaves before the copy is made
        tracker = open_tracker(run_config(), run_dir)
        begin(tracker)
        for step in range(3):
            tracker.epoch(step, {"loss": float(step), "nan": math.nan})
        tracker.bundle(bundle, {"dice": 0.5})
        shutil.copytree(spool.folder, tmp_path / "copy")
    first = tracker.finish("FINISHED")
    shutil.rmtree(spool.folder, ignore_errors=True)
    shutil.copytree(tmp_path / "copy", spool.folder)
    (run_dir / "tracking" / "sent.json").unlink()
    second = send_unsent(run_dir)
    assert second.message is None
    assert second.run_id == first.run_id
    client = client_beside(run_dir)
    assert len(client.get_metric_history(first.run_id, "loss")) == 3
    assert len(client.get_metric_history(first.run_id, "nan")) == 3
    assert len(client.search_model_versions("name = 'little'")) == 1


def test_what_mlflow_refuses_is_put_aside_and_the_rest_arrives(run_dir: Path, tmp_path: Path) -> None:
    with open_tracker(run_config(registered_model="no/slash:please"), run_dir) as tracker:
        begin(tracker)
        bundle = tmp_path / "bundle"
        bundle.mkdir()
        (bundle / "weights.safetensors").write_bytes(b"w")
        tracker.bundle(bundle, {})
        tracker.epoch(0, {"loss": 1.0})
        delivery = tracker.finish("FINISHED")
    assert delivery.unsent == 0
    assert delivery.message is not None
    assert "refused 1 records" in delivery.message
    refused = json.loads((run_dir / "unsent" / "refused.jsonl").read_text())
    assert refused["kind"] == "bundle"
    assert (run_dir / "unsent" / "refused" / f"{refused['number']:08d}" / "weights.safetensors").exists()
    run = only_run(client_beside(run_dir))
    assert run.data.metrics == {"loss": 1.0}
    assert run.info.status == "FINISHED"


def test_runs_that_start_together_share_one_new_database(tmp_path: Path) -> None:
    trackers = [open_tracker(run_config(), tmp_path / f"run{i}") for i in range(2)]
    for tracker in trackers:
        begin(tracker)
        tracker.epoch(0, {"loss": 1.0})
    assert all(tracker.finish("FINISHED").message is None for tracker in trackers)
    for i in range(2):
        assert "Error" not in (tmp_path / f"run{i}" / "tracking" / "sender.log").read_text()
    client = client_beside(tmp_path / "run0")
    assert len(client.search_runs([client.get_experiment_by_name("ocuseg").experiment_id])) == 2


def test_exception_ends_the_run_as_failed(run_dir: Path) -> None:
    def fail() -> None:
        with open_tracker(run_config(), run_dir) as tracker:
            begin(tracker)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert only_run(client_beside(run_dir)).info.status == "FAILED"


def test_inactive_tracker_leaves_nothing(tmp_path: Path) -> None:
    with open_tracker(run_config(), tmp_path / "run", active=False) as tracker:
        begin(tracker)
        tracker.epoch(0, {"loss": 1.0})
        tracker.picture("a", np.zeros((2, 3), dtype=np.uint8))
        tracker.table("t", [{"a": 1}])
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_left_by_a_crash_is_cut_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("metrics", {"step": 0, "values": {"a": 1.0}})
    with spool.journal.open("ab") as stream:
        stream.write(b'{"number": 1, "kind": "met')
    assert [r.number for r in spool.read()] == [0]
    assert Spool(tmp_path).append("metrics", {"step": 1, "values": {}}) == 1
    assert [r.number for r in spool.read()] == [0, 1]
    assert spool.read_new() == []


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000", "postgresql://me:secret@host/db"])
def test_password_in_the_uri_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a password") as caught:
        open_tracker(run_config(uri), tmp_path / "run")
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = Path("runs") / "one"
    assert resolve_uri(None, run_dir) == (f"sqlite:///{tmp_path}/runs/mlflow.db", tmp_path / "runs" / "mlartifacts")
    assert resolve_uri("sqlite:///mine.db", run_dir) == (f"sqlite:///{tmp_path}/mine.db", tmp_path / "mlartifacts")
    assert resolve_uri("sqlite:////data/mine.db", run_dir) == ("sqlite:////data/mine.db", Path("/data/mlartifacts"))
    assert resolve_uri("http://127.0.0.1:5000", run_dir) == ("http://127.0.0.1:5000", None)
    with pytest.raises(ConfigError, match="cannot record to 'mlruns'"):
        resolve_uri("mlruns", run_dir)


def test_folder_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    open_tracker(run_config(), tmp_path / "run").finish("FINISHED", wait_seconds=0)
    with pytest.raises(ConfigError, match="already holds a recorded run"):
        open_tracker(run_config(), tmp_path / "run")
    with pytest.raises(ConfigError, match="not the folder of a recorded run"):
        send_unsent(tmp_path)


def test_names_and_values() -> None:
    assert metric_name("dice/optic disc (µ)") == "dice/optic disc ---"
    assert flatten({"a": {"b": [1, 2], "c": None}, "d": "x", "e": "", "f": {}}) == {
        "a.b": "[1, 2]",
        "a.c": "null",
        "d": "x",
        "e": '""',
        "f": "{}",
    }
    assert shortened("x" * 6000) == "x" * 6000
    assert len(shortened("x" * 6001)) == 6000
