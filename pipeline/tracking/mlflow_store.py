"""MLflow itself: where a URI leads, how it is imported quietly, and how each kind of record is delivered.

``MlflowClient`` is called with explicit values only. The fluent API (``mlflow.start_run``) would add the user's login
name, the script's absolute path and the working directory's repository as tags.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.atomic import atomic_path
from pipeline.errors import ConfigError
from pipeline.lock import locked
from pipeline.tracking.spool import Record, Sent, Spool

RUN_KEY = "ocuseg.run"
METRICS_PER_BATCH = 1000  # MLflow's limits of one log_batch call
PARAMS_PER_BATCH = 100
PARAM_CHARACTERS = 6000
TAG_CHARACTERS = 5000  # the registry of older servers takes no more
# What the server will never take, however often it is sent. Everything else (no answer, 5xx, no permission, a run
# that is not there) may be mended outside and is tried again.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the sender waits and tries again by itself
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def resolve_uri(uri: str | None, run_dir: Path) -> tuple[str, Path | None]:
    """(URI to connect to, folder for the artifacts or None where the server decides).

    None is SQLite ``mlflow.db`` beside the run. A database is given its artifacts in ``mlartifacts`` beside the SQLite
    file or the run, because MLflow's own choice is ``mlruns`` in whatever folder the program was started from.

    Raises
    ------
    ConfigError: a URI with a password in it (it would be copied into configs, logs and records), or of an unknown kind.
    """
    if uri is None:
        home = run_dir.resolve().parent
        return f"sqlite:///{home / 'mlflow.db'}", home / "mlartifacts"
    scheme, separator, rest = uri.partition("://")
    if re.match(r"[^/@]*:[^/@]*@", rest):
        raise ConfigError(
            "tracking.uri: holds a password; leave it out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            "(in front of a database, run `mlflow server`)"
        )
    if scheme == "sqlite" and separator:
        path = Path(rest.removeprefix("/")).expanduser().absolute()
        return f"sqlite:///{path}", path.parent / "mlartifacts"
    if separator and re.fullmatch(r"(postgresql|mysql|mssql)(\+\w+)?", scheme):
        return uri, run_dir.resolve().parent / "mlartifacts"
    if separator and scheme in ("http", "https", "databricks"):
        return uri, None
    raise ConfigError(f"tracking.uri: cannot record to {uri!r}; give http(s)://SERVER:PORT or sqlite:///FILE, or null")


def connect(uri: str) -> Any:
    """An ``MlflowClient`` for ``uri``: no telemetry, no chatter on the log, bounded requests. Importing takes 2-5 s."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), _alone_in(uri):
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        if uri.startswith("sqlite:///"):
            _make_database(Path(uri.removeprefix("sqlite:///")))
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    # MLflow configures its logger while it is imported, and alembic's when it makes the tables.
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return client


@contextmanager
def _alone_in(uri: str) -> Iterator[None]:
    """Wait for others to be done with a SQLite database: runs that start together must not create its tables together."""
    path = Path(uri.removeprefix("sqlite:///"))
    with ExitStack() as held:
        if uri.startswith("sqlite:///"):
            with suppress(OSError):  # a folder that is missing or read-only: connecting says what is wrong with it
                held.enter_context(locked(path.with_name(f".{path.name}.lock"), busy=None))
        yield


def _make_database(path: Path) -> None:
    """MLflow's tables in a SQLite file that is not there yet, or that a killed process left half made and without a run.

    MLflow makes them in dozens of steps, and never again opens a file in which some of them are missing. So they are made elsewhere,
    and the file gets its name by one rename.
    """
    if path.exists() and not _is_half_made(path):
        return
    from mlflow.utils.uri import resolve_uri_if_local

    empty = _empty_database()
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(empty)
        # Where MLflow would put it: below the working directory of the process that makes the database.
        database.execute("UPDATE experiments SET artifact_location = ?", (resolve_uri_if_local("./mlruns/0"),))
        database.commit()
        whole = database.serialize()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as staged:
        staged.write_bytes(whole)


