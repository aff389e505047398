"""Run by test_killed.py in a process of its own: predicts a folder in child processes that die by SIGKILL at chosen moments.

usage: python -m tests.inference.crash_driver BUNDLE FEW_SCANS MANY_SCANS WORK

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
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel  # noqa: F401
import torch

from pipeline.bundles.bundle import load_bundle
from pipeline.inference import folder, journal, worker
from pipeline.inference.crew import LIMIT_VARIABLE, MACHINE_VARIABLE
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import open_file

KEY = Pseudonyms(b"a site key for tests")
_STRIDE = int(os.environ.get("OCUSEG_TEST_STRIDE", "5"))
"""1: a death at every single step, which takes minutes."""
_LIMIT_S = 2.0
WHOLE = {"case.json", "image_000.png", "mask_000.png", "mask.nii.gz", "probabilities.npz", "uncertainty_000.png"}


def state(out: Path) -> dict[str, str]:
    """Every file of OUT with its hash, less the journal, which has times, and the time in run.json at which all began."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir() or path.name == "journal.sqlite":
            continue
        content = path.read_bytes()
        if path.name == "run.json":
            content = json.dumps({**json.loads(content), "started": ""}).encode()
        found[path.relative_to(out).as_posix()] = hashlib.sha256(content).hexdigest()
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

    # Every file and folder, published entries and the journal among them, reaches its name by one of the first three.
    for holder, names in ((os, ("replace", "rename", "mkdir")), (shutil, ("rmtree",)), (journal.Journal, ("save", "export"))):
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
    """Deaths at steps of the whole run, each followed by one start that must finish the work."""
    for deaths, moment in enumerate(itertools.count(0, _STRIDE)):
        out = work / f"moment{moment}"

        def killed(moment: int = moment, out: Path = out) -> None:
            die_at(moment)
            predict(bundle, scans, out)

        if status_of(in_child(killed)) != -signal.SIGKILL:
            check(wanted, out, f"moment {moment} (never reached)")
            return deaths
        for case in (out / "cases").glob("*"):
            if {p.name for p in case.iterdir()} != WHOLE:
                raise SystemExit(f"moment {moment}: case folder {case.name} is incomplete")
        finish(bundle, scans, out, f"moment {moment}")
        check(wanted, out, f"moment {moment}")
    raise AssertionError


def by_a_crew(bundle: Path, scans: Path, work: Path, wanted: dict[str, str]) -> int:
    """Three workers on one OUT, as if on two machines; twice one of them dies in the middle of it, and another one comes in its place."""
    generator, out, deaths = random.Random(7), work / "crew", 0
    os.environ[LIMIT_VARIABLE] = str(_LIMIT_S)

    def hired(number: int) -> int:
        def at_work() -> None:
            os.environ[MACHINE_VARIABLE] = f"machine {number % 2}"
            predict(bundle, scans, out)

        return in_child(at_work)

    crew = [hired(number) for number in range(3)]
    try:
        for done in (4, 12):
            while len(list((out / "cases").glob("*"))) < done:
                time.sleep(0.002)
            chosen = generator.randrange(len(crew))
            os.kill(crew[chosen], signal.SIGKILL)
            deaths += status_of(crew[chosen]) == -signal.SIGKILL
            crew[chosen] = hired(chosen + deaths)
        ends = [status_of(pid) for pid in crew]
    finally:
        for pid in crew:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if any(ends):
        raise SystemExit(f"crew: workers ended with {ends}")
    time.sleep(_LIMIT_S)  # from here on the dead ones are known as such, and a last call removes what they had begun
    finish(bundle, scans, out, "crew")
    check(wanted, out, "crew")
    return deaths


def main() -> None:
    bundle, few, many, work = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    worker.Pool = InThisProcess  # starting processes that decode would cost a second a death
    # Imports take seconds; once here, not in every child.
    load_bundle(bundle).task  # noqa: B018
    if find_spec("pyarrow") is not None:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    # The reference, too, in a child: torch and sqlite must not have started threads in the process that forks.
    answer = {}
    for how, scans, kill in (("moments", few, all_moments), ("crew", many, by_a_crew)):
        reference = work / f"reference_{how}"
        finish(bundle, scans, reference, how)
        wanted = state(reference)
        answer |= {how: kill(bundle, scans, work, wanted), f"files_{how}": len(wanted)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
