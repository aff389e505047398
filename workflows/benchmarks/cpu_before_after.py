"""This checkout beside an earlier one, on the CPU, in one run: training steps and prediction.

    .venv/bin/python workflows/benchmarks/cpu_before_after.py --before ../before [--photographs 100] [chase_vessels_little ...]

Each checkout has a process of its own that trains by the run file of its own and then predicts with the bundle that it made. The two
take turns, a few steps or a folder at a time, while the other one waits: what else happens on the machine meets both alike. Told are
the medians of the turns, and of the ratios of neighbours. CPU seconds are told beside, because other programs touch them less: of
training those of the process itself, for a child of it sends the record to MLflow meanwhile, of prediction those of its children too.
Only what both checkouts have is called: `train` and `predict_folder` with their progress.

A step is all that happens between two steps: loading, the network, the optimiser, the checkpoint at an epoch's end. Prediction goes from
files to written cases, without the start of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from photographs import CHASE, write_photographs

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = ("chase_vessels_little", "chase_vessels_wnet")
Turn = dict[str, float]  # work done ("units"), wall and CPU seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=RUNS, help="run files trained by; the first one's bundle predicts")
    parser.add_argument("--before", type=Path, help="the earlier checkout", required="--child" not in sys.argv)
    parser.add_argument("--after", type=Path, default=REPOSITORY)
    parser.add_argument("--root", type=Path, default=CHASE)
    parser.add_argument("--epochs", type=int, default=3, help="trained by each, of 18 steps")
    parser.add_argument("--steps", type=int, default=6, help="in a turn")
    parser.add_argument("--photographs", type=int, default=100, help="predicted in a turn; 0 for none")
    parser.add_argument("--turns", type=int, default=3, help="of prediction; one of five photographs goes before")
    parser.add_argument("--set", action="append", default=[], help="dotted.key=value for both, such as train.precision=float32")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{cores} cores, load average {load:.1f}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}")
    print(f"{'':44} {'before':>8} {'after':>8} {'ratio':>6}   CPU {'before':>8} {'after':>8} {'ratio':>6}")
    for number, run in enumerate(options.runs):
        measure(run, options, options.photographs if number == 0 else 0)


def measure(run: str, options: Any, photographs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = write_photographs(folder / "scans", photographs, options.root)
        warm_up = write_photographs(folder / "warm_up", 5, options.root)
        shared = {
            "run": run,
            "root": str(options.root.resolve()),
            "set": [f"train.epochs={options.epochs}", "train.validate_every=100000", "train.minutes=null", *options.set],
            "steps": options.steps,
            "scans": [str(warm_up), *[str(scans)] * options.turns] if photographs else [],
        }
        with contextlib.ExitStack() as stack:
            sides = [
                stack.enter_context(side({**shared, "out": str(folder / label), "checkout": str(path.resolve())}))
                for label, path in (("before", options.before), ("after", options.after))
            ]
            turns: dict[str, list[tuple[Turn, Turn]]] = {}
            while (pair := take_turns(sides))[0]:
                turns.setdefault(pair[0].pop("what"), []).append(pair)
            for what, pairs in turns.items():
                report(f"{run}: {what}", pairs[1:])  # the first turn is a warm-up


@contextlib.contextmanager
def side(task: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": task["checkout"], "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1"}
    # In its folder: `python -m`, by which prediction starts its readers, takes a package from where it is called first of all.
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(task)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=task["checkout"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def take_turns(sides: list[subprocess.Popen[str]]) -> tuple[dict[str, Any], ...]:
    """One turn of each, one after the other; empty when there is nothing left to do."""
    found = []
    for process in sides:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended
            process.stdin.write("\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line and process.wait():
            sys.exit(f"{process.args[-1]} ended with exit code {process.returncode}")
        found.append(json.loads(line) if line else {})
    return tuple(found)


def report(what: str, pairs: list[tuple[Turn, Turn]]) -> None:
    cells = []
    for key in ("wall", "cpu"):
        before, after = ([turn[key] / turn["units"] for turn in turns] for turns in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in zip(before, after, strict=True))
        cells.append(f"{statistics.median(before):8.3f} {statistics.median(after):8.3f} {ratio:5.2f}x")
    print(f"{what:44} {cells[0]}       {cells[1]}", flush=True)


def child(task: dict[str, Any]) -> None:
    """One side: trains, then predicts, and stops after each turn until it is told to go on."""
    import logging

    import pipeline
    from pipeline.config import load_config
    from pipeline.inference.folder import predict_folder
    from pipeline.training.run import train

    assert Path(pipeline.__file__).is_relative_to(task["checkout"]), pipeline.__file__
    logging.disable(logging.WARNING)
    clock, out = Clock(), Path(task["out"])
    wait_for_turn()

    def advance(done: int, total: int | None = None, note: str = "") -> None:
        if note.startswith("epoch"):
            clock.at(done, task["steps"], "s / step")

    result = train(load_config(Path(task["run"]), task["set"]), Path(task["root"]), out / "run", device="cpu", progress=advance)
    for number, scans in enumerate(task["scans"]):
        clock.begin()
        counts = predict_folder(result.bundle, Path(scans), out / f"predicted{number}", device="cpu")
        assert counts["done"] == len(list(Path(scans).rglob("*.jpg"))), counts
        clock.end(counts["done"], "s / photograph predicted", children=True)


class Clock:
    """Tells the other process what each turn took, and waits for the next one."""

    def __init__(self) -> None:
        self.first: int | None = None

    def at(self, done: int, length: int, what: str) -> None:
        """``done`` steps are behind; the first of all only starts the clock."""
        if self.first is None:
            self.first = done
            self.begin()
        elif done - self.first >= length:
            self.end(done - self.first, what)
            self.first = done
            self.begin()

    def begin(self) -> None:
        self.began = (time.perf_counter(), time.process_time(), cpu_seconds_of_all())

    def end(self, units: int, what: str, *, children: bool = False) -> None:
        wall, own, together = time.perf_counter(), time.process_time(), cpu_seconds_of_all()
        wall, cpu = wall - self.began[0], together - self.began[2] if children else own - self.began[1]
        print(json.dumps({"what": what, "units": units, "wall": wall, "cpu": cpu}), flush=True)
        wait_for_turn()


def wait_for_turn() -> None:
    """Return when the other process says so; end with it."""
    if not sys.stdin.readline():
        sys.exit(1)


def cpu_seconds_of_all() -> float:
    """CPU seconds of this process and all its children, those that have ended included."""
    import psutil

    process = psutil.Process()
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for one in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
