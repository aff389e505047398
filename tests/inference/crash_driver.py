"""Run by test_killed.py in a process of its own: predicts a folder in child processes that die by SIGKILL at chosen moments.

usage: python -m tests.inference.crash_driver BUNDLE SCANS WORK [moments | clock]

Imports and the reference run come first, then each child is a fork, so that a hundred deaths cost seconds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel  # noqa: F401
import torch

from pipeline.bundles.bundle import load_bundle
from pipeline.inference import folder, journal
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import open_file

KEY = Pseudonyms(b"a site key for tests")
WHOLE = {"case.json", "image_000.png", "mask_000.png", "mask.nii.gz", "probabilities.npz", "uncertainty_000.png"}


def state(out: Path) -> dict[str, str]:
    """Every file of OUT with its hash, less what no two runs share: times, and the database's inner layout."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or name in ("journal.sqlite", ".lock"):
            continue
        content = path.read_bytes()
        if path.name in ("case.json", "run.json"):
            record = json.loads(content)
            record.pop("seconds", None)
            record.pop("started", None)
            content = json.dumps(record).encode()
        elif path.name == "ledger.csv":
            content = b"\n".join(line.rsplit(b",", 1)[0] for line in content.splitlines())
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def predict(bundle: Path, scans: Path, out: Path) -> dict[str, int]:
    return folder.predict_folder(bundle, scans, out, device="cpu", probabilities=True, workers=2, pseudonyms=KEY)


class InThisProcess:
    """Stands in for the processes that decode."""

    def __init__(self, root: Path, pseudonyms: Pseudonyms, limits: object) -> None:
        self.scan = lambda path, admit=None: open_file(path, root, pseudonyms)

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def in_child(work: Callable[[], None]) -> int:
    """Pid of a forked child that does ``work`` and leaves without the parent's clean-up."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:  # the parent only sees the status
        import traceback

        traceback.print_exc()
        os._exit(1)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(moment: int) -> None:
    """Arm this process: it kills itself right before the ``moment``-th step that would change something on the disk."""
    steps = itertools.count()

    def armed(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if next(steps) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return step

    # Every file and folder of a case reaches its name by one of the first three; the others are the journal and the ledger.
    for holder, names in ((os, ("replace", "rename", "mkdir")), (shutil, ("rmtree",)), (journal.Journal, ("record", "export"))):
        for name in names:
            setattr(holder, name, armed(getattr(holder, name)))


def check(wanted: dict[str, str], out: Path, what: str) -> None:
    found = state(out)
    if found != wanted:
        different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise SystemExit(f"{what}: OUT differs from an uninterrupted run in {different[:8]}")


def finish(bundle: Path, scans: Path, out: Path, what: str) -> None:
    if status_of(in_child(lambda: predict(bundle, scans, out) and None)) != 0:
        raise SystemExit(f"{what}: the second start failed")


def all_moments(bundle: Path, scans: Path, work: Path, wanted: dict[str, str]) -> int:
    """One death at every step of the run, in turn, each followed by one start that must finish the work."""
    for moment in itertools.count():
        out = work / f"moment{moment}"

        def killed(moment: int = moment, out: Path = out) -> None:
            die_at(moment)
            predict(bundle, scans, out)

        if status_of(in_child(killed)) != -signal.SIGKILL:
            check(wanted, out, f"moment {moment} (never reached)")
            return moment
        for case in (out / "cases").glob("*"):
            if {p.name for p in case.iterdir()} != WHOLE:
                raise SystemExit(f"moment {moment}: case folder {case.name} is incomplete")
        finish(bundle, scans, out, f"moment {moment}")
        check(wanted, out, f"moment {moment}")
    raise AssertionError


def by_the_clock(bundle: Path, scans: Path, work: Path, wanted: dict[str, str]) -> int:
    """Deaths at random times, from outside, again and again on one OUT, until it is finished."""
    generator, out, deaths = random.Random(7), work / "clock", 0
    while deaths < 8:
        pid = in_child(lambda: predict(bundle, scans, out) and None)
        time.sleep(generator.uniform(0.0, 0.25))
        os.kill(pid, signal.SIGKILL)
        if status_of(pid) != -signal.SIGKILL:
            break
        deaths += 1
    finish(bundle, scans, out, "clock")
    check(wanted, out, "clock")
    return deaths


def main() -> None:
    bundle, scans, work, how = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    folder.Pool = InThisProcess  # starting processes that decode would cost a second a death
    # Imports take seconds; once here, not in every child.
    load_bundle(bundle).task  # noqa: B018
    if find_spec("pyarrow") is not None:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    # The reference, too, in a child: torch and sqlite must not have started threads in the process that forks.
    finish(bundle, scans, work / "reference", "reference")
    wanted = state(work / "reference")
    deaths = (all_moments if how == "moments" else by_the_clock)(bundle, scans, work, wanted)
    sys.stdout.write(json.dumps({"deaths": deaths, "files": len(wanted)}))


if __name__ == "__main__":
    main()
