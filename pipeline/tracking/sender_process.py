"""The training side of the sender: starts the child process of :mod:`pipeline.tracking.sender` and asks it to finish."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from pipeline.tracking.spool import Sent

PATIENCE = 10.0  # how many times longer finish() waits for a server that does answer
log = logging.getLogger(__name__)


class SenderProcess:
    """The child process that delivers; see :mod:`pipeline.tracking.sender`."""

    def __init__(self, run_dir: Path, uri: str, artifacts: Path | None, key: str) -> None:
        self._run_dir = run_dir.resolve()
        settings = {"run_dir": str(self._run_dir), "uri": uri, "artifacts": artifacts and str(artifacts), "key": key}
        self._settings = {**settings, "parent": os.getpid()}
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def ensure(self) -> None:
        """Start it; or again, at most twice a minute, when it has died."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._started and time.monotonic() - self._started < 30:
            return
        self._started = time.monotonic()
        self._close()
        package_root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))}
        environment.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # it takes no part in a distributed run
            environment.pop(name, None)
        command = [sys.executable, "-W", "ignore", "-m", "pipeline.tracking.sender"]
        try:
            (self._run_dir / "tracking").mkdir(parents=True, exist_ok=True)
            with (self._run_dir / "tracking" / "sender.log").open("wb") as output:
                # A session of its own: Ctrl-C is meant for training, which then asks the sender to finish.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True
                )
            self._say(json.dumps(self._settings))
        except OSError as error:
            log.warning("the records of this run stay on disk: their sender cannot be started (%s)", error.__class__.__name__)

    def _say(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError, ValueError):
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()

    def _close(self) -> None:
        if self._process is not None:
            if self._process.stdin is not None:
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
            self._process.wait()
            self._process = None

    def finish(self, wait_seconds: float) -> None:
        """Let it deliver what is there: ``wait_seconds`` while the server does not answer, ten times that while it does."""
        self.ensure()
        self._say("finish")
        begun = time.monotonic()
        while self._process is not None and self._process.poll() is None:
            waited = time.monotonic() - begun
            away = Sent.load(self._run_dir).problem is not None
            if waited > wait_seconds * (1 if away else PATIENCE):
                self._process.kill()  # harmless: every record is on disk until its arrival is noted
                break
            time.sleep(0.05)
        self._close()
