"""Assessing in processes changes nothing, survives the loss of one, and leaves none behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.inference import assessors, writing
from pipeline.inference.assessors import Assessors, useful_processes
from pipeline.inference.case_files import CaseResult
from pipeline.inference.folder import predict_folder
from pipeline.scans.identity import Pseudonyms
from tests.inference.conftest import write_folder
from tests.inference.test_assess import boxed
from tests.patience import running, wait_until

__all__ = ["boxed"]
KEY = Pseudonyms(b"a site key for tests")


def predicted(tmp_path: Path, out: str) -> dict[str, Any]:
    """``case.json`` of each case, but for its time."""
    found = predict_folder(tmp_path / "bundle", tmp_path / "scans", tmp_path / out, device="cpu", pseudonyms=KEY, workers=2)
    assert found["done"] == 5
    cases = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / out / "cases").glob("*/case.json")}
    return {name: {key: value for key, value in case.items() if key != "seconds"} for name, case in cases.items()}


@pytest.mark.parametrize(("writers", "cores", "processes"), [(8, 8, 7), (16, 4, 15), (4, 3, 0), (1, 64, 0)])
def test_processes_where_there_are_cores_for_them(writers: int, cores: int, processes: int) -> None:
    assert useful_processes(writers, cores) == processes


def test_cases_assessed_in_processes_are_the_same_and_none_is_left(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "scans", 5)
    here = predicted(tmp_path, "here")

    def busy(processes: int) -> Assessors:
        assert processes == 2
        made = Assessors(processes)
        made._here.acquire()
        return made

    monkeypatch.setattr(assessors, "assess", lambda result: pytest.fail("not in a process"))
    monkeypatch.setattr(writing, "Assessors", busy)
    monkeypatch.setattr(writing, "useful_processes", lambda writers, cores: 2)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert predicted(tmp_path, "there") == here
    wait_until(lambda: not [c for c in psutil.Process().children(recursive=True) if c.pid not in before and is_assessor(c.pid)])
    assert all("quality" in case for case in here.values())


def test_a_single_photograph_starts_none(boxed: CaseResult) -> None:
    assess = Assessors(2)
    try:
        assert assess(boxed).assessment.quality is not None
        assert assess._pool is None
    finally:
        assess.close()


def test_a_lost_process_costs_a_warning(boxed: CaseResult, caplog: pytest.LogCaptureFixture) -> None:
    assess = Assessors(1)
    try:
        whole = assess(boxed)
        with assess._here:
            assert assess(boxed).assessment.fields() == whole.assessment.fields()
            assert assess._pool is not None
            (number,) = assess._pool._processes
            os.kill(number, signal.SIGKILL)
            wait_until(lambda: not running(number))
            assert assess(boxed).assessment.fields() == whole.assessment.fields()
            assert "was lost" in caplog.text
            assert assess._processes == 0
            assert assess(boxed).assessment.fields() == whole.assessment.fields()
    finally:
        assess.close()


def is_assessor(number: int) -> bool:
    """Of the processes that ``spawn`` starts; its resource tracker stays for the next."""
    try:
        return any("spawn_main" in part for part in psutil.Process(number).cmdline())
    except psutil.NoSuchProcess:
        return False
