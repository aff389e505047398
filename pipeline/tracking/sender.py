"""The process that carries the records of runs to MLflow: ``python -m pipeline.tracking.sender``, started by the Tracker.

A process of its own, because importing and calling MLflow then takes neither time nor memory from training, no thread
of it is there when loader workers fork, a server that hangs can be left behind at the end by killing one process, and
when training itself is killed the records already on disk still go out.

It serves one run after another, and speaks with its parent through standard input: a JSON object (``run_dir``, ``uri``, ``artifacts``,
``key``, the ``environment`` of this run, and as ``parent`` its process id) gives it a run, the line ``finish`` or the end of input asks
it to deliver what is there. A byte on standard output says that it is through with the run; how far it has come is in
``RUN/tracking/sent.json``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import OcusegError
from pipeline.parent import when_parent_ends
from pipeline.tracking.mlflow_store import METRICS_PER_BATCH, Deliverer, RefusedError, connect
from pipeline.tracking.spool import Record, Sent, Spool, sender_lock

POLL_SECONDS = 0.2
LONGEST_PAUSE = 15.0
ORPHAN_SECONDS = 60.0
log = logging.getLogger(__name__)


class Sender:
    """Delivers the journal of one run, in order, until asked to finish."""

    def __init__(self, run_dir: Path, uri: str, artifacts: Path | None, key: str) -> None:
        self._run_dir, self._uri, self._artifacts, self._key = run_dir, uri, artifacts, key
        self._spool = Spool(run_dir)
        self._pending: list[Record] = []
        self._deliverer: Deliverer | None = None
        self.finishing = threading.Event()
        self._progress = time.monotonic()

    def run(self) -> None:
        """Deliver until the journal is empty and the parent has asked to finish."""
        while True:
            with sender_lock(self._run_dir) as alone:
                if alone:
                    self._deliver_all(Sent.load(self._run_dir))
                    return
            time.sleep(POLL_SECONDS)  # an earlier sender of this run is still at its last records

    def orphaned(self) -> None:
        """The parent is gone: finish, and end this process when nothing has arrived for a minute, whatever it waits for, or at once
        when the run's folder is gone. Harmless: every record is on disk until its arrival is noted."""
        self.finishing.set()
        self._progress = time.monotonic()
        while time.monotonic() - self._progress < ORPHAN_SECONDS and self._run_dir.is_dir():
            time.sleep(POLL_SECONDS)
        os._exit(1)

    def _deliver_all(self, sent: Sent) -> None:
        pause = 0.0
        while True:
            finishing = self.finishing.is_set()  # before reading: what was appended before the request is still seen
            self._pending += [r for r in self._spool.read_new() if r.number >= sent.sent]
            if not self._pending:
                if finishing:
                    return
                self.finishing.wait(POLL_SECONDS)
                continue
            batch = self._batch()
            try:
                self._connected(sent).deliver(batch)
            except RefusedError as error:
                log.warning("refused: %s", error)
                self._keep_refused(batch, str(error), sent)
            except Exception as error:
                sent.problem = _sentence(error)
                log.warning("not delivered: %s", sent.problem)
                sent.save()
                pause = min(max(0.5, pause * 2), LONGEST_PAUSE)
                if finishing:
                    time.sleep(min(pause, 1.0))
                else:
                    self.finishing.wait(pause)
                continue
            pause, self._progress = 0.0, time.monotonic()
            sent.sent, sent.problem = batch[-1].number + 1, None
            sent.save()
            del self._pending[: len(batch)]
            for record in batch:
                self._spool.discard_files(record.number)

    def close(self) -> None:
        """Let go of the database."""
        if self._deliverer is not None:
            self._deliverer.close()

    def _batch(self) -> list[Record]:
        """The next record; of numbers, as many records as one request takes."""
        batch, values = [self._pending[0]], len(self._pending[0].body.get("values", ()))
        if batch[0].kind == "metrics":
            for record in self._pending[1:]:
                values += len(record.body.get("values", ()))
                if record.kind != "metrics" or values > METRICS_PER_BATCH:
                    break
                batch.append(record)
        return batch

    def _connected(self, sent: Sent) -> Deliverer:
        if self._deliverer is None:
            os.environ["MLFLOW_TRACKING_URI"] = self._uri  # MLflow reads it where a runs:/ address is resolved
            self._deliverer = Deliverer(connect(self._uri), self._key, self._artifacts, self._spool, sent)
        return self._deliverer

    def _keep_refused(self, batch: list[Record], reason: str, sent: Sent) -> None:
        """Put refused records aside, so that they neither block the rest nor get lost."""
        with (self._spool.folder / "refused.jsonl").open("a", encoding="utf-8") as stream:
            for record in batch:
                row = {"number": record.number, "kind": record.kind, "reason": reason, "body": record.body}
                stream.write(json.dumps(row) + "\n")
                files = self._spool.files(record.number)
                if files.exists():
                    (self._spool.folder / "refused").mkdir(exist_ok=True)
                    files.rename(self._spool.folder / "refused" / files.name)
        sent.refused += len(batch)


def _sentence(error: Exception) -> str:
    """The first line of an error, short enough for a message."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, OcusegError):
        return text
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _write_to(path: Path | str) -> None:
    """Whatever is printed from here on goes to the end of this file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


class Service:
    """Serves the runs that the parent gives, one after another; between them it holds no file or folder of a run."""

    def __init__(self) -> None:
        self._sender: Sender | None = None

    def orphaned(self) -> None:
        """The parent is gone: see the run that is being served through, and end."""
        if self._sender is None:
            time.sleep(POLL_SECONDS * 5)  # a run that was given in the parent's last moment is still to be served
        if self._sender is not None:
            self._sender.orphaned()
        os._exit(0)

    def serve(self, settings: Mapping[str, Any]) -> None:
        """Deliver one run, until the next line asks to finish."""
        artifacts = None if settings["artifacts"] is None else Path(settings["artifacts"])
        run_dir = Path(settings["run_dir"])
        os.environ.clear()
        os.environ.update(settings["environment"])
        _write_to(run_dir / "tracking" / "sender.log")
        if artifacts is not None:
            # MLflow gives the experiment "Default" a folder below the working directory when it makes a database.
            artifacts.parent.mkdir(parents=True, exist_ok=True)
            os.chdir(artifacts.parent)
        sender = self._sender = Sender(run_dir, settings["uri"], artifacts, settings["key"])

        def listen() -> None:
            sys.stdin.readline()
            sender.finishing.set()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        sender.run()
        sender.close()
        os.chdir(Path(__file__).anchor)
        _write_to(os.devnull)
        self._sender = None


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    service = Service()
    parent = None
    while line := sys.stdin.readline():
        settings = json.loads(line)
        if parent is None:
            parent = settings["parent"]
            when_parent_ends(parent, service.orphaned)
        service.serve(settings)
        answers.write(b".")


if __name__ == "__main__":
    main()
