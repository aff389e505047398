"""kill -9, really: a prediction that dies at any step and is started again ends exactly like one that never died. And SIGTERM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pipeline.bundles.bundle import build_task, save_bundle
from pipeline.config import parse_config
from pipeline.inference.folder import predict_folder
from pipeline.scans.identity import Pseudonyms
from tests.inference.conftest import VESSEL, write_folder
from tests.patience import LONG_S

ROOT = Path(__file__).resolve().parents[2]
TABLES = 1 + (find_spec("pyarrow") is not None)
"""Of measurements: CSV and, where it can be written, Parquet."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def tiny_bundle(path: Path) -> Path:
    config = parse_config(
        "{name: tiny, data: {card: phantom}, task: {name: semantic}, model: {name: unet, widths: [4, 8], residual_units: 1}}"
    )
    torch.manual_seed(0)
    save_bundle(
        path,
        task=build_task(config, 3, VESSEL),
        config=config,
        label_map=VESSEL,
        card_sha256="c" * 64,
        metrics={},
        thresholds={"vessel": 0.5},
        input_channels=3,
        modality="fundus",
    )
    return path


def test_killed_at_any_step_alone_or_among_others_it_ends_as_one_that_never_died(tmp_path: Path) -> None:
    """Of three workers two are as on another machine, where only the time without a beat tells that one is dead; equal files lie in many
    folders, and one file is broken. Everything is compared by its bytes."""
    tiny_bundle(tmp_path / "bundle")
    for name, patients in (("few", 1), ("many", 24)):
        paths = write_folder(tmp_path / name, patients)
        for path in paths[::8]:
            shutil.copy(path, paths[-1].with_name(f"{path.parts[-3]}_copy_OD.png"))
        paths[0].with_name("broken.png").write_bytes(paths[0].read_bytes()[:100])
    arguments = [str(tmp_path / name) for name in ("bundle", "few", "many", "")]
    command = [sys.executable, "-m", "tests.inference.crash_driver", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    # A case of six files and two folders, entries, ledger, visits, measurements, journal: a death before every fifth of these.
    assert answer["moments"] >= 5
    assert answer["files_moments"] == 6 + 3 + TABLES
    assert answer["crew"] == 2
    assert answer["files_crew"] == 24 * 6 + 3 + TABLES


STOPPED = """
import sys, time
from pipeline.cli import app
from pipeline.inference.batching import Batching
real, begun = Batching._results, []
def infer(*arguments):
    begun.append(0)
    if len(begun) == 3:
        print("at the third", flush=True)
        # In pieces: a signal that comes just before a sleep is looked at only after it.
        for _ in range(6000):
            time.sleep(0.1)
    return real(*arguments)
Batching._results = infer
app(sys.argv[1:])
"""


def test_stopped_by_sigterm_it_says_so_in_one_line_and_goes_on_later(tmp_path: Path) -> None:
    bundle, scans, out = tiny_bundle(tmp_path / "bundle"), tmp_path / "scans", tmp_path / "out"
    write_folder(scans, 4)
    arguments = ["predict", str(bundle), str(scans), "--out", str(out), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OCUSEG_SITE_KEY": str(tmp_path / "site.key")}
    command = [sys.executable, "-c", STOPPED, *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "at the third\n"
            process.send_signal(signal.SIGTERM)
            said, complaint = process.communicate(timeout=LONG_S)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, ""), complaint
    told = [line for line in complaint.splitlines() if not line.startswith(("INFO: ", "predicting: "))]
    assert told == ["interrupted: what was finished is saved; run the same command again to continue"]
    finished = {path: path.stat().st_mtime_ns for path in out.glob("cases/*/case.json")}
    assert len(finished) == 2
    assert not (out / ".staging").exists()

    counts = predict_folder(bundle, scans, out, device="cpu", pseudonyms=Pseudonyms.load_or_create(tmp_path / "site.key"))
    assert counts["done"] == 4
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert (out / "ledger.csv").read_text().count(",done,") == 4
