"""The training side of the sender: starts the child process of :mod:`pipeline.tracking.sender` and asks it to finish."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from pipeline.tracking.spool import Sent

PATIENCE = 10.0  # how many times longer finish() waits for a server that does answer
log = logging.getLogger(__name__)


def _start(answers: IO[bytes], output: BinaryIO) -> subprocess.Popen[bytes]:
    package_root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-W", "ignore", "-m", "pipeline.tracking.sender"]
    # A session of its own: Ctrl-C is meant for training, which then asks the sender to finish.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answers, stderr=output, env=_alone(environment), start_new_session=True)


class _Child:
    """A sender's process, which serves one run after another: importing MLflow anew for each would take two seconds of a processor."""

    def __init__(self, output: BinaryIO) -> None:
        self.parent = os.getpid()
        # A file without a name, because nobody can look into a pipe without waiting on every system.
        self._answers = tempfile.TemporaryFile()  # noqa: SIM115
        self._served = 0
        self._process = _start(self._answers, output)

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def done(self) -> bool:
        """Whether it has answered that it is through with the run that it was given last."""
        return os.fstat(self._answers.fileno()).st_size > self._served

    def say(self, line: str) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError, ValueError):
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()

    def release(self) -> None:
        """Keep it for the next run where it has served this one, else end it."""
        if self.alive() and self.done() and not _idle:
            self._served = os.fstat(self._answers.fileno()).st_size
            _idle.append(self)
        else:
            self.close()

    def close(self) -> None:
        """End it at once, which is harmless: every record is on disk until its arrival is noted."""
        self._process.kill()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()
        self._answers.close()


_idle: list[_Child] = []
"""At most one that waits for its next run."""


def _taken() -> _Child | None:
    """The one that waits, if it still does; never that of the process which this one was forked from."""
    if not _idle or _idle[0].parent != os.getpid():
        return None
    child = _idle.pop()
    if child.alive():
        return child
    child.close()
    return None


def _dismiss() -> None:
    child = _taken()
    if child is not None:
        child.close()


atexit.register(_dismiss)


def _alone(environment: dict[str, str]) -> dict[str, str]:
    """Of a sender: it takes no part in a distributed run, and one thread of a library is enough."""
    alone = {name: value for name, value in environment.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return {**alone, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}


class SenderProcess:
    """The child process that delivers one run; see :mod:`pipeline.tracking.sender`."""

    def __init__(self, run_dir: Path, uri: str, artifacts: Path | None, key: str) -> None:
        self._run_dir = run_dir.resolve()
        settings = {"run_dir": str(self._run_dir), "uri": uri, "artifacts": artifacts and str(artifacts), "key": key}
        self._settings = {**settings, "parent": os.getpid()}
        self._child: _Child | None = None
        self._started = 0.0

    @property
    def pid(self) -> int | None:
        """Of the process that serves this run just now."""
        return None if self._child is None else self._child.pid

    def ensure(self) -> None:
        """Give the run to a process; again, at most twice a minute, when that has died."""
        if self._child is not None and self._child.alive():
            return
        if self._started and time.monotonic() - self._started < 30:
            return
        if self._child is not None:
            self._child.close()
        self._child = None
        try:
            (self._run_dir / "tracking").mkdir(parents=True, exist_ok=True)
            with (self._run_dir / "tracking" / "sender.log").open("wb") as output:
                self._child = _taken()
                if self._child is None:
                    self._started = time.monotonic()
                    self._child = _Child(output)
            self._child.say(json.dumps({**self._settings, "environment": _alone(dict(os.environ))}))
        except OSError as error:
            log.warning("the records of this run stay on disk: their sender cannot be started (%s)", error.__class__.__name__)

    def finish(self, wait_seconds: float) -> None:
        """Let it deliver what is there: ``wait_seconds`` while the server does not answer, ten times that while it does."""
        self.ensure()
        child, self._child = self._child, None
        if child is None:
            return
        child.say("finish")
        begun = time.monotonic()
        while child.alive() and not child.done():
            waited = time.monotonic() - begun
            away = Sent.load(self._run_dir).problem is not None
            if waited > wait_seconds * (1 if away else PATIENCE):
                child.close()
                return
            time.sleep(0.05)
        child.release()
