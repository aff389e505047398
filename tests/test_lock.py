"""A folder for one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.lock import locked
from tests.patience import LONG_S

KILLED_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from pipeline.lock import locked
with locked(Path(sys.argv[1]), RuntimeError("busy")):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_only_one_holds_it_and_then_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            locked(tmp_path / ".lock", ConfigError("busy")),
            pytest.raises(ConfigError, match="busy"),
            locked(tmp_path / ".lock", ConfigError("busy")),
        ):
            pass


def test_who_is_given_no_error_waits_until_it_is_free(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / ".lock", None):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / ".lock", None):
            waiting = pool.submit(second)
            time.sleep(0.2)
            order.append("first")
        waiting.result(timeout=LONG_S)
    assert order == ["first", "second"]


def test_a_child_that_outlives_its_killed_parent_does_not_hold_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_WITH_A_CHILD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1]) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            with pytest.raises(ConfigError), locked(tmp_path / ".lock", ConfigError("busy")):
                pass
            parent.kill()
            parent.wait()
            with locked(tmp_path / ".lock", ConfigError("busy")):
                os.kill(child, 0)  # still there
        finally:
            os.kill(child, signal.SIGKILL)
