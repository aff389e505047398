"""The tracking server goes away, comes back, hangs: training does not notice, and MLflow gets everything, once."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.mlflow_store import connect
from pipeline.tracking.spool import Sent, Spool
from pipeline.tracking.tracker import Tracker, open_tracker, send_unsent
from tests.patience import LONG_S, running, wait_until
from tests.training.recorded import Server, begin, client_beside, only_run, run_config


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    server.down()


def train(tracker: Tracker, steps: range) -> None:
    """What training does; no call may speak with a server, or it could wait for one."""

    def connect(*_: object) -> None:
        raise AssertionError("training's own process speaks with a server")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        for step in steps:
            tracker.epoch(step, {"train/loss": 1 / (step + 1), "validation/dice": step / 100})


def wait_for(run_dir: Path, count: int) -> None:
    wait_until(lambda: Sent.load(run_dir).sent >= count, lambda: Sent.load(run_dir))


@pytest.mark.slow
def test_server_that_is_not_there_yet_and_dies_gets_every_record_once(server: Server, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "run"
    tracker = open_tracker(run_config(server.uri), run_dir)
    begin(tracker)
    train(tracker, range(0, 20))
    wait_until(lambda: Sent.load(run_dir).problem is not None)
    server.up()
    train(tracker, range(20, 30))
    wait_for(run_dir, 31)
    server.down()
    train(tracker, range(30, 40))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights.safetensors").write_bytes(b"weights")
    tracker.bundle(bundle, {"validation/dice": 0.4})
    begun = time.monotonic()
    delivery = tracker.finish("FINISHED", wait_seconds=1)
    assert time.monotonic() - begun < LONG_S  # one request may be under way
    assert delivery.unsent == 10 + 3 + 1
    assert delivery.message is not None
    assert f"ocuseg train --send {run_dir}" in delivery.message
    (bundle / "weights.safetensors").unlink()  # what is unsent does not depend on where it came from
    server.up()
    later = send_unsent(run_dir)
    assert (later.unsent, later.message) == (0, None)
    assert later.model_version == "little version 1 (newest)"
    assert not (run_dir / "unsent").exists()

    client = connect(server.uri)
    run = only_run(client)
    history = client.get_metric_history(run.info.run_id, "validation/dice")
    assert [(m.step, m.value) for m in history] == [(step, step / 100) for step in range(40)]
    assert run.info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run.info.run_id, "bundle")] == ["bundle/weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run"]


def test_server_that_never_answers_is_left_behind(tmp_path: Path) -> None:
    with socket.socket() as silent:  # takes connections, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        run_dir = tmp_path / "run"
        tracker = open_tracker(run_config(f"http://127.0.0.1:{silent.getsockname()[1]}"), run_dir)
        begin(tracker)
        train(tracker, range(3))
        begun = time.monotonic()
        delivery = tracker.finish("FAILED", wait_seconds=0.5)
        assert time.monotonic() - begun < LONG_S
        resumed = open_tracker(run_config(), run_dir, resume=True)  # where to is remembered
        begin(resumed)
        assert resumed.finish("FAILED", wait_seconds=0.5).unsent == 7
    assert tracker.run_id is None
    assert delivery.unsent == 5
    assert not (tmp_path / "mlflow.db").exists()
    assert [record.kind for record in Spool(run_dir).read()][:5] == ["start", "metrics", "metrics", "metrics", "end"]


def test_records_of_a_killed_training_still_go_out(tmp_path: Path) -> None:
    """``kill -9`` of the training process: its sender delivers what is on disk and leaves by itself."""
    run_dir = tmp_path / "run"
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from pipeline.tracking.tracker import open_tracker
        from tests.training.recorded import begin, run_config

        tracker = open_tracker(run_config(), Path(sys.argv[1]))
        begin(tracker)
        for step in range(5):
            tracker.epoch(step, {"loss": float(step)})
        print("recorded", tracker._sender.pid, flush=True)
        time.sleep(600)
        """
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", program, str(run_dir)], stdout=subprocess.PIPE, text=True, cwd=root) as training:
        assert training.stdout is not None
        try:
            word, sender = training.stdout.readline().split()
            assert word == "recorded"
        finally:
            training.kill()
    wait_for(run_dir, 6)
    run = only_run(client_beside(run_dir))
    assert [m.value for m in client_beside(run_dir).get_metric_history(run.info.run_id, "loss")] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert run.info.status == "RUNNING"  # until it is resumed: nobody has said how it ended
    wait_until(lambda: not running(int(sender)))
