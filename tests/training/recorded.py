"""What the tracking tests share: a small run config, what a run says at its start, and a local MLflow server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, parse_config
from pipeline.tracking.mlflow_store import connect, release
from pipeline.tracking.tracker import Tracker
from tests.patience import LONG_S

CARD = "---\nname: phantom\n---\nDrawn eyes.\n"


def run_config(uri: str | None = None, name: str = "little", **tracking: Any) -> RunConfig:
    config = parse_config(f"name: {name}\ndescription: a test\ndata: {{card: phantom}}\ntask: {{name: semantic}}\nmodel: {{name: unet}}\n")
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri, **tracking})})


def begin(tracker: Tracker, **extra: Any) -> None:
    tracker.start(
        card_name="phantom",
        card_text=CARD,
        split={"train": ["p1_R_v1_i1"], "validation": ["p2_L_v1_i1"], "test": []},
        manifest=[{"case": "p1_R_v1_i1", "sha256": "1" * 64}, {"case": "p2_L_v1_i1", "sha256": "2" * 64}],
        environment={"code": {"version": "0.1.0", "commit": "a" * 40, "dirty": True}, "device": {"type": "cpu"}},
        extra=extra,
    )


def client_beside(run_dir: Path) -> Any:
    return connect(f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}")


def only_run(client: Any) -> Any:
    (run,) = client.search_runs([client.get_experiment_by_name("ocuseg").experiment_id])
    return run


class Server:
    """A real ``mlflow server`` on 127.0.0.1 that can be taken down and brought back on the same port and database."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        # Its tables, which take the server three seconds, and this process none when it has made some before.
        release(connect(f"sqlite:///{folder / 'server.db'}"))

    def up(self) -> None:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += [
            "--backend-store-uri",
            f"sqlite:///{self.folder / 'server.db'}",
            "--artifacts-destination",
            str(self.folder / "artifacts"),
        ]
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + LONG_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=10):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def down(self) -> None:
        """Kill the server and its worker, and nothing else."""
        if self._process is not None:
            import psutil

            family = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
            for process in family:
                with suppress(psutil.NoSuchProcess):  # a worker may end by itself in between
                    process.kill()
            psutil.wait_procs(family, timeout=LONG_S)
            self._process.wait()
            self._process = None