@functools.cache
def _empty_database() -> bytes:
    """A database that MLflow has just made, without a place. Its migrations take three seconds, so a process lets it do so once."""
    from mlflow import MlflowClient

    with TemporaryDirectory(prefix="ocuseg-") as folder:
        path = Path(folder) / "mlflow.db"
        client = MlflowClient(tracking_uri=f"sqlite:///{path}", registry_uri=f"sqlite:///{path}")
        client.search_registered_models(max_results=1)  # the registry's own tables, too
        release(client)
        with closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE experiments SET artifact_location = ''")
            database.commit()
            database.execute("VACUUM")  # what was overwritten would otherwise stay in the file, and go into each copy
        return path.read_bytes()


def release(client: Any) -> None:
    """Close the file of a client's database, so that another one may take its place; MLflow keeps it open as long as the process lives."""
    for part in (client._tracking_client, getattr(client, "_registry_client_lazy", None)):
        engine = getattr(getattr(part, "store", None), "engine", None)  # a server's address has none
        if engine is not None:
            engine.dispose()


def _is_half_made(path: Path) -> bool:
    """Whether a SQLite file of MLflow lacks what it makes last, the experiment "Default", and holds no run."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            experiments = database.execute("SELECT count(*) FROM experiments").fetchone()[0] if "experiments" in tables else 0
            runs = database.execute("SELECT count(*) FROM runs").fetchone()[0] if "runs" in tables else 0
    except sqlite3.Error:
        return False  # no database, or not to be read: MLflow says what is wrong
    return not experiments and not runs and (tables <= {"alembic_version"} or "experiments" in tables)


# Without it MLflow shows the experiment as if it held conversations, and hides runs and curves.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


class RefusedError(Exception):
    """MLflow will never take this record."""


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))


class Deliverer:
    """Puts records into MLflow, each so that doing it twice leaves the same as doing it once."""

    def __init__(self, client: Any, key: str, artifacts: Path | None, spool: Spool, sent: Sent) -> None:
        self._client, self._key, self._artifacts, self._spool, self._sent = client, key, artifacts, spool, sent

    def close(self) -> None:
        release(self._client)

    def deliver(self, records: Sequence[Record]) -> None:
        """Deliver one record, or several of the kind ``metrics`` in one request.

        Raises
        ------
        RefusedError: it can never be delivered. Any other exception: try again later.
        """
        first = records[0]
        try:
            if first.kind == "metrics":
                self._metrics(records)
            else:
                getattr(self, f"_{first.kind}")(first)
        except Exception as error:
            # A run that could not be made has no place to put the rest: that waits for someone to mend it.
            if first.kind != "start" and _code(error) in REFUSALS:
                raise RefusedError(f"{first.kind}: {error}") from error
            raise

    @property
    def _run_id(self) -> str:
        if self._sent.run_id is None:
            raise RuntimeError("the run is not in MLflow yet")
        return self._sent.run_id

    def _start(self, record: Record) -> None:
        from mlflow.entities import Param

        body = record.body
        experiment = self._experiment(body["experiment"])
        # The answer to an earlier create_run may have been lost on its way: the run is found again by our own key.
        found = self._client.search_runs([experiment], filter_string=f"tags.`{RUN_KEY}` = '{self._key}'", max_results=1)
        if found:
            self._sent.run_id = found[0].info.run_id
        else:
            tags = {RUN_KEY: self._key, **{name: value[:TAG_CHARACTERS] for name, value in body["tags"].items()}}
            run = self._client.create_run(experiment, start_time=record.time_ms, tags=tags, run_name=body["run_name"])
            self._sent.run_id = run.info.run_id
        params = [Param(name, shortened(text)) for name, text in body["params"].items()]
        for at in range(0, len(params), PARAMS_PER_BATCH):
            self._client.log_batch(self._run_id, params=params[at : at + PARAMS_PER_BATCH])
        if (data := body["dataset"]) is not None:
            self._dataset(data)
        self._client.log_artifacts(self._run_id, str(self._spool.files(record.number)), "provenance")

    def _dataset(self, data: Mapping[str, str]) -> None:
        """Enter what a run trains on; MLflow looks for it and then inserts it, so that two runs may both try to be the first."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(data["name"][:500], data["digest"][:36], "ocuseg data card", data["source"], profile=data["profile"])
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            self._client.log_inputs(self._run_id, inputs)
        except Exception as error:
            if _code(error) != "BAD_REQUEST":  # how MLflow tells that a row is there already
                raise
            self._client.log_inputs(self._run_id, inputs)

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is None:
            location = None if self._artifacts is None else str(self._artifacts)
            try:
                return str(self._client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
            except Exception as error:  # another run has made it in this very moment
                known = self._client.get_experiment_by_name(name)
                if known is None or _code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
        if known.lifecycle_stage == "deleted":
            raise ConfigError(
                f"the experiment {name!r} was deleted in MLflow; bring it back by `mlflow experiments restore --experiment-id "
                f"{known.experiment_id}` with MLFLOW_TRACKING_URI={self._client.tracking_uri}, then send the records"
            )
        return str(known.experiment_id)

    def _metrics(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), record.time_ms, record.body["step"])
            for record in records
            for name, value in record.body["values"].items()
        ]
        # MLflow's key of a value is (run, name, step, time, value): a repeated delivery adds nothing.
        for at in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[at : at + METRICS_PER_BATCH])

    def _tags(self, record: Record) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._run_id, tags=[RunTag(name, text[:TAG_CHARACTERS]) for name, text in record.body["tags"].items()])

    def _files(self, record: Record) -> None:
        self._client.log_artifacts(self._run_id, str(self._spool.files(record.number)), record.body["folder"] or None)

    def _bundle(self, record: Record) -> None:
        body, run_id = record.body, self._run_id
        self._client.log_artifacts(run_id, str(self._spool.files(record.number)), "bundle")
        name = body["model"]
        try:
            self._client.create_registered_model(name)
        except Exception as error:
            if _code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self._version(name, body["tags"]["ocuseg.bundle_sha256"])
        if version is None:
            tags = {**body["tags"], RUN_KEY: self._key}
            version = self._client.create_model_version(
                name, source=f"runs:/{run_id}/bundle", run_id=run_id, tags=tags, await_creation_for=0
            ).version
        self._client.set_registered_model_alias(name, body["alias"], str(version))
        self._sent.model_version = f"{name} version {version} ({body['alias']})"

    def _version(self, name: str, digest: str) -> str | None:
        """The version that an earlier try has registered from this run, or None."""
        for version in self._client.search_model_versions(f"name = '{name}' and run_id = '{self._run_id}'"):
            if version.tags.get("ocuseg.bundle_sha256") == digest:
                return str(version.version)
        return None

    def _resumed(self, record: Record) -> None:
        self._client.update_run(self._run_id, status="RUNNING")
        self._client.set_tag(self._run_id, "ocuseg.resumed", str(record.time_ms))

    def _end(self, record: Record) -> None:
        self._client.set_terminated(self._run_id, record.body["status"], end_time=record.time_ms)


def shortened(text: str) -> str:
    """A parameter's value within MLflow's limit, which would otherwise be cut with a warning only."""
    if len(text) <= PARAM_CHARACTERS:
        return text
    note = f" ... ({len(text)} characters; whole in provenance/config.yaml)"
    return text[: PARAM_CHARACTERS - len(note)] + note


def metric_name(name: str) -> str:
    """A metric's name with what MLflow does not take (a class called "cup (inner)") replaced by ``-``."""
    return re.sub(r"[^\w\-. :/]", "-", name, flags=re.ASCII)[:250]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"train": {"epochs": 5}} -> {"train.epochs": "5"}; strings as they are, everything else as JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value if isinstance(value, str) and value else json.dumps(value)
    return flat
