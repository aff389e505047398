"""Children end with their parent, whatever they are at when it is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline import parent as lifeline
from tests.patience import running, wait_until

BUSY_WORKER = """
import sys, threading, zlib
from pipeline.scans import worker
data = bytes(1 << 26)
def open_file(path, *rest):
    print(path.name, file=sys.stderr, flush=True)
    while True:
        zlib.crc32(data), sorted(range(1 << 22))  # the second one holds the interpreter's lock
worker.open_file = open_file
worker.main()
"""
PARENT = """
import os, subprocess, sys
from pathlib import Path
from pipeline.memory import Limits
from pipeline.scans import workers
from pipeline.scans.identity import Pseudonyms
workers._COMMAND = [sys.executable, "-c", sys.argv[1]]
started = subprocess.Popen
def noted(*arguments, **options):
    child = started(*arguments, **options | {"stderr": None})
    print(child.pid, flush=True)
    return child
subprocess.Popen = noted
workers.Pool(Path(sys.argv[2]), Pseudonyms(b"key of a test"), Limits.chosen()).scan(Path(sys.argv[2]) / "slow.png")
"""


@pytest.mark.parametrize("kernel", [True, False])
def test_a_worker_that_is_decoding_does_not_outlive_a_killed_parent(tmp_path: Path, kernel: bool) -> None:
    worker = BUSY_WORKER if kernel else "import sys\nfrom pipeline import parent\nparent._by_kernel = lambda: None\n" + BUSY_WORKER
    command = [sys.executable, "-c", PARENT, worker, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stderr is not None
            child = psutil.Process(int(parent.stdout.readline()))
            try:
                assert parent.stderr.readline() == b"slow.png\n"
                parent.kill()
                wait_until(lambda: not running(child.pid), lambda: "the worker outlives its parent")
            finally:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        finally:
            parent.kill()


def test_a_parent_that_is_gone_already_is_noticed() -> None:
    told: list[bool] = []
    lifeline.when_parent_ends(2**22 + 1, lambda: told.append(True))
    end = time.monotonic() + 60
    while not told:
        assert time.monotonic() < end
        time.sleep(0.01)
