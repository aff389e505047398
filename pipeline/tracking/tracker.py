"""What a run leaves in MLflow, recorded so that training never waits for a server and nothing is lost when one goes away.

Every record is first appended to a spool on disk (``RUN/unsent``); a process of its own delivers it, in order. The run
goes on at full speed while the server is away; what could not be sent stays on disk and :func:`send_unsent` sends it.

How a training run calls it (rank 0 only; other ranks pass ``active=False`` and every call does nothing)::

    with open_tracker(config, run_dir, active=accelerator.is_main_process, resume=resume) as tracker:
        tracker.start(card_name=..., card_text=..., split=split.to_json(), manifest=store.manifest(), environment=environment(device))
        tracker.epoch(step, {"train/loss": 0.4, "train/loss/dice": 0.3, "validation/dice/vessel": 0.79})   # one call an epoch
        tracker.table("validation_per_image", rows)
        tracker.picture("validation_overlay_0", image)
        tracker.bundle(bundle_path, {"test/dice": 0.81})
        delivery = tracker.finish("FINISHED")      # leaving the block by an exception finishes as FAILED or KILLED
    if delivery.message: show it to the user

Call ``epoch`` BEFORE the epoch's checkpoint is saved: a step that an earlier process has recorded already is left out, so
the epoch that a killed run repeats stands in MLflow once.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pipeline.atomic import write_text
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, InterruptedRun
from pipeline.tracking.mlflow_store import flatten, metric_name, resolve_uri
from pipeline.tracking.record import bundle_record, file_name, link_folder, start_record, table_texts, write_texts
from pipeline.tracking.sender_process import SenderProcess
from pipeline.tracking.spool import Sent, Spool, sender_lock

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Status = Literal["FINISHED", "FAILED", "KILLED"]
LOOK_SECONDS = 5.0  # how often a training run looks whether its sender is in trouble
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """How far the records of a run have come. ``message`` is one sentence for the user when not all have arrived."""

    sent: int
    unsent: int
    run_id: str | None
    model_version: str | None = None
    message: str | None = None

    def lines(self) -> list[str]:
        """For a person."""
        place = f" in MLflow run {self.run_id}" if self.run_id else ""
        return [f"{self.sent} records are{place}, {self.unsent} are unsent", *([self.message] if self.message else [])]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Tracker:
    """Records one run. No method raises because of the server, and none waits for it but :meth:`finish`, for a bounded time."""

    def __init__(self, config: RunConfig, run_dir: Path, *, active: bool = True, resume: bool = False) -> None:
        self._config, self._run_dir, self._active = config, run_dir, active
        self._experiment = config.tracking.experiment
        self._delivery: Delivery | None = None
        self._lost = 0
        if not active:
            return
        target = run_dir / "tracking" / "target.json"
        if target.exists() and not resume:
            raise ConfigError(f"{run_dir.name}: already holds a recorded run; resume it, or choose another folder")
        known: dict[str, Any] = _target(run_dir) if target.exists() else {"uri": None, "key": uuid.uuid4().hex}
        # The config that a run keeps does not say where it is recorded; this file does.
        uri, artifacts = resolve_uri(config.tracking.uri or known["uri"], run_dir)
        if not target.exists():
            write_text(target, json.dumps({"uri": config.tracking.uri and uri, "key": known["key"]}) + "\n")
        self._spool = Spool(run_dir)
        sent, records = Sent.load(run_dir), self._spool.read()
        self._started = sent.started or sent.sent > 0 or any(r.kind == "start" for r in records)
        self._recorded_to = max([sent.last_step, *(r.body["step"] for r in records if r.kind == "metrics")])
        self._last_step = max(self._recorded_to, 0)
        self._run_id: str | None = sent.run_id
        self._looked, self._warned = time.monotonic(), False
        self._sender = SenderProcess(run_dir, uri, artifacts, known["key"])
        self._sender.ensure()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        killed = isinstance(error, KeyboardInterrupt | InterruptedRun | SystemExit)
        status: Status = "FINISHED" if error is None else "KILLED" if killed else "FAILED"
        # Whoever sent SIGTERM may send SIGKILL soon after.
        delivery = self.finish(status, wait_seconds=5.0 if killed else 30.0)
        if error is not None and delivery.message:
            log.warning("%s", delivery.message)

    @property
    def run_id(self) -> str | None:
        """The MLflow run, or None as long as no server has answered."""
        if self._active and self._run_id is None:
            self._run_id = Sent.load(self._run_dir).run_id
        return self._run_id if self._active else None

    def wait_for_run(self, seconds: float = 30.0) -> str | None:
        """The MLflow run, waiting for the server's answer at most so long; None where none came."""
        end = time.monotonic() + seconds
        while self._active and self.run_id is None and time.monotonic() < end:
            time.sleep(0.1)
        return self.run_id

    def _append(self, kind: str, body: dict[str, Any], stage: Callable[[Path], None] | None = None) -> None:
        if not self._active or self._delivery is not None:
            return
        try:
            self._spool.append(kind, body, stage)
        except OSError as error:
            # A full disk must not end hours of training because of its record; checkpoints will speak up for themselves.
            self._lost += 1
            log.warning("a record of the run (%s) could not be written: %s", kind, error.strerror or error.__class__.__name__)
        self._look()

    def _look(self) -> None:
        """Now and then: is the sender alive, and does it get through? Said once."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._sender.ensure()
        problem = Sent.load(self._run_dir).problem
        if problem and not self._warned:
            self._warned = True
            log.warning("MLflow cannot be reached (%s); training goes on and the records are kept on disk", problem)

    def start(
        self,
        *,
        card_name: str,
        card_text: str,
        split: Any,
        manifest: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
        extra: Mapping[str, Any] | None = None,
        repeats: str | None = None,
    ) -> None:
        """Record what the run is made of. On a resumed run this only notes the resumption.

        Parameters
        ----------
        card_name, card_text: the data card's ``name`` and its whole text (its hash is recorded with it).
        split: JSON value or JSON text of the split, CaseKeys only.
        manifest: one row an image: ``case``, ``sha256`` and whatever else says what was trained on; never a path.
        environment: :func:`pipeline.tracking.provenance.environment`.
        extra: further parameters, such as ``{"parameters": 290_000}``.
        repeats: the MLflow run that this one repeats.
        """
        if not self._active:
            return
        if self._started:
            self._append("resumed", {})
            return
        self._started = True
        body, texts = start_record(self._config, card_name, card_text, split, manifest, environment, extra or {}, repeats)
        self._append("start", body, lambda folder: write_texts(folder, texts))

    def start_study(self, name: str, params: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Record a run that only holds others together (studies/study.py): its settings and, as files by name, their configs."""
        if not self._active:
            return
        if self._started:
            self._append("resumed", {})
            return
        self._started = True
        body = {
            "experiment": self._experiment,
            "run_name": name,
            "params": flatten(params),
            "tags": {"mlflow.source.name": "ocuseg", "ocuseg.study": name},
            "dataset": None,
        }
        self._append("start", body, lambda folder: write_texts(folder, texts))

    def epoch(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Record one epoch's numbers under MLflow step ``step``. None is left out (undefined), NaN is recorded as NaN."""
        if not self._active or step <= self._recorded_to:
            return
        self._last_step = max(self._last_step, step)
        values = {metric_name(name): float(value) for name, value in metrics.items() if value is not None}
        self._append("metrics", {"step": step, "values": values})

    def numbers(self, metrics: Mapping[str, float | None]) -> None:
        """Record numbers that belong to no epoch, such as those of a test; None is left out."""
        values = {metric_name(name): float(value) for name, value in metrics.items() if value is not None}
        if self._active and values:
            self._append("metrics", {"step": self._last_step, "values": values})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record rows (one an image) as the artifacts ``tables/NAME.csv`` and ``tables/NAME.json``."""
        self._append("files", {"folder": "tables"}, lambda folder: write_texts(folder, table_texts(file_name(name), rows)))

    def picture(self, name: str, image: npt.NDArray[np.uint8]) -> None:
        """Record uint8 (H, W) or (H, W, 3) as the artifact ``pictures/NAME.png``."""
        if not self._active:
            return
        from PIL import Image

        self._append("files", {"folder": "pictures"}, lambda folder: Image.fromarray(image).save(folder / f"{file_name(name)}.png"))

    def files(self, folder: str, paths: Mapping[str, Path]) -> None:
        """Record files, by their names below it, as the artifacts of ``folder``."""

        def stage(target: Path) -> None:
            for name, path in paths.items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / name)

        self._append("files", {"folder": folder}, stage)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._append("tags", {"tags": dict(tags)})

    def bundle(self, path: Path, metrics: Mapping[str, float | None]) -> None:
        """Record the bundle folder as the artifact ``bundle/`` and register it as a model version with the config's alias.

        The numbers become tags of the model version and, under ``values/bundle/``, metrics of the run. Weights that are already
        staged are linked rather than copied.
        """
        if not self._active:
            return
        body, numbers = bundle_record(self._config, path, metrics)
        self._append("metrics", {"step": self._last_step, "values": numbers})
        self.tags({"ocuseg.weights_sha256": body["tags"]["ocuseg.weights_sha256"]})
        self._append("bundle", body, lambda folder: link_folder(path, folder))

    def finish(self, status: Status | None, *, wait_seconds: float = 30.0) -> Delivery:
        """End the run and let its records arrive; says what is still unsent. A second call only repeats the answer.

        ``status`` None leaves the run as it is: what was added to it afterwards (an evaluation) does not make it longer.

        It waits at most ``wait_seconds`` for a server that does not answer, and ten times that while records are arriving.
        """
        if not self._active:
            return Delivery(0, 0, None)
        if self._delivery is None:
            if status is not None:
                self._append("end", {"status": status})
            self._sender.finish(wait_seconds)
            self._delivery = _delivery(self._run_dir, self._lost)
        return self._delivery


def open_tracker(config: RunConfig, run_dir: Path, *, active: bool = True, resume: bool = False) -> Tracker:
    """Start recording a run (``resume=True`` continues the MLflow run that ``run_dir`` belongs to).

    Raises
    ------
    ConfigError: a tracking URI that holds a password or cannot be used at all; a folder that holds a run already.
    """
    return Tracker(config, run_dir, active=active, resume=resume)


def send_unsent(run_dir: Path, *, uri: str | None = None, wait_seconds: float = 60.0) -> Delivery:
    """Send what a run could not (``ocuseg train --send RUN``), to ``uri`` where the server has moved.

    Records that have arrived are not sent again. The one exception leaves no trace: when the server took a record and its
    answer was lost, the record is sent once more, and MLflow recognises it (same time, step and value; same file name).

    Raises
    ------
    ConfigError: the folder is not a recorded run.
    """
    target = _target(run_dir)
    Sent.load(run_dir)  # what is damaged is told before anything is started
    if Spool(run_dir).read():
        address, artifacts = resolve_uri(uri or target["uri"], run_dir)
        SenderProcess(run_dir, address, artifacts, target["key"]).finish(wait_seconds)
    return _delivery(run_dir, 0)


def _target(run_dir: Path) -> dict[str, Any]:
    """Which MLflow run the folder's records belong to: ``uri`` (None: beside the run) and ``key``."""
    try:
        target = json.loads((run_dir / "tracking" / "target.json").read_text(encoding="utf-8"))
        return {"uri": None if target["uri"] is None else str(target["uri"]), "key": str(target["key"])}
    except OSError:
        raise ConfigError(f"{run_dir}: is not the folder of a recorded run (no tracking/target.json in it)") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{run_dir}: tracking/target.json is damaged; copy it from a backup, or train again in a new folder") from None


def _delivery(run_dir: Path, lost: int) -> Delivery:
    """What has arrived so far, in words where it is not everything."""
    with sender_lock(run_dir) as alone:
        if alone:
            Spool(run_dir).compact()
    sent = Sent.load(run_dir)
    unsent = sum(record.number >= sent.sent for record in Spool(run_dir).read())
    parts = []
    if unsent:
        why = f" ({sent.problem})" if sent.problem else ""
        parts.append(
            f"{unsent} records of this run have not reached MLflow{why}; they are kept in {run_dir / 'unsent'}: "
            f"send them later with `ocuseg train --send {run_dir}`"
        )
    if sent.refused:
        parts.append(f"MLflow refused {sent.refused} records for good; they and the reasons are in {run_dir / 'unsent' / 'refused.jsonl'}")
    if lost:
        parts.append(f"{lost} records could not be written to disk and are lost")
    return Delivery(sent.sent - sent.refused, unsent, sent.run_id, sent.model_version, ". ".join(parts) or None)
