"""Processes that decode files: one that was begun ahead is the first that a pool uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline.cli.folder_options import FolderOptions
from pipeline.memory import Limits
from pipeline.scans import workers
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.raster import write_png
from pipeline.scans.workers import Pool, begin_one
from tests.scans.make import ramp

KEY = Pseudonyms(b"the key of this site")


def test_a_process_begun_ahead_is_used_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_ahead", ahead := [])
    write_png(tmp_path / "a.png", ramp(5, 7))
    begin_one()
    begin_one()
    (begun,) = ahead
    with Pool(tmp_path, KEY, Limits.chosen()) as pool:
        assert [pool.scan(tmp_path / "a.png").scan is not None for _ in range(2)] == [True, True]
        assert not ahead
        assert begun.poll() is None
    assert begun.poll() is not None
    with Pool(tmp_path, KEY, Limits.chosen()) as pool:
        assert pool.scan(tmp_path / "a.png").scan is not None


def test_a_process_that_no_pool_has_used_ends_with_its_parent() -> None:
    say = "from pipeline.scans import workers; workers.begin_one(); print(workers._ahead[0].pid)"
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2], check=True)
    assert not psutil.pid_exists(int(done.stdout))


@pytest.mark.parametrize(("device", "cluster", "begun"), [("auto", None, 1), ("cpu,cpu", None, 0), ("cpu", "local:2", 0)])
def test_none_is_begun_where_other_processes_read(monkeypatch: pytest.MonkeyPatch, device: str, cluster: str | None, begun: int) -> None:
    calls = list[int]()
    monkeypatch.setattr(workers, "begin_one", lambda: calls.append(1))
    options: Any = SimpleNamespace(device=device, cluster=SimpleNamespace(cluster=cluster))
    FolderOptions.begin(options)
    assert len(calls) == begun
