"""What the sender writes to its log, which stays in the run's folder, and how it ends when its parent has."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.tracking.sender import Sender
from pipeline.tracking.spool import Sent, Spool


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
child.stdin.write((json.dumps(settings) + "\\nfinish\\n").encode())
child.stdin.flush()
print(child.pid, flush=True)
time.sleep(600)
"""


def until(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.mark.parametrize("deleted", [False, True])
def test_an_orphan_that_was_asked_to_finish_ends_and_makes_no_deleted_folder_again(tmp_path: Path, deleted: bool) -> None:
    run_dir = tmp_path / "run"
    Spool(run_dir).append("tags", {"tags": {"a": "b"}})
    command = [sys.executable, "-c", PARENT, SENDER, "600" if deleted else "1", str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            until((run_dir / "tracking" / "sent.json").exists, "the sender has begun")
            if deleted:
                shutil.rmtree(run_dir)
            assert child.is_running()
            parent.kill()
            try:
                until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the sender ends")
            finally:
                if child.is_running():
                    child.kill()
            assert run_dir.exists() != deleted
            assert deleted or json.loads((run_dir / "tracking" / "sent.json").read_text())["sent"] == 0
        finally:
            parent.kill()
