"""MLflow's database beside the runs: there whole or not at all, and mended where an earlier version left half of it."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.tracking import mlflow_store
from pipeline.tracking.mlflow_store import Deliverer, connect, release
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


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["made", "named"])
def test_dying_while_the_tables_are_made_leaves_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    import mlflow

    def die_making(tracking_uri: str, **_: Any) -> None:
        run_sql(Path(tracking_uri.removeprefix("sqlite:///")), "CREATE TABLE experiments (name TEXT)")
        raise Killed

    def die_naming(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "made":
            patch.setattr(mlflow, "MlflowClient", die_making)
            patch.setattr(mlflow_store, "_empty_database", mlflow_store._empty_database.__wrapped__)  # as in a new process
        else:
            patch.setattr(os, "replace", die_naming)
        with pytest.raises(Killed):
            connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow.db.lock"]
    # As kill -9 would leave it, with the staged file still there.
    run_sql(tmp_path / ".mlflow.db.part", "CREATE TABLE experiments (name TEXT)")
    assert connect(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()[0].name == "Default"


def tables_of(path: Path) -> dict[str, list[Any]]:
    """The words of a database's definitions, in which SQLAlchemy puts constraints in any order, and its rows without times."""
    with closing(sqlite3.connect(path)) as database:
        made = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}
    held = {name: [tuple(v for v in row if not (isinstance(v, int) and v > 10**12)) for row in rows[name]] for name in rows}
    return {name: [sorted(re.findall(r"\w+", sql)), held.get(name)] for name, sql in made.items()}


def test_a_copy_of_an_empty_database_is_what_mlflow_makes_at_that_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the copy's second owner: MLflow notes the folder in which it was made."""
    from mlflow import MlflowClient

    for name in ("first_owner", "second_owner"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        connect(f"sqlite:///{tmp_path / name / 'mlflow.db'}")
    assert b"first_owner" not in (tmp_path / "second_owner" / "mlflow.db").read_bytes()
    assert f"{tmp_path}/second_owner/mlruns/0" in str(tables_of(tmp_path / "second_owner" / "mlflow.db")["experiments"])
    client = MlflowClient(f"sqlite:///{tmp_path / 'own.db'}", f"sqlite:///{tmp_path / 'own.db'}")
    client.search_registered_models(max_results=1)
    assert tables_of(tmp_path / "second_owner" / "mlflow.db") == tables_of(tmp_path / "own.db")


def test_a_database_that_was_taken_away_is_made_anew_by_the_same_process(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):
        client = connect(uri)
        client.create_run("0")
        release(client)
        (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    with closing(sqlite3.connect(tmp_path / "away.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)


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


@pytest.mark.parametrize("refusals", [1, 2])
def test_two_runs_may_enter_the_same_data_at_one_moment(
    made: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    from mlflow.exceptions import BAD_REQUEST, MlflowException

    path = tmp_path / "mlflow.db"
    path.write_bytes(made)
    client = connect(f"sqlite:///{path}")
    enter, tries = client.log_inputs, []

    def refuse_at_first(run_id: str, inputs: object) -> None:
        tries.append(run_id)
        if len(tries) <= refusals:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name", error_code=BAD_REQUEST)
        enter(run_id, inputs)

    monkeypatch.setattr(client, "log_inputs", refuse_at_first)
    spool = Spool(tmp_path / "run")
    data = {"name": "phantoms", "digest": "0" * 36, "source": "{}", "profile": "{}"}
    body = {"experiment": "ocuseg", "run_name": "a", "params": {}, "tags": {}, "dataset": data}
    spool.append("start", body, lambda folder: (folder / "config.yaml").write_text("a"))
    sent = Sent()
    deliverer = Deliverer(client, "key", tmp_path / "mlartifacts", spool, sent)
    if refusals == 2:
        with pytest.raises(MlflowException, match="UNIQUE"):
            deliverer.deliver(spool.read())
        deliverer.deliver(spool.read())  # as the sender does after a while
    else:
        deliverer.deliver(spool.read())
    assert sent.run_id is not None
    assert [each.dataset.name for each in client.get_run(sent.run_id).inputs.dataset_inputs] == ["phantoms"]
    assert len(client.search_runs([client.get_experiment_by_name("ocuseg").experiment_id])) == 1
