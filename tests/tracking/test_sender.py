"""What the sender writes to its log, which stays in the run's folder, and how it ends when its parent has."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.tracking.sender import Sender
from pipeline.tracking.spool import Sent, Spool
from pipeline.tracking.tracker import Delivery, open_tracker
from tests.patience import LONG_S, running, wait_until
from tests.training.recorded import begin, client_beside, only_run, run_config


def test_its_log_holds_a_sentence_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def unreachable(self: Sender, sent: Sent) -> None:
        tried.append(1)
        if len(tried) == 2:
            raise KeyboardInterrupt
        raise ConnectionError("the server does not answer\nand more")

    monkeypatch.setattr(Sender, "_connected", unreachable)
    Spool(tmp_path).append("tags", {"tags": {"a": "b"}})
    carrier = Sender(tmp_path, "http://127.0.0.1:9", None, "key")
    carrier.finishing.set()
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        carrier.run()
    (told,) = caplog.records
    assert told.getMessage() == "not delivered: ConnectionError: the server does not answer"
    assert told.exc_info is None
    assert Sent.load(tmp_path).problem == "ConnectionError: the server does not answer"


SENDER = """
import sys
from pipeline.tracking import sender
def unreachable(self, sent):
    raise ConnectionError("the server does not answer")
sender.Sender._connected = unreachable
sender.ORPHAN_SECONDS = float(sys.argv[1])
sender.main()
"""
PARENT = """
import json, os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdin=subprocess.PIPE)
settings = {"run_dir": sys.argv[3], "uri": "http://127.0.0.1:9", "artifacts": None, "key": "key", "parent": os.getpid()}
settings["environment"] = dict(os.environ)
child.stdin.write((json.dumps(settings) + "\\nfinish\\n").encode())
child.stdin.flush()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("deleted", [False, True])
def test_an_orphan_that_was_asked_to_finish_ends_and_makes_no_deleted_folder_again(tmp_path: Path, deleted: bool) -> None:
    run_dir = tmp_path / "run"
    Spool(run_dir).append("tags", {"tags": {"a": "b"}})
    (run_dir / "tracking").mkdir()
    command = [sys.executable, "-c", PARENT, SENDER, "600" if deleted else "1", str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            wait_until((run_dir / "tracking" / "sent.json").exists, lambda: "the sender has not begun")
            if deleted:
                shutil.rmtree(run_dir)
            assert child.is_running()
            parent.kill()
            try:
                wait_until(lambda: not running(child.pid), lambda: "the sender does not end")
            finally:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            assert run_dir.exists() != deleted
            assert deleted or json.loads((run_dir / "tracking" / "sent.json").read_text())["sent"] == 0
        finally:
            parent.kill()


def served(run_dir: Path, tag: str) -> tuple[int | None, Delivery]:
    """Which process has delivered a run of one record, and how far that came."""
    with open_tracker(run_config(), run_dir) as tracker:
        begin(tracker)
        tracker.tags({"a": tag})
        number = tracker._sender.pid
        delivery = tracker.finish("FINISHED")
    return number, delivery


def test_one_process_serves_one_run_after_another_each_in_its_own_place(tmp_path: Path) -> None:
    first, delivery = served(tmp_path / "one" / "run", "1")
    assert first is not None
    assert (delivery.unsent, delivery.message) == (0, None)
    child = psutil.Process(first)
    assert not [file.path for file in child.open_files() if str(tmp_path) in file.path]
    assert not Path(child.cwd()).is_relative_to(tmp_path)
    shutil.rmtree(tmp_path / "one")
    for folder in ("one", "two"):  # and in a folder that was taken away
        again, delivery = served(tmp_path / folder / "run", folder)
        assert again == first
        assert (delivery.unsent, delivery.message) == (0, None)
        assert (tmp_path / folder / "run" / "tracking" / "sender.log").read_text() == ""
        assert only_run(client_beside(tmp_path / folder / "run")).data.tags["a"] == folder
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [".mlflow.db.lock", "mlartifacts", "mlflow.db", "run"]
    child.kill()
    child.wait(LONG_S)
    number, delivery = served(tmp_path / "three" / "run", "3")
    assert number != first
    assert delivery.unsent == 0


@pytest.mark.parametrize("killed", [False, True])
def test_one_that_waits_for_a_run_ends_with_its_parent(tmp_path: Path, killed: bool) -> None:
    program = """
import os, sys, time
from pathlib import Path
from tests.tracking.test_sender import served

number, _ = served(Path(sys.argv[1]), "a")
other = os.fork() or time.sleep(600)  # as a loader's process does, it keeps the pipe open
print(number, other, flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "run")]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as parent:
        family = []
        try:
            assert parent.stdin is not None
            assert parent.stdout is not None
            family = [psutil.Process(int(number)) for number in parent.stdout.readline().split()]
            child = family[0]
            assert child.is_running()
            if killed:
                parent.kill()
            else:
                parent.stdin.close()
            wait_until(lambda: not running(child.pid), lambda: "the sender does not end")
        finally:
            parent.kill()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
