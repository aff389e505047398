"""MLflow's database beside the runs: there whole or not at all, and mended where an earlier version left half of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.tracking.mlflow_store import Deliverer, connect
from pipeline.tracking.spool import Sent, Spool


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database that MLflow has just made."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}")
    assert {p.name for p in path.parent.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}
    return path.read_bytes()


def test_dying_while_the_tables_are_made_leaves_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    class Killed(BaseException):
        pass

    def die(tracking_uri: str, **_: Any) -> None:
        run_sql(Path(tracking_uri.removeprefix("sqlite:///")), "CREATE TABLE experiments (name TEXT)")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", die)
        with pytest.raises(Killed):
            connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not (tmp_path / "mlflow.db").exists()
    # As kill -9 would leave it, with the staged file still there.
    run_sql(tmp_path / ".mlflow.db.part", "CREATE TABLE experiments (name TEXT)")
    assert connect(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()[0].name == "Default"


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM experiments", "UPDATE alembic_version SET version_num = '451aebb31d03'"],
        ["DELETE FROM experiments", "DELETE FROM alembic_version", "DROP TABLE runs"],
    ],
)
def test_what_an_earlier_version_left_half_made_is_made_anew(made: bytes, tmp_path: Path, statements: list[str]) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(made)
    run_sql(path, "PRAGMA foreign_keys = OFF", *statements)
    assert connect(f"sqlite:///{path}").search_experiments()[0].name == "Default"


def test_a_database_with_a_run_and_one_of_somebody_else_are_left_alone(made: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(made)
    client = connect(f"sqlite:///{path}")
    run = client.create_run("0")
    run_sql(path, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    before = path.read_bytes()
    copy = tmp_path / "copy.db"  # MLflow looks at each place once in a process
    copy.write_bytes(before)
    with pytest.raises(Exception, match="out-of-date"):
        connect(f"sqlite:///{copy}")
    assert copy.read_bytes() == before
    assert run.info.run_id.encode() in before
    other = tmp_path / "other.db"
    run_sql(other, "CREATE TABLE patients (name TEXT)", "INSERT INTO patients VALUES ('x')")
    connect(f"sqlite:///{other}")
    with closing(sqlite3.connect(other)) as database:
        assert database.execute("SELECT * FROM patients").fetchall() == [("x",)]


def test_a_deleted_experiment_is_said_with_the_way_to_restore_it(made: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(made)
    client = connect(f"sqlite:///{path}")
    number = client.create_experiment("ocuseg")
    client.delete_experiment(number)
    spool = Spool(tmp_path / "run")
    body = {"experiment": "ocuseg", "run_name": "a", "params": {}, "tags": {}, "dataset": None}
    spool.append("start", body, lambda folder: (folder / "config.yaml").write_text("a"))
    with pytest.raises(ConfigError, match=rf"'ocuseg' was deleted.*mlflow experiments restore --experiment-id {number}"):
        Deliverer(client, "key", tmp_path / "mlartifacts", spool, Sent()).deliver(spool.read())
    client.restore_experiment(number)
    sent = Sent()
    Deliverer(client, "key", tmp_path / "mlartifacts", spool, sent).deliver(spool.read())
    assert sent.run_id is not None
